//! Tests of disks: whatever the guest writes to them, they have the right contents.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use hearth_test_guest::disk_model::{self, SECTOR};
use hearth_test_guest::pattern;
use hearth_vmm_api::config::DiskSource;

use crate::support::{Machine, Metal, disk, rounds};

const MIB: u64 = 1 << 20;
/// Sizes of the disks in bytes: multiples of a sector, but of no larger unit.
const OVERLAID: u64 = 24 * MIB + 512;
const RAW: u64 = 16 * MIB + 3 * 512;
/// Number of threads that send requests to one disk.
const WORKERS: u64 = 4;

fn requests() -> u64 {
    u64::from(rounds(500, 20_000))
}

#[test]
fn disks_under_random_requests_hold_what_the_model_says() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let base = machine.disk_file("base", 11, OVERLAID);
    let overlay = machine.empty_file("overlay");
    let raw = machine.disk_file("raw", 22, RAW);
    machine.config.disks = vec![
        disk(
            DiskSource::Overlay { base: base.try_clone().unwrap(), layers: Vec::new(), overlay },
            "overlaid",
        ),
        disk(DiskSource::Writable(raw.try_clone().unwrap()), "raw"),
    ];
    let guest = machine.boot();
    assert_eq!(guest.run("blk-info vda"), format!("{} 0 overlaid", OVERLAID / 512));
    assert_eq!(guest.run("blk-info vdb"), format!("{} 0 raw", RAW / 512));

    // Both disks are busy at the same time, because they share the monitor's device thread.
    let overlaid = guest.start(&format!("blk-fuzz vda 1000 11 {} {WORKERS}", requests()));
    let written = guest.start(&format!("blk-fuzz vdb 2000 22 {} {WORKERS}", requests()));
    overlaid.finish().unwrap().unwrap();
    written.finish().unwrap().unwrap();
    guest.run("sync");
    for (group, name) in [("disk0", "reads"), ("disk0", "writes"), ("disk1", "flushes")] {
        assert!(guest.counter(group, name) > 0, "{group} counts no {name}");
    }
    guest.power_off();

    assert_holds_stream(&base, 11, OVERLAID);
    assert_holds_model(&raw, 2000, 22);
}

/// Checks that the file of a base is unchanged.
fn assert_holds_stream(mut file: &File, seed: u64, bytes: u64) {
    let mut content = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((content.len() as u64, pattern::mismatch(seed, 0, &content)), (bytes, None));
}

/// Checks, without the guest, that a raw disk's file has the contents that follow from the guest's requests.
fn assert_holds_model(file: &File, seed: u64, base_seed: u64) {
    for mut model in disk_model::models(seed, base_seed, RAW / SECTOR as u64, WORKERS) {
        for _ in 0..requests() {
            model.next_request();
        }
        let sectors = model.sectors();
        let mut content = vec![0; usize::try_from(sectors.end - sectors.start).unwrap() * SECTOR];
        file.read_exact_at(&mut content, sectors.start * SECTOR as u64).unwrap();
        model.check(sectors.start, &content).unwrap();
    }
}

#[test]
fn an_overlay_keeps_what_was_written_for_the_next_machine() {
    let Some(metal) = Metal::find() else { return };
    let machine = Machine::new(&metal);
    let (base, overlay) = (machine.disk_file("base", 5, 8 * MIB), machine.empty_file("overlay"));
    let source = || DiskSource::Overlay {
        base: base.try_clone().unwrap(),
        layers: Vec::new(),
        overlay: overlay.try_clone().unwrap(),
    };
    let boot = |mut machine: Machine| {
        machine.config.disks = vec![disk(source(), "kept")];
        machine.boot()
    };
    let first = boot(machine);
    first.run("blk-verify vda 5");
    first.run("blk-write vda 77 300 0 1024");
    first.power_off();
    let second = boot(Machine::new(&metal));
    second.run("blk-check vda 77 300 0 1024 300");
    second.power_off();
    assert_holds_stream(&base, 5, 8 * MIB);
}

#[test]
fn a_read_only_disk_can_be_read_but_not_written() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.disk_file("image", 9, 2 * MIB);
    let image = File::open(machine.folder.path().join("image")).unwrap();
    let serial = "twenty-bytes-long-id";
    machine.config.disks = vec![disk(DiskSource::ReadOnly(image.try_clone().unwrap()), serial)];
    let guest = machine.boot();
    assert_eq!(guest.run("blk-info vda"), format!("{} 1 {serial}", 2 * MIB / 512));
    guest.run("blk-verify vda 9");
    guest.attempt("blk-poke vda 0 1").unwrap_err();
    guest.run("blk-verify vda 9");
    guest.power_off();
    assert_holds_stream(&image, 9, 2 * MIB);
}

#[test]
fn eight_disks_are_found_in_their_order() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    for number in 0..8 {
        let file = machine.disk_file(&format!("disk{number}"), number, (number + 1) * MIB);
        machine.config.disks.push(disk(DiskSource::Writable(file), &format!("disk-{number}")));
    }
    let guest = machine.boot();
    for (number, letter) in (0..8).zip('a'..) {
        let sectors = (number + 1) * MIB / 512;
        assert_eq!(guest.run(&format!("blk-info vd{letter}")), format!("{sectors} 0 disk-{number}"));
        guest.run(&format!("blk-verify vd{letter} {number}"));
    }
    guest.power_off();
}
