//! Tests that a monitor that is killed loses nothing that its guest has flushed.

use std::fs::File;

use hearth_test_guest::client::Line;
use hearth_test_guest::pattern::Random;
use hearth_vmm_api::config::DiskSource;

use crate::support::{Guest, Machine, Metal, disk, rounds};

const MIB: u64 = 1 << 20;
/// Number of blocks of 4 KiB to which each round writes.
const BLOCKS: u64 = 512;
/// Number of records of a round: more than can be written before the monitor is killed.
const RECORDS: u64 = 100_000;

/// Writes records on disk `device` until a randomly chosen one is durable; returns the number of records known to be
/// durable.
fn write_for_a_while(guest: &Guest, device: &str, round: u64) -> u64 {
    let mut random = Random::new(round);
    let enough = 1 + random.below(400);
    let first = round * BLOCKS;
    let command = format!("blk-write {device} {round} {RECORDS} {first} {}", first + BLOCKS);
    let mut writing = guest.start(&command);
    loop {
        match writing.next_line().unwrap() {
            Line::Progress(line) => {
                let flushed: u64 = line.strip_prefix("flushed ").unwrap().parse().unwrap();
                if flushed >= enough {
                    return flushed;
                }
            }
            Line::Last(result) => panic!("the guest stopped writing: {result:?}"),
        }
    }
}

fn loses_nothing(sources: &dyn Fn() -> DiskSource) {
    let Some(metal) = Metal::find() else { return };
    let boot = || {
        let mut machine = Machine::new(&metal);
        machine.config.disks = vec![disk(sources(), "durable")];
        machine.boot()
    };
    let mut durable = Vec::new();
    for round in 0..u64::from(rounds(3, 20)) {
        let guest = boot();
        for (round, flushed) in (0..).zip(&durable) {
            let first = round * BLOCKS;
            guest.run(&format!("blk-check vda {round} {RECORDS} {first} {} {flushed}", first + BLOCKS));
        }
        durable.push(write_for_a_while(&guest, "vda", round));
        guest.kill();
    }
    let guest = boot();
    for (round, flushed) in (0..).zip(&durable) {
        let first = round * BLOCKS;
        guest.run(&format!("blk-check vda {round} {RECORDS} {first} {} {flushed}", first + BLOCKS));
    }
    guest.power_off();
}

fn disk_size() -> u64 {
    u64::from(rounds(3, 20)) * BLOCKS * 4096 + MIB
}

#[test]
fn killing_the_monitor_loses_nothing_that_was_flushed_to_an_overlay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let open =
        |name| File::options().create(true).truncate(false).read(true).write(true).open(path(name)).unwrap();
    let base = crate::support::patterned(&path("base"), 1, disk_size());
    loses_nothing(&|| DiskSource::Overlay {
        base: base.try_clone().unwrap(),
        layers: Vec::new(),
        overlay: open("overlay"),
    });
}

#[test]
fn killing_the_monitor_loses_nothing_that_was_flushed_to_a_raw_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = crate::support::patterned(&folder.path().join("disk"), 1, disk_size());
    loses_nothing(&|| DiskSource::Writable(disk.try_clone().unwrap()));
}
