use proptest::prelude::*;
use vm_memory::Bytes as _;

use super::super::queue::Chain;
use super::super::testing::{Buffer, DriverQueue, test_memory};
use super::super::{COMMON_FEATURES, DeviceType};
use super::*;
use crate::event_loop::EventLoop;
use crate::memory::DRAM_BASE;

/// A device that writes the readable length of every chain into the chain and returns it.
#[derive(Default)]
struct Echo {
    queues: Vec<VirtQueue>,
    activations: u32,
    resets: u32,
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[16, 8]
    }
    fn offered_features(&self) -> u64 {
        COMMON_FEATURES | 1
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::super::read_config_bytes(&[1, 2, 3, 4, 5, 6], offset, data);
    }
    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        self.queues = vec![activation.require_queue(0)?];
        self.queues.extend(activation.queues.get_mut(1).and_then(Option::take));
        self.activations += 1;
        Ok(())
    }
    fn reset(&mut self) {
        self.queues.clear();
        self.resets += 1;
    }
    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError> {
        let Some(queue) = self.queues.get_mut(queue) else { return Ok(()) };
        let mut chain = Chain::new();
        while queue.pop(&mut chain)? {
            let length = u32::try_from(chain.readable_len()).unwrap_or(u32::MAX);
            let written = chain.write_at(0, &length.to_le_bytes());
            queue.push_used(chain.head(), u32::try_from(written).unwrap())?;
        }
        Ok(queue.notify()?)
    }
    fn event(&mut self, _token: u16, _events: u32) -> Result<(), DeviceError> {
        Ok(())
    }
    fn queue_states(&self) -> Vec<Option<QueueState>> {
        self.queues.iter().map(|queue| Some(queue.state())).collect()
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

struct Guest {
    transport: MmioTransport<Echo>,
    events: EventLoop,
    memory: GuestMemory,
}

impl Guest {
    fn new() -> Self {
        Self::on(test_memory(1 << 20))
    }
    fn on(memory: GuestMemory) -> Self {
        let events = EventLoop::new().unwrap();
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let transport =
            MmioTransport::new(Echo::default(), memory.clone(), interrupt, events.poller(0)).unwrap();
        Self { transport, events, memory }
    }
    fn get(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&mut self, offset: u32, value: u32) {
        self.transport.write(u64::from(offset), &value.to_le_bytes());
    }
    fn negotiate(&mut self, features: u64) {
        self.set(reg::VIRTIO_MMIO_STATUS, 0);
        self.set(reg::VIRTIO_MMIO_STATUS, 3);
        for select in 0..2 {
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, half(features, select));
        }
        self.set(reg::VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    }
    fn place(&mut self, index: u32, state: QueueState) {
        self.set(reg::VIRTIO_MMIO_QUEUE_SEL, index);
        self.set(reg::VIRTIO_MMIO_QUEUE_NUM, u32::from(state.size));
        for (low, address) in [
            (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, state.desc_table),
            (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, state.avail_ring),
            (reg::VIRTIO_MMIO_QUEUE_USED_LOW, state.used_ring),
        ] {
            self.set(low, half(address, 0));
            self.set(low + 4, half(address, 1));
        }
        self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    }
    fn start(&mut self) -> DriverQueue {
        let queue = DriverQueue::new(&self.memory, DRAM_BASE, 16);
        self.negotiate(VIRTIO_F_VERSION_1);
        self.place(0, queue.state());
        self.set(reg::VIRTIO_MMIO_STATUS, 15);
        queue
    }
    fn pump(&mut self) {
        let transport = &mut self.transport;
        self.events.wait(0, |ready| transport.handle(ready)).unwrap();
    }
}

#[test]
fn identification_registers_say_what_the_specification_wants() {
    let mut guest = Guest::new();
    assert_eq!(guest.get(reg::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!((guest.get(reg::VIRTIO_MMIO_VERSION), guest.get(reg::VIRTIO_MMIO_DEVICE_ID)), (2, 4));
    let mut config = [0; 4];
    guest.transport.read(CONFIG_SPACE + 4, &mut config);
    assert_eq!(config, [5, 6, 0, 0]);
}

#[test]
fn a_driver_that_follows_the_specification_gets_its_buffers_back() {
    let mut guest = Guest::new();
    let mut queue = guest.start();
    assert!(guest.transport.is_active());
    let buffer = DRAM_BASE + 0x8000;
    let head = queue.add(&[Buffer::Read(buffer, 100), Buffer::Write(buffer + 0x1000, 4)]);
    guest.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.pump();
    assert_eq!(queue.used(), Some((head, 4)));
    assert_eq!(guest.memory.read_obj::<u32>(vm_memory::GuestAddress(buffer + 0x1000)).unwrap(), 100);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    guest.set(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn features_never_offered_are_not_accepted() {
    let mut guest = Guest::new();
    for features in [VIRTIO_F_VERSION_1 | 2, 1, 0] {
        guest.negotiate(features);
        assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 3, "{features:#x}");
    }
    guest.negotiate(VIRTIO_F_VERSION_1 | 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 11);
}

#[test]
fn a_broken_chain_stops_the_device_until_it_is_reset() {
    let mut guest = Guest::new();
    let mut queue = guest.start();
    queue.add(&[Buffer::Write(DRAM_BASE + (1 << 20) - 1, 2)]);
    guest.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.pump();
    assert_ne!(guest.get(reg::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    assert!(guest.transport.failures().1.unwrap().contains("outside guest memory"));
    let mut queue = guest.start();
    let head = queue.add(&[Buffer::Write(DRAM_BASE + 0x8000, 2)]);
    // The new rings lie at the addresses of the old ones: the used index in memory still has its old value, zero.
    guest.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.pump();
    assert_eq!(queue.used(), Some((head, 2)));
}

#[test]
fn rings_outside_memory_are_refused_when_the_driver_starts() {
    let mut guest = Guest::new();
    guest.negotiate(VIRTIO_F_VERSION_1);
    let state = DriverQueue::new(&guest.memory, DRAM_BASE + (1 << 20) - 0x100, 16).state();
    guest.place(0, state);
    guest.set(reg::VIRTIO_MMIO_STATUS, 15);
    assert!(!guest.transport.is_active());
    assert_ne!(guest.get(reg::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Memory(u64, u64),
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    let registers =
        prop_oneof![Just(0x20), Just(0x24), Just(0x30), Just(0x38), Just(0x44), Just(0x50), Just(0x70)];
    let offset = prop_oneof![4 => registers, 2 => 0..0x200u64, 1 => 0..0x1000u64];
    let value = prop_oneof![
        (0..16u32).prop_map(|v| v.to_le_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..9)
    ];
    prop_oneof![
        6 => (offset.clone(), value).prop_map(|(offset, value)| Step::Write(offset, value)),
        2 => (offset, 1..9usize).prop_map(|(offset, length)| Step::Read(offset, length)),
        4 => (0..0x800u64, any::<u64>()).prop_map(|(at, value)| Step::Memory(at, value)),
        1 => Just(Step::Start),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 4096 } else { 256 }))]

    /// Nothing that a guest writes into registers and rings causes a panic, and the device is active exactly while the
    /// status register reports it.
    #[test]
    fn no_sequence_of_writes_breaks_the_transport(steps in proptest::collection::vec(step(), 1..120)) {
        let mut guest = Guest::new();
        for step in steps {
            match step {
                Step::Write(offset, data) => guest.transport.write(offset, &data),
                Step::Read(offset, length) => guest.transport.read(offset, &mut vec![0; length]),
                Step::Memory(at, value) => {
                    guest.memory.write_obj(value, vm_memory::GuestAddress(DRAM_BASE + at)).unwrap();
                }
                Step::Start => {
                    guest.start();
                    prop_assert!(guest.transport.is_active());
                }
            }
            guest.pump();
            let status = guest.get(reg::VIRTIO_MMIO_STATUS);
            let stopped = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
            let running = status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && status & stopped == 0;
            prop_assert_eq!(guest.transport.is_active(), running);
        }
    }
}

/// A guest whose device has answered one of three requests.
fn at_work() -> (Guest, DriverQueue) {
    let mut guest = Guest::new();
    let mut queue = guest.start();
    let buffer = DRAM_BASE + 0x8000;
    queue.add(&[Buffer::Read(buffer, 1), Buffer::Write(buffer + 0x1000, 4)]);
    guest.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    guest.pump();
    for length in [2, 3] {
        queue.add(&[Buffer::Read(buffer, length), Buffer::Write(buffer + 0x1000, 4)]);
    }
    (guest, queue)
}

#[test]
fn a_saved_transport_goes_on_where_it_was() {
    let (guest, mut queue) = at_work();
    let saved = guest.transport.save();
    assert_eq!((saved.interrupt_status, saved.queues[0].next_available, saved.active), (1, 1, true));
    let mut restored = Guest::on(guest.memory.clone());
    restored.transport.restore(&saved).unwrap();
    assert_eq!(restored.transport.save(), saved);
    assert_eq!(restored.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(restored.get(reg::VIRTIO_MMIO_STATUS), 15);
    restored.transport.kick();
    restored.pump();
    let answers: Vec<_> = std::iter::from_fn(|| queue.used()).collect();
    assert_eq!(answers.len(), 3, "one from before, two from after");
}

#[test]
fn a_transport_that_no_driver_has_set_up_is_saved_too() {
    let mut guest = Guest::new();
    guest.negotiate(VIRTIO_F_VERSION_1);
    let saved = guest.transport.save();
    let mut restored = Guest::new();
    restored.transport.restore(&saved).unwrap();
    assert!(!restored.transport.is_active());
    let queue = DriverQueue::new(&restored.memory, DRAM_BASE, 16);
    restored.place(0, queue.state());
    restored.set(reg::VIRTIO_MMIO_STATUS, 15);
    assert!(restored.transport.is_active());
}

#[test]
fn what_is_not_this_devices_state_is_refused_by_name() {
    let (guest, _queue) = at_work();
    let saved = guest.transport.save();
    let refused = |change: &dyn Fn(&mut hearth_proto::vmm::v1::SavedVirtio), expected: &str| {
        let mut wrong = saved.clone();
        change(&mut wrong);
        let message = Guest::new().transport.restore(&wrong).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(&|saved| saved.device_type = 2, "type 2 here, the machine one of type 4");
    refused(&|saved| saved.queues.truncate(1), "1 there, 2 here");
    refused(&|saved| saved.driver_features |= 1 << 9, "features 0x200");
    refused(&|saved| saved.queues[0].size = 3, "3 of at most 16 entries");
    refused(&|saved| saved.queues[0].max_size = 8, "entries, here at most 16");
    refused(&|saved| saved.queues[0].next_used = 1 << 16, "next used index is 65536");
    refused(&|saved| saved.queues[0].used_ring = 1 << 60, "virtqueue ring");
}
