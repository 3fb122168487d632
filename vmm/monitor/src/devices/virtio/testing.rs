//! The driver's side of a device, for unit tests, benchmarks and fuzzers: rings and buffers in guest memory,
//! written in the way in which a guest writes them.

mod fuzz;

pub use fuzz::fuzz_device;

use std::sync::Arc;

use virtio_queue::QueueState;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::queue::VirtQueue;
use super::{Activation, VIRTIO_F_EVENT_IDX, VirtioDevice};
use crate::event_loop::EventLoop;
use crate::memory::{DRAM_BASE, GuestMemory, map_unchecked};

/// Descriptor flags (2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Makes guest memory of `bytes` bytes (a multiple of 4096) for a test.
///
/// # Panics
/// When the host has no memory left.
#[must_use]
#[allow(clippy::expect_used)]
pub fn test_memory(bytes: u64) -> GuestMemory {
    map_unchecked(bytes).expect("test memory")
}

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub enum Buffer {
    /// A device-readable buffer: guest address and length in bytes.
    Read(u64, u32),
    /// A device-writable buffer: guest address and length in bytes.
    Write(u64, u32),
}

/// A virtqueue that a test drives: descriptor table, available ring and used ring, one after another.
#[derive(Debug)]
pub struct DriverQueue {
    memory: GuestMemory,
    base: u64,
    size: u16,
    next_descriptor: u16,
    available: u16,
    seen_used: u16,
}

impl DriverQueue {
    /// Lays out an empty queue of `size` entries at guest address `base`. The memory there must be zero.
    #[must_use]
    pub fn new(memory: &GuestMemory, base: u64, size: u16) -> Self {
        Self { memory: memory.clone(), base, size, next_descriptor: 0, available: 0, seen_used: 0 }
    }

    /// Number of bytes that a queue of `size` entries occupies from its base on.
    #[must_use]
    pub fn footprint(size: u16) -> u64 {
        (16 * u64::from(size) + 6 + 2 * u64::from(size)).next_multiple_of(4) + 6 + 8 * u64::from(size)
    }

    fn avail_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    fn used_ring(&self) -> u64 {
        (self.avail_ring() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Addresses and size of the queue, as a driver would pass them to the transport.
    #[must_use]
    pub fn state(&self) -> QueueState {
        QueueState {
            max_size: self.size,
            size: self.size,
            ready: true,
            desc_table: self.base,
            avail_ring: self.avail_ring(),
            used_ring: self.used_ring(),
            ..QueueState::default()
        }
    }

    /// Makes the device's end of the queue, with an interrupt line that is connected to nothing.
    ///
    /// # Panics
    /// When the host has no descriptors left.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn device_end(&self) -> VirtQueue {
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).expect("eventfd"));
        VirtQueue::new(self.state(), self.memory.clone(), Arc::new(interrupt)).expect("valid queue")
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, address: u64) {
        #[allow(clippy::expect_used)]
        self.memory.write_obj(value, GuestAddress(address)).expect("the queue lies in guest memory");
    }

    fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        #[allow(clippy::expect_used)]
        self.memory.read_obj(GuestAddress(address)).expect("the queue lies in guest memory")
    }

    /// Writes descriptor `index` without checking its contents.
    pub fn raw_descriptor(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.descriptor_at(self.base + 16 * u64::from(index % self.size), address, length, flags, next);
    }

    fn descriptor_at(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.put(address, at);
        self.put(length, at + 8);
        self.put(flags, at + 12);
        self.put(next, at + 14);
    }

    /// Makes descriptor head `index` available without checking it.
    pub fn offer(&mut self, index: u16) {
        self.put(index, self.avail_ring() + 4 + 2 * u64::from(self.available % self.size));
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Writes the available index without checking it.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.put(index, self.avail_ring() + 2);
    }

    /// Lays out `buffers` as one chain, makes it available and returns its head. Descriptors are used
    /// round robin: a test that has more in flight than the queue holds overwrites its own descriptors.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            let next = (index + 1) % self.size;
            let more = if position + 1 < buffers.len() { NEXT } else { 0 };
            let (address, length, write) = match *buffer {
                Buffer::Read(address, length) => (address, length, 0),
                Buffer::Write(address, length) => (address, length, WRITE),
            };
            self.raw_descriptor(index, address, length, write | more, next);
            self.next_descriptor = next;
        }
        self.offer(head);
        head
    }

    /// Like [`Self::add`], through an indirect table at guest address `table`.
    pub fn add_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        let mut length = 0;
        for (position, buffer) in (0u16..).zip(buffers) {
            let more = if usize::from(position) + 1 < buffers.len() { NEXT } else { 0 };
            let (address, size, write) = match *buffer {
                Buffer::Read(address, size) => (address, size, 0),
                Buffer::Write(address, size) => (address, size, WRITE),
            };
            self.descriptor_at(table + 16 * u64::from(position), address, size, write | more, position + 1);
            length += 16;
        }
        let head = self.next_descriptor;
        self.raw_descriptor(head, table, length, INDIRECT, 0);
        self.next_descriptor = (head + 1) % self.size;
        self.offer(head);
        head
    }

    /// The next used entry (head and bytes written), or `None` when there is none.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.get::<u16>(self.used_ring() + 2) == self.seen_used {
            return None;
        }
        let entry = self.used_ring() + 4 + 8 * u64::from(self.seen_used % self.size);
        self.seen_used = self.seen_used.wrapping_add(1);
        let head: u32 = self.get(entry);
        Some((u16::try_from(head).unwrap_or(u16::MAX), self.get(entry + 4)))
    }
}

/// A device without a transport whose queues are set up and which is activated.
#[derive(Debug)]
pub struct Rig<D> {
    /// The device under test.
    pub device: D,
    /// Guest memory; buffers may lie at [`Self::FREE`] and above.
    pub memory: GuestMemory,
    /// The driver's ends of the queues.
    pub queues: Vec<DriverQueue>,
    /// The device's interrupt line.
    pub interrupt: Arc<Interrupt>,
    /// The device's event loop.
    pub events: EventLoop,
}

impl<D: VirtioDevice> Rig<D> {
    /// First guest address that no queue occupies.
    pub const FREE: u64 = DRAM_BASE + 0x10_0000;

    /// Activates `device` with queues of at most `queue_size` entries and the features `features`, in guest
    /// memory of `bytes`.
    ///
    /// # Panics
    /// When the device refuses.
    #[allow(clippy::expect_used)]
    pub fn new(mut device: D, bytes: u64, queue_size: u16, features: u64) -> Self {
        let memory = test_memory(bytes);
        let interrupt = Arc::new(Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).expect("eventfd")));
        let events = EventLoop::new().expect("epoll");
        let mut queues = Vec::new();
        let mut base = DRAM_BASE;
        for &max in device.queue_max_sizes() {
            let queue = DriverQueue::new(&memory, base, max.min(queue_size));
            base += DriverQueue::footprint(queue.size).next_multiple_of(4096);
            queues.push(queue);
        }
        assert!(base <= Self::FREE, "the queues do not fit below Rig::FREE");
        let event_idx_enabled = features & VIRTIO_F_EVENT_IDX != 0;
        let set_up = |queue: &DriverQueue| {
            let state = QueueState { event_idx_enabled, ..queue.state() };
            Some(VirtQueue::new(state, memory.clone(), Arc::clone(&interrupt)).expect("valid queue"))
        };
        let activation = Activation {
            memory: memory.clone(),
            queues: queues.iter().map(set_up).collect(),
            features,
            interrupt: Arc::clone(&interrupt),
            poller: events.poller(0),
        };
        device.activate(activation).expect("the device activates");
        Self { device, memory, queues, interrupt, events }
    }

    /// Waits up to `timeout_ms` milliseconds for backend events and passes them to the device; returns their number.
    ///
    /// # Panics
    /// When the device fails.
    #[allow(clippy::expect_used)]
    pub fn pump(&mut self, timeout_ms: i32) -> usize {
        let device = &mut self.device;
        let handle = |ready: crate::event_loop::Ready| {
            device.event(ready.token, ready.events).expect("the device handles its event");
        };
        self.events.wait(timeout_ms, handle).expect("epoll")
    }
}
