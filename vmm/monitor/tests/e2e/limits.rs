//! Tests that a disk keeps to its limits through snapshots. A bucket here takes a day to fill: what passes is counted, not timed.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use hearth_test_guest::client::Command;
use hearth_vmm_api::config::rate_limiter::{BucketConfig, DeviceLimits, MAX_REFILL_MS, RateLimiterConfig};
use hearth_vmm_api::config::{DiskConfig, DiskSource};
use hearth_vmm_client::{Limited, SaveKind};

use crate::support::{Guest, Machine, Metal, Saved, until};

/// Bytes that a disk lets through.
const ALLOWED: u64 = 1 << 20;
/// Bytes that the guest wants to write, in requests of [`BLOCK`] bytes.
const WANTED: u64 = 4 * ALLOWED;
const BLOCK: u64 = 64 << 10;

fn limits(bytes: u64) -> DeviceLimits {
    let bytes = Some(BucketConfig { size: bytes, one_time_burst: 0, refill_ms: MAX_REFILL_MS });
    DeviceLimits { disk: Some(RateLimiterConfig { bytes, ops: None }), ..DeviceLimits::default() }
}

fn restore(metal: &Metal, saved: &Saved, disk: &File, limits: Option<DeviceLimits>) -> Guest {
    let mut clone = saved.clone_on(metal).disks(vec![DiskSource::Writable(disk.try_clone().unwrap())]);
    clone.config.limits = limits;
    clone.restore()
}

fn write(guest: &Guest) -> Command {
    guest.start(&format!("blk-bench vda write {BLOCK} {WANTED}"))
}

/// Waits until a request has to wait, and checks that just what is allowed has been written before it.
fn assert_held_back(guest: &Guest) {
    until("a request that waits", || guest.counter("disk0", "throttled") > 0);
    assert_eq!(guest.counter("disk0", "write_bytes"), ALLOWED);
}

#[test]
fn a_restored_disk_keeps_to_the_limit_of_its_restore_and_a_suspended_one_to_its_own() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    let disk = machine.empty_file("disk");
    disk.set_len(2 * WANTED).unwrap();
    let source = DiskSource::Writable(disk.try_clone().unwrap());
    let rate_limiter = limits(2 * ALLOWED).disk;
    machine.config.disks = vec![DiskConfig { source, serial: "limited".into(), rate_limiter, room: None }];
    let guest = machine.boot();
    let image = guest.save(SaveKind::Full);
    guest.kill();

    let guest = restore(&metal, &image, &disk, Some(limits(ALLOWED)));
    let described = |guest: &Guest| guest.client().status().unwrap().disks[0].rate_limiter;
    assert_eq!(described(&guest), limits(ALLOWED).message().disk);
    let writing = write(&guest);
    assert_held_back(&guest);
    // What waits for the bucket is not in flight: neither a pause nor a save waits for it.
    let suspended = guest.save(SaveKind::Diff);
    guest.client().resume().unwrap();
    assert_eq!(guest.counter("disk0", "write_bytes"), ALLOWED, "a pause fills no bucket");
    assert_eq!(guest.client().set_limits(limits(ALLOWED)).unwrap(), Limited::All);
    assert_eq!(guest.counter("disk0", "write_bytes"), ALLOWED, "the same limit again fills no bucket");
    assert_eq!(guest.client().set_limits(DeviceLimits::default()).unwrap(), Limited::All);
    writing.finish().unwrap().unwrap();
    assert_eq!(guest.counter("disk0", "write_bytes"), WANTED);
    assert_eq!(described(&guest), None);
    guest.power_off();

    // Without limits for its restore a machine has those that it was saved with, with full buckets: the request that waited then,
    // and those behind it, go on until they are empty.
    let guest = restore(&metal, &suspended, &disk, None);
    assert_eq!(described(&guest), limits(ALLOWED).message().disk);
    assert_held_back(&guest);
    guest.kill();
}

/// A guest that is out of room is paused, saved and restarted like any other, loses nothing, and goes on when it has room.
#[test]
fn a_disk_takes_no_more_storage_than_it_may_and_its_writes_wait() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    let disk = machine.empty_file("disk");
    disk.set_len(2 * WANTED).unwrap();
    let taken = || disk.metadata().unwrap().blocks() * 512;
    let source = DiskSource::Writable(disk.try_clone().unwrap());
    machine.config.disks =
        vec![DiskConfig { source, serial: "bounded".into(), rate_limiter: None, room: Some(ALLOWED) }];
    let guest = machine.boot();
    let writing = write(&guest);
    until("a write that waits for room", || guest.counter("disk0", "out_of_room") > 0);
    assert!(taken() <= ALLOWED + BLOCK, "{} bytes", taken());

    let suspended = guest.save(SaveKind::Full);
    guest.client().resume().unwrap();
    assert!(taken() <= ALLOWED + BLOCK, "{} bytes", taken());
    let room = |room| DeviceLimits { room, ..DeviceLimits::default() };
    assert_eq!(guest.client().set_limits(room(Some(2 * ALLOWED))).unwrap(), Limited::All);
    until("more is written", || taken() > ALLOWED + BLOCK);
    assert!(taken() <= 2 * ALLOWED + BLOCK, "{} bytes", taken());
    assert_eq!(guest.client().set_limits(room(None)).unwrap(), Limited::All);
    writing.finish().unwrap().unwrap();
    assert_eq!((guest.counter("disk0", "write_bytes"), guest.counter("disk0", "errors")), (WANTED, 0));
    guest.power_off();

    // A snapshot has no bound of its own: what waited then is written.
    let guest = restore(&metal, &suspended, &disk, None);
    assert_eq!(guest.client().status().unwrap().disks[0].room_bytes, None);
    until("all is written", || guest.counter("disk0", "write_bytes") > 0);
    guest.kill();
}
