//! Tests of what the block device lets through at a time, and of how much storage its writes may take.

use std::os::unix::fs::MetadataExt as _;

use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::rate_limiter::{BucketConfig, DeviceLimits, MAX_REFILL_MS, RateLimiterConfig};
use virtio_bindings::virtio_blk as blk;

use super::super::testing::{DATA, Guest, OK, config, disk_file, overlay};
use super::MIB;
use crate::devices::virtio::VirtioDevice as _;
use crate::devices::virtio::testing::Buffer;

#[test]
fn a_full_bucket_passes_and_the_rest_waits_for_the_timer() {
    let bucket = |refill_ms| BucketConfig { size: 2, one_time_burst: 0, refill_ms };
    let limited = |refill_ms| RateLimiterConfig { bytes: None, ops: Some(bucket(refill_ms)) };
    let busy = |refill_ms| {
        let mut config = config(DiskSource::Writable(disk_file(MIB)));
        config.rate_limiter = Some(limited(refill_ms));
        let mut guest = Guest::new(config);
        for _ in 0..10 {
            guest.offer(blk::VIRTIO_BLK_T_IN, 0, &[Buffer::Write(DATA, 512)]);
        }
        guest.notify();
        guest
    };
    let mut guest = busy(MAX_REFILL_MS);
    guest.rig.device.quiesce().unwrap();
    let used = |guest: &mut Guest| std::iter::from_fn(|| guest.rig.queues[0].used()).count();
    assert_eq!((used(&mut guest), guest.counter("throttled")), (2, 1));
    guest.notify();
    guest.rig.device.quiesce().unwrap();
    assert_eq!((used(&mut guest), guest.counter("throttled")), (0, 1), "a notification changes nothing");
    let mut guest = busy(4);
    (0..10).for_each(|_| assert_eq!(guest.wait(), 513));
    assert!(guest.counter("throttled") > 1);
}

#[test]
fn bytes_are_limited_too_and_a_large_request_gets_through() {
    let bytes = BucketConfig { size: 1024, one_time_burst: 0, refill_ms: 1 };
    let mut config = config(DiskSource::Writable(disk_file(MIB)));
    config.rate_limiter = Some(RateLimiterConfig { bytes: Some(bytes), ops: None });
    let mut guest = Guest::new(config);
    for _ in 0..3 {
        guest.offer(blk::VIRTIO_BLK_T_IN, 0, &[Buffer::Write(DATA, 64 << 10)]);
    }
    guest.notify();
    (0..3).for_each(|_| assert_eq!(guest.wait(), (64 << 10) + 1));
    assert!(guest.counter("throttled") >= 1);
}

/// Whatever a bucket of a day holds back is there at once under another limit, and a limit that is set again changes nothing.
#[test]
fn a_limit_is_changed_while_requests_wait_for_it() {
    let bucket = |size| BucketConfig { size, one_time_burst: 0, refill_ms: MAX_REFILL_MS };
    let limited = |size| Some(RateLimiterConfig { bytes: Some(bucket(size)), ops: None });
    let mut config = config(DiskSource::Writable(disk_file(MIB)));
    config.rate_limiter = limited(512);
    let mut guest = Guest::new(config);
    for _ in 0..4 {
        guest.offer(blk::VIRTIO_BLK_T_IN, 0, &[Buffer::Write(DATA, 512)]);
    }
    guest.notify();
    assert_eq!(guest.wait(), 513);
    let set = |guest: &mut Guest, disk| {
        guest.rig.device.set_limits(DeviceLimits { disk, ..DeviceLimits::default() }).unwrap();
    };
    set(&mut guest, limited(512));
    assert_eq!((guest.rig.pump(0), guest.counter("read_bytes")), (0, 512), "the bucket is still empty");
    set(&mut guest, limited(1024));
    (0..2).for_each(|_| assert_eq!(guest.wait(), 513));
    guest.rig.device.quiesce().unwrap();
    assert_eq!(guest.counter("read_bytes"), 3 * 512, "what the other limit holds");
    set(&mut guest, None);
    assert_eq!(guest.wait(), 513);
    let refused = DeviceLimits { disk: limited(0), ..DeviceLimits::default() };
    guest.rig.device.set_limits(refused).unwrap_err();
}

/// What waits for room is not in flight, is done in its order when there is room, and what needs none is done before.
#[test]
fn writes_wait_for_room_and_what_takes_none_does_not() {
    let (base, top) = (disk_file(8 * MIB), disk_file(0));
    let mut config = overlay(&base, &top);
    config.room = Some(MIB / 2);
    let mut guest = Guest::new(config);
    let taken = || top.metadata().unwrap().blocks() * 512;
    let data = vec![3; 64 << 10];
    assert_eq!(guest.write(0, &data), OK);
    guest.put(DATA, &data);
    let statuses: Vec<u64> = (1..10)
        .map(|n| guest.offer(blk::VIRTIO_BLK_T_OUT, n * 128, &[Buffer::Read(DATA, 64 << 10)]))
        .collect();
    guest.offer(blk::VIRTIO_BLK_T_IN, 0, &[Buffer::Write(DATA, 512)]);
    guest.notify();
    guest.rig.device.quiesce().unwrap();
    assert!(guest.counter("out_of_room") > 0 && guest.counter("writes") < 10 && guest.counter("reads") == 0);
    assert!(taken() <= MIB / 2, "{} bytes", taken());
    let set = |guest: &mut Guest, room| {
        guest.rig.device.set_limits(DeviceLimits { room, ..DeviceLimits::default() }).unwrap();
    };
    set(&mut guest, Some(MIB));
    while guest.counter("reads") + guest.counter("writes") < 11 {
        guest.wait();
    }
    assert!(statuses.iter().all(|status| guest.get(*status, 1) == [OK]));
    assert_eq!((guest.counter("writes"), guest.counter("errors")), (10, 0));
    // Used up: what is there can be written again, zeros are holes, and what is discarded makes room.
    set(&mut guest, Some(taken()));
    while guest.rig.queues[0].used().is_some() {}
    assert_eq!(guest.write(128, &data), OK);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_WRITE_ZEROES, &[(8192, 4096, 0)]), OK);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(0, 1024, 0)]), OK);
    assert_eq!(guest.write(4096, &data), OK);
}
