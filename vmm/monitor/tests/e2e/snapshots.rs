//! Tests of snapshots: a machine is saved and restored, and everything that the guest was doing continues.

use std::fs::File;
use std::path::Path;

use hearth_test_guest::work::{Kind, Status};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_client::SaveKind;

use crate::support::{
    Clone, Guest, Machine, Metal, Saved, Tap, assert_clean_after_replay, assert_clean_ext4, copy, create,
    disk, ext4,
};

const MIB: u64 = 1 << 20;
const NONCE: &str = "5ca1ab1e0ddba11c";

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

/// Checks that all work has made progress without errors; returns its status.
fn assert_goes_on(guest: &Guest, before: &Status) -> Status {
    let after = guest.work("work-check");
    for kind in Kind::ALL {
        assert!(after.count(kind) > before.count(kind), "{kind:?}: from {before} to {after}");
    }
    after
}

/// Stops the guest's work, and checks that the kernel has reported no problems.
fn stop_work(guest: &Guest) {
    guest.work("work-stop");
    guest.run("sync");
    assert_eq!(guest.run("dmesg-grep stall,BUG,lockup,hung,Oops"), "0");
}

#[test]
fn work_goes_on_in_a_restored_guest_and_in_the_one_that_was_saved() {
    let Some(metal) = Metal::find() else { return };
    let mut tap = Tap::new();
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let base = machine.disk_file("base", 3, 8 * MIB);
    let overlaid = |layers, overlay| DiskSource::Overlay { base: base.try_clone().unwrap(), layers, overlay };
    let files = ext4(&machine.folder.path().join("files"));
    machine.config.disks = vec![
        disk(overlaid(Vec::new(), machine.empty_file("overlay")), "raw"),
        disk(DiskSource::Writable(files), "files"),
    ];
    machine.config.nets = vec![tap.card()];
    let guest = machine.boot();
    guest.run(&format!("net-up eth0 {} 24", tap.guest()));
    guest.echo_through(&tap, MIB);
    guest.run(&format!("nonce-set {NONCE}"));
    guest.run("work-start vda");
    guest.run("mount-work vdb");
    let before = guest.work("work-check");

    // The guest is saved in the middle of its work.
    let saved = guest.save_layers(SaveKind::Full, &[0]);
    let files = saved.folder.path().join("files");
    copy(open(&guest.folder.path().join("files")), &files);

    // The saved guest itself continues.
    guest.client().resume().unwrap();
    assert_goes_on(&guest, &before);
    guest.echo_through(&tap, MIB);
    stop_work(&guest);
    let original = guest.folder.path().join("files");
    let kept = saved.folder.path().join("original");
    copy(open(&original), &kept);
    guest.power_off();
    assert_clean_ext4(&kept);

    // The disk at the moment of the save is as after a power failure: replaying the journal makes it consistent.
    let crashed = saved.folder.path().join("crashed");
    copy(open(&files), &crashed);
    assert_clean_after_replay(&crashed);

    // Another process with other files continues from the snapshot, too.
    let clone = saved.clone_on(&metal);
    let mine = clone.path("files");
    let disks = vec![
        overlaid(vec![open(&saved.layer(0))], create(&clone.path("overlay"))),
        DiskSource::Writable(copy(open(&files), &mine)),
    ];
    let mut clone = clone.disks(disks);
    tap = Tap::instead_of(tap);
    clone.config.taps = vec![tap.file()];
    let clone = clone.restore();
    assert_eq!(clone.run("nonce-get"), NONCE);
    let further = assert_goes_on(&clone, &before);
    clone.echo_through(&tap, MIB);
    assert_goes_on(&clone, &further);
    stop_work(&clone);
    assert_clean_ext4(&mine);
    clone.power_off();
}

#[test]
fn work_goes_on_over_generations_of_suspends_on_overlays() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.vcpus = 2;
    let raw = machine.disk_file("raw", 3, 8 * MIB);
    let files = ext4(&machine.folder.path().join("files"));
    let overlaid = |base: &File, layers, overlay| DiskSource::Overlay {
        base: base.try_clone().unwrap(),
        layers,
        overlay,
    };
    machine.config.disks = vec![
        disk(overlaid(&raw, Vec::new(), machine.empty_file("overlay0")), "raw"),
        disk(overlaid(&files, Vec::new(), machine.empty_file("overlay1")), "files"),
    ];
    let guest = machine.boot();
    guest.run(&format!("nonce-set {NONCE}"));
    guest.run("work-start vda");
    guest.run("mount-work vdb");
    let mut status = guest.work("work-check");
    let image = guest.save_layers(SaveKind::Full, &[0, 1]);
    guest.kill();

    let disks = |snapshots: &[&Saved], clone: &Clone| {
        let disk = |base, index| {
            let layers = snapshots.iter().map(|saved| open(&saved.layer(index))).collect();
            overlaid(base, layers, create(&clone.path(&format!("overlay{index}"))))
        };
        vec![disk(&raw, 0), disk(&files, 1)]
    };
    let clone = image.clone_on(&metal);
    let given = disks(&[&image], &clone);
    let mut guest = clone.disks(given).restore();
    for generation in 1..=3 {
        status = assert_goes_on(&guest, &status);
        // The layer that each suspend adds to a disk contains all changes since the image.
        let suspended = guest.save_layers(SaveKind::Diff, &[0, 1]);
        assert_eq!(suspended.answer.base_id, image.answer.snapshot_id, "generation {generation}");
        guest.kill();
        let clone = suspended.clone_on(&metal);
        let given = disks(&[&image, &suspended], &clone);
        guest = clone.disks(given).restore();
        assert_eq!(guest.run("nonce-get"), NONCE);
    }
    assert_goes_on(&guest, &status);
    stop_work(&guest);
    let all = image.folder.path().join("all");
    guest.copy_disk("vdb", &all);
    assert_clean_ext4(&all);
    guest.power_off();
}

#[test]
fn a_restored_guest_goes_on_where_it_was() {
    let Some(metal) = Metal::find() else { return };
    let guest = Machine::new(&metal).boot();
    guest.run("nonce-set 0123456789abcdef");
    guest.run("mem-fill 16");
    let saved = guest.save(SaveKind::Full);
    guest.client().resume().unwrap();
    assert_eq!(guest.run("ping"), "pong");
    guest.power_off();
    let clone = saved.clone_on(&metal).restore();
    assert_eq!(clone.run("nonce-get"), "0123456789abcdef");
    let diff = clone.save(SaveKind::Diff);
    assert!(diff.memory_on_disk() < 4 << 20, "{:?}", diff.answer);
    clone.kill();
    let again = diff.clone_on(&metal).restore();
    assert_eq!(again.run("nonce-get"), "0123456789abcdef");
    assert_eq!(again.run("mem-free"), "16");
    again.power_off();
}
