//! The generic device fuzzer, which turns bytes into the operations of a hostile driver.
//!
//! The device sits behind the real transport, so its errors are handled as in a microVM. The input is a
//! sequence of operations – register and memory writes, well-formed and malformed chains, notifications,
//! resets – each of which takes at least one byte, so a run stops when its input is used up. Nothing sleeps: backend
//! events are collected with a timeout of zero.

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK};
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::super::mmio::{MMIO_WINDOW, MmioTransport};
use super::super::{VIRTIO_F_VERSION_1, VirtioDevice};
use super::{Buffer, DriverQueue, test_memory};
use crate::devices::bus::MmioDevice as _;
use crate::event_loop::EventLoop;
use crate::memory::{DRAM_BASE, GuestMemory};

/// Size of the guest memory of a run, in bytes.
const MEMORY: u64 = 2 << 20;
/// First guest address for buffers: the upper half, above the queues.
const BUFFERS: u64 = DRAM_BASE + MEMORY / 2;
/// Largest number of operations in one run, however long the input is.
const MAX_OPERATIONS: usize = 512;
/// Largest number of buffers in one well-formed chain.
const MAX_BUFFERS: u8 = 12;
/// Base-2 logarithm of the largest queue size. Queues are small so that they wrap soon.
const MAX_QUEUE_SHIFT: u8 = 6;
/// First status that the driver writes: `ACKNOWLEDGE | DRIVER`.
const GREETING: u32 = 3;

/// Runs `device` against a driver whose operations `data` encodes. Returns when the data is used up.
///
/// # Panics
/// When the device panics, which is the failure that the fuzzer looks for, or the host has no descriptors left.
pub fn fuzz_device<D: VirtioDevice>(device: D, data: &[u8]) {
    let mut input = Input(data);
    let mut driver = Driver::new(device);
    driver.start(u64::MAX, MAX_QUEUE_SHIFT);
    for _ in 0..MAX_OPERATIONS {
        if driver.step(&mut input).is_none() {
            break;
        }
    }
    driver.pump();
    driver.transport.quiesce();
    driver.set(reg::VIRTIO_MMIO_STATUS, 0);
}

/// The remaining input. Every reader returns `None` once there are too few bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads up to 255 bytes, which are preceded by their count.
    fn short(&mut self) -> Option<&'a [u8]> {
        let count = self.u8()?;
        self.bytes(usize::from(count))
    }
}

struct Driver<D> {
    transport: MmioTransport<D>,
    events: EventLoop,
    memory: GuestMemory,
    queues: Vec<DriverQueue>,
}

impl<D: VirtioDevice> Driver<D> {
    #[allow(clippy::expect_used)]
    fn new(device: D) -> Self {
        let memory = test_memory(MEMORY);
        let events = EventLoop::new().expect("epoll");
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("eventfd");
        let transport = MmioTransport::new(device, memory.clone(), interrupt, events.poller(0));
        Self { transport: transport.expect("descriptors"), events, memory, queues: Vec::new() }
    }

    fn set(&mut self, register: u32, value: u32) {
        self.transport.write(u64::from(register), &value.to_le_bytes());
    }

    fn set_wide(&mut self, low: u32, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.set(low, u32::from_le_bytes([a, b, c, d]));
        self.set(low + 4, u32::from_le_bytes([e, f, g, h]));
    }

    /// Resets the device and starts it as a driver would, with those of `features` that the device
    /// offers and with queues of at most `1 << shift` entries.
    fn start(&mut self, features: u64, shift: u8) {
        let features = self.transport.device().offered_features() & features | VIRTIO_F_VERSION_1;
        self.set(reg::VIRTIO_MMIO_STATUS, 0);
        self.set(reg::VIRTIO_MMIO_STATUS, GREETING);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, u32::try_from(half).unwrap_or_default());
        }
        let negotiated = GREETING | VIRTIO_CONFIG_S_FEATURES_OK;
        self.set(reg::VIRTIO_MMIO_STATUS, negotiated);
        // Old rings must not look like new ones: a driver starts on zeroed memory.
        let _ = self.memory.write_slice(&[0; 0x1_0000], GuestAddress(DRAM_BASE));
        self.queues.clear();
        let mut base = DRAM_BASE;
        let sizes = self.transport.device().queue_max_sizes().to_vec();
        for (index, max) in (0u32..).zip(sizes) {
            let queue = DriverQueue::new(&self.memory, base, max.min(1 << shift.min(MAX_QUEUE_SHIFT)));
            let state = queue.state();
            base += DriverQueue::footprint(state.size).next_multiple_of(4096);
            self.set(reg::VIRTIO_MMIO_QUEUE_SEL, index);
            self.set(reg::VIRTIO_MMIO_QUEUE_NUM, u32::from(state.size));
            self.set_wide(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, state.desc_table);
            self.set_wide(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, state.avail_ring);
            self.set_wide(reg::VIRTIO_MMIO_QUEUE_USED_LOW, state.used_ring);
            self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
            self.queues.push(queue);
        }
        self.set(reg::VIRTIO_MMIO_STATUS, negotiated | VIRTIO_CONFIG_S_DRIVER_OK);
    }

    #[allow(clippy::expect_used)]
    fn pump(&mut self) {
        let transport = &mut self.transport;
        self.events.wait(0, |ready| transport.handle(ready)).expect("epoll");
    }

    fn queue(&mut self, choice: u8) -> Option<&mut DriverQueue> {
        let count = self.queues.len().max(1);
        self.queues.get_mut(usize::from(choice) % count)
    }

    /// Carries out the next operation; returns `None` when the input is used up.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.u8()? % 16 {
            // Chains find the most errors, so they are the most frequent operations.
            0..=2 => self.chain(input, false)?,
            3 => self.chain(input, true)?,
            4 | 5 => {
                let queue = u32::from(input.u8()?) % u32::try_from(self.queues.len().max(1)).unwrap_or(1);
                self.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, queue);
                self.pump();
            }
            6 => {
                let address = buffer_address(input)?;
                let _ = self.memory.write_slice(input.short()?, GuestAddress(address));
            }
            7 => {
                // The address may lie anywhere in memory, including rings and indirect tables.
                let address = DRAM_BASE + u64::from(input.u32()?) % MEMORY;
                let _ = self.memory.write_slice(input.short()?, GuestAddress(address));
            }
            8 => {
                let (choice, index, address) = (input.u8()?, input.u16()?, input.u64()?);
                let (length, flags, next) = (input.u32()?, input.u16()?, input.u16()?);
                let address = if flags & 0x8000 == 0 { DRAM_BASE + address % MEMORY } else { address };
                self.queue(choice)?.raw_descriptor(index, address, length, flags & 0x7fff, next);
            }
            9 => {
                let (choice, head) = (input.u8()?, input.u8()?);
                self.queue(choice)?.offer(u16::from(head));
            }
            10 => {
                let (choice, index) = (input.u8()?, input.u16()?);
                self.queue(choice)?.set_available(index);
            }
            11 => {
                let offset = u64::from(input.u16()?) % MMIO_WINDOW;
                let width = 1 << (input.u8()? % 4);
                self.transport.write(offset, input.bytes(width)?);
            }
            12 => {
                let offset = u64::from(input.u16()?) % MMIO_WINDOW;
                let mut data = [0; 8];
                self.transport.read(offset, data.get_mut(..1 << (input.u8()? % 4))?);
            }
            13 => self.pump(),
            14 => {
                let (features, shift) = (input.u64()?, input.u8()?);
                self.start(features, shift % (MAX_QUEUE_SHIFT + 1));
            }
            _ => {
                self.transport.quiesce();
                self.transport.kick();
                let choice = input.u8()?;
                while self.queue(choice)?.used().is_some() {}
            }
        }
        Some(())
    }

    /// Adds a chain that follows the rules (readable buffers first, all buffers in guest memory), with
    /// fuzzed lengths and fuzzed bytes at the beginning of the readable part, where devices expect their headers.
    fn chain(&mut self, input: &mut Input<'_>, indirect: bool) -> Option<()> {
        let (choice, shape) = (input.u8()?, input.u8()?);
        let readable = shape & 0xf;
        let mut buffers = Vec::new();
        for position in 0..(readable + (shape >> 4)).clamp(1, MAX_BUFFERS) {
            let address = buffer_address(input)?;
            // Lengths near the sizes of headers are as likely as those of whole buffers.
            let length = match input.u16()? {
                short if short & 1 == 0 => u32::from(short >> 1 & 0x3f),
                long => u32::from(long),
            };
            let length = length.min(u32::try_from(DRAM_BASE + MEMORY - address).unwrap_or(u32::MAX));
            buffers.push(if position < readable {
                Buffer::Read(address, length)
            } else {
                Buffer::Write(address, length)
            });
        }
        let header = input.short()?;
        if let Some(Buffer::Read(address, _)) = buffers.first() {
            let _ = self.memory.write_slice(header, GuestAddress(*address));
        }
        let queue = self.queue(choice)?;
        if indirect {
            queue.add_indirect(DRAM_BASE + MEMORY - 0x1000, &buffers);
        } else {
            queue.add(&buffers);
        }
        Some(())
    }
}

/// A fuzzed address in the half of the memory that holds the buffers.
fn buffer_address(input: &mut Input<'_>) -> Option<u64> {
    Some(BUFFERS + u64::from(input.u16()?) * 16 % (MEMORY / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::queue::QueueState;
    use super::super::super::queue::{Chain, VirtQueue};
    use super::super::super::{Activation, COMMON_FEATURES, DeviceError, DeviceType};
    use super::*;

    /// A device that takes every chain and counts the chains.
    #[derive(Default)]
    struct Counter {
        queue: Option<VirtQueue>,
        chains: std::rc::Rc<std::cell::Cell<u32>>,
    }

    // SAFETY: the tests use this device on one thread only.
    unsafe impl Send for Counter {}

    impl VirtioDevice for Counter {
        fn device_type(&self) -> DeviceType {
            DeviceType::Rng
        }
        fn queue_max_sizes(&self) -> &[u16] {
            &[16]
        }
        fn offered_features(&self) -> u64 {
            COMMON_FEATURES
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
            self.queue = Some(activation.require_queue(0)?);
            Ok(())
        }
        fn reset(&mut self) {
            self.queue = None;
        }
        fn queue_notified(&mut self, _queue: usize) -> Result<(), DeviceError> {
            let Some(queue) = &mut self.queue else { return Ok(()) };
            let mut chain = Chain::new();
            while queue.pop(&mut chain)? {
                self.chains.set(self.chains.get() + 1);
                queue.push_used(chain.head(), 0)?;
            }
            Ok(queue.notify()?)
        }
        fn event(&mut self, _token: u16, _events: u32) -> Result<(), DeviceError> {
            Ok(())
        }
        fn queue_states(&self) -> Vec<Option<QueueState>> {
            Vec::new()
        }
        fn counters(&self) -> Vec<(&'static str, u64)> {
            Vec::new()
        }
    }

    #[test]
    fn chains_and_notifications_in_the_input_reach_the_device() {
        let chains = std::rc::Rc::default();
        let chain = [0, 0, 0x11, 0, 0, 32, 0, 0, 1, 64, 0, 2, 0xaa, 0xbb];
        let direct_then_indirect = [&chain[..], &[3], &chain[1..], &[4, 0]].concat();
        fuzz_device(Counter { queue: None, chains: std::rc::Rc::clone(&chains) }, &direct_then_indirect);
        assert_eq!(chains.get(), 2);
    }

    proptest! {
        #[test]
        fn every_input_comes_to_an_end(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_device(Counter::default(), &data);
        }
    }
}
