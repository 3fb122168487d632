//! Tests of a working guest, and of what it keeps in its memory. The tests of snapshots rely on both.

use std::collections::HashSet;

use hearth_test_guest::work::{Kind, Status};
use hearth_vmm_api::config::DiskSource;

use crate::support::{Guest, Machine, Metal, assert_clean_ext4, disk, ext4};

const MIB: u64 = 1 << 20;

/// Boots a guest with two vCPUs, a raw disk, and a disk with a file system.
fn boot(metal: &Metal) -> Guest {
    let mut machine = Machine::new(metal);
    machine.config.vcpus = 2;
    let raw = machine.disk_file("raw", 3, 8 * MIB);
    let files = ext4(&machine.folder.path().join("files"));
    machine.config.disks =
        vec![disk(DiskSource::Writable(raw), "raw"), disk(DiskSource::Writable(files), "files")];
    machine.boot()
}

fn numbers(answer: &str) -> Vec<u64> {
    answer.split(' ').map(|word| word.parse().unwrap()).collect()
}

#[test]
fn work_goes_on_after_a_pause_and_leaves_a_clean_file_system() {
    let Some(metal) = Metal::find() else { return };
    let guest = boot(&metal);
    guest.attempt("work-check").unwrap_err();
    guest.run("work-start vda");
    guest.run("mount-work vdb");
    let mut before = guest.work("work-check");
    for _ in 0..3 {
        guest.client().pause().unwrap();
        guest.client().resume().unwrap();
        let after = guest.work("work-check");
        for kind in Kind::ALL {
            assert!(after.count(kind) > before.count(kind), "{kind:?}: from {before} to {after}");
        }
        before = after;
    }
    guest.work("work-status");
    let last = guest.work("work-stop");
    assert!(last.count(Kind::Files) >= before.count(Kind::Files), "{last}");
    assert_clean_ext4(&guest.folder.path().join("files"));
    // The work can be started again.
    guest.run("mount-work vdb");
    assert_eq!(guest.work("work-check").count(Kind::Block), None);
    guest.work("work-stop");
    let copy = guest.folder.path().join("copy");
    guest.copy_disk("vdb", &copy);
    assert_clean_ext4(&copy);
    assert_eq!(guest.run("dmesg-grep stall,BUG,lockup,hung,Oops"), "0");
    guest.power_off();
}

#[test]
fn work_that_finds_wrong_data_says_so() {
    let Some(metal) = Metal::find() else { return };
    let guest = boot(&metal);
    guest.run("work-start vda");
    guest.work("work-check");
    // This overwrites all of the disk on which the work checks its data.
    guest.run("blk-bench vda write 262144 4194304");
    let reason = loop {
        if let Err(reason) = guest.attempt("work-check") {
            break reason;
        }
    };
    let status: Status = reason.parse().unwrap();
    assert!(status.errors > 0 && status.first_error.starts_with("block: sector "), "{status}");
    let stopped: Status = guest.run("work-stop").parse().unwrap();
    assert_eq!(stopped.first_error, status.first_error);
    guest.power_off();
}

#[test]
fn a_guest_knows_what_its_memory_holds() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.attempt("nonce-get").unwrap_err();
    guest.run("nonce-set 00c0ffee");
    assert_eq!(guest.run("nonce-get"), "00c0ffee");
    assert_eq!([guest.run("pid-counter"), guest.run("pid-counter")], ["1", "2"]);

    assert_eq!(guest.run("mem-random 8 1"), "2048");
    assert_eq!(guest.run("mem-random 4 2"), "3072");
    assert_eq!(guest.run("mem-check"), "3072");
    assert_eq!(guest.run("mem-dirty 300 3"), "300");
    assert_eq!(guest.run("mem-zero 100 4"), "100");
    assert_eq!(guest.run("mem-check"), "3072");
    assert_eq!(guest.run("mem-dirty 1000000 5"), "3072");
    assert_eq!(guest.run("mem-check"), "3072");
    guest.run("mem-fill 2");
    assert_eq!(guest.run("mem-free"), "14");
    assert_eq!(guest.run("mem-check"), "0");
    guest.power_off();
}

#[test]
fn a_guest_tells_its_clocks_timers_interrupts_and_random_numbers() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    machine.argument("some.word=1");
    let guest = machine.boot();
    assert!(guest.run("cmdline").ends_with(" some.word=1"));

    let (first, second) = (numbers(&guest.run("clocks")), numbers(&guest.run("clocks")));
    assert!(first.len() == 3 && first.iter().zip(&second).all(|(a, b)| a < b), "{first:?} {second:?}");

    let ticks = numbers(&guest.run("interrupts arch_timer"))[0];
    let storm = numbers(&guest.run("timer-storm 200"));
    // The numbers depend on how busy the machine is.
    assert!(storm.len() == 2 && storm[0] >= 1 && storm[0] <= storm[1], "{storm:?}");
    assert!(numbers(&guest.run("interrupts arch_timer"))[0] > ticks);
    guest.attempt("interrupts no-such-interrupt").unwrap_err();

    let random =
        ["urandom 16", "urandom 16", "getrandom 16", "getrandom 16"].map(|command| guest.run(command));
    assert!(random.iter().all(|hex| hex.len() == 32), "{random:?}");
    assert_eq!(random.iter().collect::<HashSet<_>>().len(), random.len());
    assert!(numbers(guest.run("dmesg-grep Linux,arch_timer").split(' ').next().unwrap())[0] > 0);
    guest.power_off();
}
