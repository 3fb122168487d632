//! Tests of the block device from the driver's side.
//!
//! * [`crashes`] – the contents of the disk after the monitor or the host died
//! * [`layers`] – frozen layers below the overlay
//! * [`limits`] – rates, and the bound on storage
//! * [`merges`] – layers that are merged into one

mod crashes;
mod layers;
mod limits;
mod merges;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use hearth_proto::vmm::v1::{SavedBalloon, saved_virtio};
use hearth_vmm_api::config::{DiskConfig, DiskSource};
use virtio_bindings::virtio_blk as blk;

use super::testing::{
    DATA, Guest, IO_ERROR, OK, STATUSES, UNSUPPORTED, config, disk_file, memory_file, overlay,
};
use super::{Block, SECTOR_SIZE};
use crate::devices::virtio::persist::RestoreError;
use crate::devices::virtio::testing::Buffer;
use crate::devices::virtio::{DeviceError, VIRTIO_F_VERSION_1, VirtioDevice as _};

const MIB: u64 = 1 << 20;

fn writable(size: u64) -> (std::fs::File, Guest) {
    let file = disk_file(size);
    let guest = Guest::new(config(DiskSource::Writable(file.try_clone().unwrap())));
    (file, guest)
}

#[test]
fn what_a_driver_writes_is_in_the_file_and_comes_back() {
    let (file, mut guest) = writable(MIB);
    assert_eq!(guest.write(7, &[0x5a; 1024]), OK);
    assert_eq!(guest.flush(), OK);
    let mut bytes = [0; 1024 + 2];
    file.read_exact_at(&mut bytes, 7 * SECTOR_SIZE - 1).unwrap();
    assert_eq!((bytes[0], bytes[1], bytes[1024], bytes[1025]), (0, 0x5a, 0x5a, 0));
    assert_eq!(guest.read(6, 2048), [[0; 512], [0x5a; 512], [0x5a; 512], [0; 512]].concat());
    let counters = ["reads", "writes", "read_bytes", "write_bytes", "flushes", "errors"];
    assert_eq!(counters.map(|name| guest.counter(name)), [1, 1, 2048, 1024, 1, 0]);
    assert_ne!(guest.rig.interrupt.status(), 0);
}

#[test]
fn the_configuration_space_describes_the_disk() {
    let (_, guest) = writable(3 * MIB);
    let field = |offset, length: usize| {
        let mut bytes = [0; 8];
        guest.rig.device.read_config(offset, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!((field(0, 8), field(12, 4), field(20, 4)), (3 * 2048, 254, 512));
    assert_eq!((field(24, 1), field(25, 1), field(26, 2), field(28, 4)), (3, 0, 8, 0));
    assert_eq!((field(36, 4), field(40, 4), field(44, 4)), (1 << 21, 16, 8));
    assert_eq!((field(48, 4), field(52, 4), field(56, 1), field(60, 4)), (1 << 16, 16, 1, 0));
    let features = guest.rig.device.offered_features();
    let has = |bit: u32| features >> bit & 1 == 1;
    assert!(has(blk::VIRTIO_BLK_F_FLUSH) && has(blk::VIRTIO_BLK_F_DISCARD) && !has(blk::VIRTIO_BLK_F_RO));
}

#[test]
fn a_disk_of_another_size_is_not_the_one_of_the_snapshot() {
    let (_, mut guest) = writable(3 * MIB);
    let saved = guest.rig.device.save().unwrap();
    guest.rig.device.restore(&saved).unwrap();
    let (_, mut other) = writable(4 * MIB);
    let message = other.rig.device.restore(&saved).unwrap_err().to_string();
    assert!(message.contains("6144 sectors") && message.contains("has 8192"), "{message}");
    let balloon = saved_virtio::Device::Balloon(SavedBalloon::default());
    assert!(matches!(guest.rig.device.restore(&balloon), Err(RestoreError::Part)));
}

#[test]
fn a_read_only_disk_says_so_and_refuses_every_change() {
    let file = disk_file(MIB);
    file.write_all_at(b"base", 512).unwrap();
    let mut guest = Guest::new(config(DiskSource::ReadOnly(file)));
    let features = guest.rig.device.offered_features();
    assert_eq!(features >> blk::VIRTIO_BLK_F_RO & 1, 1);
    assert_eq!(features >> blk::VIRTIO_BLK_F_FLUSH & 1, 0);
    assert_eq!(guest.read(1, 512)[..4], *b"base");
    assert_eq!(guest.write(1, &[1; 512]), IO_ERROR);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), IO_ERROR);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]), IO_ERROR);
    assert_eq!(guest.flush(), OK);
    assert_eq!(guest.read(1, 512)[..4], *b"base");
    assert_eq!(guest.counter("errors"), 3);
}

#[test]
fn requests_that_make_no_sense_are_answered_with_an_error() {
    let (_, mut guest) = writable(MIB);
    let read = |length| [Buffer::Write(DATA, length)];
    let wrong = [
        (blk::VIRTIO_BLK_T_IN, 2048, 512, IO_ERROR),
        (blk::VIRTIO_BLK_T_IN, 2047, 1024, IO_ERROR),
        (blk::VIRTIO_BLK_T_IN, u64::MAX, 512, IO_ERROR),
        (blk::VIRTIO_BLK_T_IN, 0, 511, IO_ERROR),
        (blk::VIRTIO_BLK_T_GET_ID, 0, 19, IO_ERROR),
        (blk::VIRTIO_BLK_T_SECURE_ERASE, 0, 512, UNSUPPORTED),
        (blk::VIRTIO_BLK_T_SCSI_CMD, 0, 512, UNSUPPORTED),
        (0xffff_ffff, 0, 512, UNSUPPORTED),
    ];
    for (kind, sector, length, status) in wrong {
        assert_eq!(guest.request(kind, sector, &read(length)), (status, 0), "{kind} {sector} {length}");
    }
    for (sector, length) in [(2048, 512), (u64::MAX / 512, 512), (0, 513)] {
        guest.put(DATA, &[1; 1024]);
        let answer = guest.request(blk::VIRTIO_BLK_T_OUT, sector, &[Buffer::Read(DATA, length)]);
        assert_eq!(answer, (IO_ERROR, 1));
    }
    let limit = 1 << 16;
    type Segment = (u64, u32, u32);
    let segments: [(u32, &[Segment], u8); 7] = [
        (blk::VIRTIO_BLK_T_DISCARD, &[], IO_ERROR),
        (blk::VIRTIO_BLK_T_DISCARD, &[(0, 8, 1)], UNSUPPORTED),
        (blk::VIRTIO_BLK_T_DISCARD, &[(0, 8, 0), (2047, 2, 0)], IO_ERROR),
        (blk::VIRTIO_BLK_T_DISCARD, &[(0, 1, 0); 17], IO_ERROR),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 2)], UNSUPPORTED),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, &[(u64::MAX, 1, 0)], IO_ERROR),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, &[(0, limit + 1, 0)], IO_ERROR),
    ];
    for (kind, segments, status) in segments {
        assert_eq!(guest.segments(kind, segments), status, "{kind} {segments:?}");
    }
    let odd = [Buffer::Read(DATA, 17)];
    assert_eq!(guest.request(blk::VIRTIO_BLK_T_DISCARD, 0, &odd).0, IO_ERROR);
    let (header, status) = guest.prepare(blk::VIRTIO_BLK_T_IN, 0);
    guest.rig.queues[0].add(&[Buffer::Read(header, 15), Buffer::Write(status, 1)]);
    guest.notify();
    assert_eq!((guest.wait(), guest.get(status, 1)[0]), (1, IO_ERROR));
    assert_eq!(guest.counter("errors"), 20);
    assert_eq!(guest.read(0, 512), [0; 512]);
}

#[test]
fn a_request_without_room_for_its_status_stops_the_device() {
    let (_, mut guest) = writable(MIB);
    let (header, _) = guest.prepare(blk::VIRTIO_BLK_T_OUT, 0);
    guest.rig.queues[0].add(&[Buffer::Read(header, 16), Buffer::Read(DATA, 512)]);
    let error = guest.rig.device.queue_notified(0).unwrap_err();
    assert!(matches!(error, DeviceError::Protocol(_)), "{error}");
    guest.rig.device.reset();
}

#[test]
fn a_request_may_be_cut_into_descriptors_in_any_way() {
    let (_, mut guest) = writable(MIB);
    let data: Vec<u8> = (0..1024u32).map(|n| n.to_le_bytes()[0]).collect();
    guest.put(DATA, &data);
    let (header, status) = guest.prepare(blk::VIRTIO_BLK_T_OUT, 3);
    // The header is in two parts, the second adjacent to the first data.
    guest.put(DATA - 8, &guest.get(header + 8, 8));
    guest.rig.queues[0].add(&[
        Buffer::Read(header, 8),
        Buffer::Read(DATA - 8, 8 + 100),
        Buffer::Read(DATA + 100, 1),
        Buffer::Read(DATA + 101, 923),
        Buffer::Write(status, 1),
    ]);
    guest.notify();
    assert_eq!((guest.wait(), guest.get(status, 1)[0]), (1, OK));
    let (header, _) = guest.prepare(blk::VIRTIO_BLK_T_IN, 3);
    let target = DATA + 0x10_0000;
    // The status byte is adjacent to the last data.
    guest.rig.queues[0].add(&[
        Buffer::Read(header, 16),
        Buffer::Write(target, 1000),
        Buffer::Write(target + 1000, 24 + 1),
    ]);
    guest.notify();
    assert_eq!(guest.wait(), 1025);
    assert_eq!(guest.get(target, 1025), [&data[..], &[OK]].concat());
}

#[test]
fn the_serial_number_is_padded_with_zeros() {
    let (_, mut guest) = writable(MIB);
    assert_eq!(guest.request(blk::VIRTIO_BLK_T_GET_ID, 0, &[Buffer::Write(DATA, 20)]), (OK, 21));
    assert_eq!(guest.get(DATA, 20), *b"disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    for serial in ["123456789012345678901", "tab\t", "ä"] {
        let config = DiskConfig { serial: serial.into(), ..config(DiskSource::ReadOnly(disk_file(512))) };
        let message = Block::new(config).unwrap_err().to_string();
        assert!(message.contains("at most 20 bytes"), "{message}");
    }
}

#[test]
fn an_overlay_takes_the_writes_and_the_base_stays_as_it_was() {
    let (base, top) = (disk_file(4 * MIB), disk_file(0));
    let pattern: Vec<u8> = (0..4 * MIB).map(|n| u8::try_from(n / 512 % 251).unwrap()).collect();
    base.write_all_at(&pattern, 0).unwrap();
    let mut expected = pattern.clone();
    let mut guest = Guest::new(overlay(&base, &top));
    // Every other sector is written: a read of all sectors takes more operations than can be in progress at a time.
    for sector in (0..256).step_by(2) {
        assert_eq!(guest.write(sector, &[0xaa; 512]), OK);
        expected[sector as usize * 512..][..512].fill(0xaa);
    }
    assert_eq!(guest.read(0, 300 * 512), expected[..300 * 512]);
    assert_eq!(guest.read(255, 1024), expected[255 * 512..][..1024]);
    let mut after = vec![0; pattern.len()];
    base.read_exact_at(&mut after, 0).unwrap();
    assert!(after == pattern, "the base was written");
}

#[test]
fn what_was_flushed_survives_the_end_of_the_process_and_what_was_not_may_not() {
    let (base, top) = (disk_file(64 * MIB), disk_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    let far = 3 * 32768 + 5;
    assert_eq!((guest.write(1, &[1; 512]), guest.write(far, &[2; 1024]), guest.flush()), (OK, OK, OK));
    assert_eq!(guest.write(9, &[3; 512]), OK);
    drop(guest);
    let mut guest = Guest::new(overlay(&base, &top));
    assert_eq!((guest.read(1, 512), guest.read(far, 1024)), (vec![1; 512], vec![2; 1024]));
    assert_eq!(guest.read(9, 512), [0; 512], "its bit was never written");
}

#[test]
fn a_driver_that_cannot_flush_gets_every_write_made_durable() {
    let (base, top) = (disk_file(MIB), disk_file(0));
    let block = Block::new(overlay(&base, &top)).unwrap();
    let mut guest = Guest::with_features(block, VIRTIO_F_VERSION_1);
    assert_eq!((guest.write(1, &[1; 512]), guest.write(2, &[2; 512])), (OK, OK));
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(1, 1, 0)]), UNSUPPORTED, "not negotiated");
    drop(guest);
    let mut guest = Guest::new(overlay(&base, &top));
    assert_eq!(guest.read(1, 1024), [[1; 512], [2; 512]].concat());
}

#[test]
fn quiescing_finishes_what_is_under_way_and_makes_it_durable() {
    let (base, top) = (disk_file(16 * MIB), disk_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    guest.put(DATA, &[7; 4096]);
    let statuses: Vec<u64> =
        (0..80).map(|n| guest.offer(blk::VIRTIO_BLK_T_OUT, n * 8, &[Buffer::Read(DATA, 4096)])).collect();
    guest.notify();
    guest.rig.device.quiesce().unwrap();
    let used = std::iter::from_fn(|| guest.rig.queues[0].used()).count();
    assert_eq!((used, guest.counter("writes")), (80, 80));
    assert!(statuses.iter().all(|status| guest.get(*status, 1) == [OK]));
    drop(guest);
    assert_eq!(Guest::new(overlay(&base, &top)).read(0, 80 * 4096), vec![7; 80 * 4096]);
}

#[test]
fn after_a_reset_nothing_is_under_way_and_the_device_starts_again() {
    let (file, mut guest) = writable(16 * MIB);
    file.write_all_at(&[9; 4096], 0).unwrap();
    for _ in 0..80 {
        guest.offer(blk::VIRTIO_BLK_T_IN, 0, &[Buffer::Write(DATA, 4096)]);
    }
    guest.notify();
    guest.rig.device.reset();
    guest.put(DATA, &[0; 4096]);
    guest.rig.device.reset();
    assert_eq!(guest.get(DATA, 4096), [0; 4096]);
    let block =
        std::mem::replace(&mut guest.rig.device, Block::new(config(DiskSource::ReadOnly(file))).unwrap());
    let features = block.offered_features();
    let mut guest = Guest::with_features(block, features);
    assert_eq!(guest.read(0, 4096), [9; 4096]);
}

#[test]
fn more_requests_than_slots_all_come_back() {
    let (base, top) = (memory_file(MIB), memory_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    let tables = DATA + 0x40_0000;
    for n in 0..250 {
        let (header, status) = guest.prepare(blk::VIRTIO_BLK_T_OUT, n * 2);
        guest.put(DATA + n * 512, &[u8::try_from(n).unwrap(); 512]);
        let buffers = [Buffer::Read(header, 16), Buffer::Read(DATA + n * 512, 512), Buffer::Write(status, 1)];
        guest.rig.queues[0].add_indirect(tables + n * 64, &buffers);
    }
    guest.notify();
    (0..250).for_each(|_| assert_eq!(guest.wait(), 1));
    assert_eq!(guest.get(STATUSES, 250), [OK; 250]);
    for n in 0..250 {
        assert_eq!(guest.read(n * 2, 512), [u8::try_from(n).unwrap(); 512]);
    }
}

#[test]
fn many_answers_without_io_all_come_back_from_one_notification() {
    let (_, mut guest) = writable(MIB);
    let tables = DATA + 0x40_0000;
    for n in 0..250 {
        let (header, status) = guest.prepare(blk::VIRTIO_BLK_T_GET_ID, 0);
        let buffers = [Buffer::Read(header, 16), Buffer::Write(DATA, 20), Buffer::Write(status, 1)];
        guest.rig.queues[0].add_indirect(tables + n * 64, &buffers);
    }
    guest.notify();
    (0..250).for_each(|_| assert_eq!(guest.wait(), 21));
}

#[test]
fn a_request_larger_than_the_disk_has_memory_for_is_read_in_parts() {
    let (base, top) = (memory_file(128 * MIB), memory_file(0));
    base.write_all_at(&[4; 512], 128 * MIB - 512).unwrap();
    let mut guest = Guest::new(overlay(&base, &top));
    assert_eq!(guest.write(99, &[3; 512]), OK);
    // All buffers are the same memory: the part that is read last remains.
    let buffers = vec![Buffer::Write(DATA, 1 << 20); 128];
    assert_eq!(guest.request(blk::VIRTIO_BLK_T_IN, 0, &buffers), (OK, (128 << 20) + 1));
    assert_eq!(guest.counter("read_bytes"), 128 * MIB);
}

fn zeroing(base: &std::fs::File, top: Option<&std::fs::File>) {
    base.write_all_at(&vec![1; 4 << 20], 0).unwrap();
    let mut guest = Guest::new(match top {
        Some(top) => overlay(base, top),
        None => config(DiskSource::Writable(base.try_clone().unwrap())),
    });
    assert_eq!(guest.write(4096, &[2; 8192]), OK);
    let mut expected = vec![1; 4 << 20];
    expected[4096 * 512..][..8192].fill(2);
    let requests: [(u32, u64, u32, u32); 4] = [
        (blk::VIRTIO_BLK_T_DISCARD, 8, 64, 0),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 101, 33, 1),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 4100, 9, 0),
        (blk::VIRTIO_BLK_T_WRITE_ZEROES, 1000, 3000, 0),
    ];
    for (kind, sector, sectors, flags) in requests {
        assert_eq!(guest.segments(kind, &[(sector, sectors, flags), (sector + 3, 0, 0)]), OK);
        expected[sector as usize * 512..][..sectors as usize * 512].fill(0);
    }
    let read = |guest: &mut Guest| [guest.read(0, 2 << 20), guest.read(4096, 2 << 20)].concat();
    assert!(read(&mut guest) == expected);
    assert_eq!((guest.counter("discards"), guest.counter("write_zeroes"), guest.flush()), (1, 3, OK));
    drop(guest);
    if let Some(top) = top {
        assert!(read(&mut Guest::new(overlay(base, top))) == expected);
    }
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeros_on_every_kind_of_disk() {
    zeroing(&disk_file(4 * MIB), None);
    zeroing(&disk_file(4 * MIB), Some(&disk_file(0)));
    // tmpfs cannot zero ranges, so zeros are written.
    zeroing(&memory_file(4 * MIB), None);
    zeroing(&memory_file(4 * MIB), Some(&memory_file(0)));
}

#[test]
fn a_discard_gives_storage_back() {
    let (base, top) = (disk_file(16 * MIB), disk_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    for n in 0..8 {
        assert_eq!(guest.write(n * 2048, &vec![1; 1 << 20]), OK);
    }
    assert_eq!(guest.flush(), OK);
    assert!(top.metadata().unwrap().blocks() >= 8 * 2048);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(0, 8 * 2048, 0)]), OK);
    assert_eq!(guest.flush(), OK);
    assert!(top.metadata().unwrap().blocks() < 2048);
    assert_eq!(guest.read(100, 512), [0; 512]);
}

#[test]
fn a_disk_that_lost_its_end_answers_with_an_error() {
    let (file, mut guest) = writable(MIB);
    file.set_len(1024).unwrap();
    assert_eq!(guest.read(0, 1024), [0; 1024]);
    assert_eq!(guest.request(blk::VIRTIO_BLK_T_IN, 1, &[Buffer::Write(DATA, 1024)]), (IO_ERROR, 0));
}

#[test]
fn a_flush_that_cannot_be_kept_fails_and_so_does_quiescing() {
    use std::os::fd::AsRawFd as _;
    let (base, top) = (memory_file(MIB), memory_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    assert_eq!((guest.write(1, &[1; 512]), guest.flush(), guest.write(2, &[2; 512])), (OK, OK, OK));
    // SAFETY: the seal takes no pointer.
    let sealed = unsafe { libc::fcntl(top.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
    assert_eq!(sealed, 0);
    assert_eq!((guest.flush(), guest.flush()), (IO_ERROR, IO_ERROR));
    assert_eq!(guest.write(3, &[3; 512]), IO_ERROR);
    assert_eq!(guest.segments(blk::VIRTIO_BLK_T_DISCARD, &[(1, 1, 0)]), IO_ERROR);
    assert_eq!(guest.read(1, 1536), [[1; 512], [2; 512], [0; 512]].concat());
    let message = guest.rig.device.quiesce().unwrap_err().to_string();
    assert!(message.contains("making the disk durable failed"), "{message}");
}

#[test]
fn requests_submitted_by_a_thread_that_ends_are_finished_by_others() {
    let (base, top) = (disk_file(16 * MIB), disk_file(0));
    let mut guest = Guest::new(overlay(&base, &top));
    guest.put(DATA, &[7; 4096]);
    for n in 0..80 {
        guest.offer(blk::VIRTIO_BLK_T_OUT, n * 8, &[Buffer::Read(DATA, 4096)]);
    }
    std::thread::scope(|scope| scope.spawn(|| guest.notify()).join().unwrap());
    guest.rig.device.quiesce().unwrap();
    let used = std::iter::from_fn(|| guest.rig.queues[0].used()).count();
    assert_eq!((used, guest.counter("writes"), guest.counter("errors")), (80, 80, 0));
    assert_eq!(guest.read(0, 80 * 4096), vec![7; 80 * 4096]);
}
