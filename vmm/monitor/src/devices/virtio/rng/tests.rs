use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{Buffer, Rig};
use super::super::{VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1};
use super::*;

const FREE: u64 = Rig::<Rng>::FREE;

fn rig(features: u64) -> Rig<Rng> {
    Rig::new(Rng::new().unwrap(), 4 << 20, QUEUE_SIZE, VIRTIO_F_VERSION_1 | features)
}

fn bytes(rig: &Rig<Rng>, address: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    rig.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
    data
}

#[test]
fn every_writable_buffer_is_filled_and_nothing_beside_it() {
    let mut rig = rig(0);
    let head = rig.queues[0].add(&[Buffer::Write(FREE + 16, 100), Buffer::Write(FREE + 0x1000, 64)]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.queues[0].used(), Some((head, 164)));
    assert_eq!(rig.interrupt.status(), 1);
    let (first, second) = (bytes(&rig, FREE, 132), bytes(&rig, FREE + 0x1000, 80));
    assert_eq!((&first[..16], &first[116..], &second[64..]), (&[0; 16][..], &[0; 16][..], &[0; 16][..]));
    assert_ne!(first[16..32], [0; 16]);
    assert_ne!(first[100..116], [0; 16]);
    assert_ne!(second[48..64], [0; 16]);
}

#[test]
fn a_request_gets_no_more_than_its_bound() {
    let mut rig = rig(0);
    let (half, limit) = (40_000, u32::try_from(MAX_BYTES_PER_REQUEST).unwrap());
    rig.queues[0].add(&[Buffer::Write(FREE, half), Buffer::Write(FREE + 0x1_0000, half)]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.queues[0].used().unwrap().1, limit);
    let left = bytes(&rig, FREE + 0x1_0000 + u64::from(limit - half), 64);
    assert_eq!(left, [0; 64]);
    assert_eq!(rig.device.counters(), [("requests", 1), ("bytes", u64::from(limit))]);
}

#[test]
fn requests_with_nothing_to_write_come_back_empty() {
    let mut rig = rig(0);
    let head = rig.queues[0].add(&[Buffer::Read(FREE, 100)]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.queues[0].used(), Some((head, 0)));
}

#[test]
fn buffers_outside_guest_memory_stop_the_device() {
    let mut rig = rig(0);
    rig.queues[0].add(&[Buffer::Write(FREE + (3 << 20) - 1, 2)]);
    assert!(matches!(rig.device.queue_notified(0), Err(DeviceError::Queue(_))));
}

#[test]
fn with_event_indexes_the_device_says_when_it_wants_to_hear_again_and_interrupts_only_when_asked() {
    let mut rig = rig(VIRTIO_F_EVENT_IDX);
    let state = rig.queues[0].state();
    let avail_event = GuestAddress(state.used_ring + 4 + 8 * u64::from(state.size));
    let used_event = GuestAddress(state.avail_ring + 4 + 2 * u64::from(state.size));
    rig.memory.write_obj(1u16, used_event).unwrap();
    rig.queues[0].add(&[Buffer::Write(FREE, 8)]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.memory.read_obj::<u16>(avail_event).unwrap(), 1);
    assert_eq!(rig.interrupt.status(), 0, "the driver wants to hear about the second one");
    rig.queues[0].add(&[Buffer::Write(FREE, 8)]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.interrupt.status(), 1);
}

#[test]
fn a_driver_that_polls_is_not_interrupted() {
    let mut rig = rig(0);
    rig.memory.write_obj(1u16, GuestAddress(rig.queues[0].state().avail_ring)).unwrap();
    rig.queues[0].add(&[Buffer::Write(FREE, 8)]);
    rig.device.queue_notified(0).unwrap();
    assert!(rig.queues[0].used().is_some());
    assert_eq!(rig.interrupt.status(), 0);
}

#[test]
fn a_reset_device_starts_again() {
    let mut rig = rig(0);
    rig.device.reset();
    rig.device.reset();
    rig.device.queue_notified(0).unwrap();
    assert!(rig.device.active.is_none());
}
