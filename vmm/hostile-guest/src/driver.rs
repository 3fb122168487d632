//! A virtio driver that mostly follows the rules until the device runs, and then breaks them.

use crate::board::{self, read32, write32};
use crate::chains::{self, Ring};
use crate::payload::Memory;
use crate::random::Random;

/// Offsets of registers (virtio 1.2, 4.2.2).
const MAGIC: u64 = 0x00;
const DEVICE_ID: u64 = 0x08;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SEL: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM_MAX: u64 = 0x34;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
/// Offsets of the registers with the low halves of the addresses of a queue's three parts.
const QUEUE_PARTS: [u64; 3] = [0x80, 0x90, 0xa0];
const CONFIG: u64 = 0x100;

/// Device status bits (2.1).
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// Number of slots that are attacked.
const SLOTS: usize = 8;
/// Number of queues of a slot.
pub(crate) const QUEUES: usize = 4;
/// Size of the largest ring that fits into its area.
const MAX_RING: u64 = 256;

/// The drivers of one CPU.
pub(crate) struct Drivers {
    memory: Memory,
    rings: [[Ring; QUEUES]; SLOTS],
}

impl Drivers {
    /// Creates drivers that keep their rings and data in the memory of this CPU.
    pub(crate) fn new(cpu: u32, ram_mib: u32) -> Self {
        let memory = Memory::new(cpu, ram_mib);
        let rings = core::array::from_fn(|slot| {
            core::array::from_fn(|queue| Ring::nowhere(memory.ring_area(slot * QUEUES + queue)))
        });
        Self { memory, rings }
    }

    /// Attacks a random slot. Most of the time the device is set up again first.
    pub(crate) fn attack(&mut self, random: &mut Random) {
        let index = random.below(SLOTS as u64) as usize;
        let base = board::slot(index as u64);
        let device = read32(base + DEVICE_ID);
        if read32(base + MAGIC) != u32::from_le_bytes(*b"virt") || device == 0 {
            return;
        }
        if !random.one_in(5) {
            self.set_up(random, index, base);
        }
        for _ in 0..1 + random.below(6) {
            self.round(random, index, base, device);
        }
    }

    fn set_up(&mut self, random: &mut Random, index: usize, base: u64) {
        if !random.one_in(16) {
            write32(base + STATUS, 0);
        }
        write32(base + STATUS, ACKNOWLEDGE);
        write32(base + STATUS, ACKNOWLEDGE | DRIVER);
        let chosen = if random.one_in(2) { u64::MAX } else { random.next() | 1 << 32 };
        for half in 0..2 {
            write32(base + DEVICE_FEATURES_SEL, half);
            let offered = read32(base + DEVICE_FEATURES);
            let mut features = offered & (chosen >> (32 * half)) as u32;
            if random.one_in(24) {
                features = random.next() as u32;
            }
            write32(base + DRIVER_FEATURES_SEL, half);
            write32(base + DRIVER_FEATURES, features);
        }
        let mut status = ACKNOWLEDGE | DRIVER;
        if !random.one_in(24) {
            status |= FEATURES_OK;
            write32(base + STATUS, status);
        }
        for queue in 0..QUEUES {
            let area = self.memory.ring_area(index * QUEUES + queue);
            self.rings[index][queue] = self.set_up_queue(random, base, queue, area);
        }
        write32(base + STATUS, status | DRIVER_OK);
    }

    fn set_up_queue(&self, random: &mut Random, base: u64, queue: usize, area: u64) -> Ring {
        write32(base + QUEUE_SEL, queue as u32);
        let largest = u64::from(read32(base + QUEUE_NUM_MAX)).min(MAX_RING);
        if largest == 0 || random.one_in(32) {
            return Ring::nowhere(area);
        }
        let size = 1 << random.below(u64::from(largest.ilog2()) + 1);
        let mut ring = Ring::new(area, size, random.choose([0, 0, 40, 2]));
        let mut size = u64::from(ring.size());
        if random.one_in(24) {
            size = random.number();
            ring = Ring::nowhere(area);
        }
        write32(base + QUEUE_NUM, size as u32);
        let mut parts = ring.parts();
        if random.one_in(12) {
            let part = random.below(3) as usize % 3;
            parts[part] = self.memory.anywhere(random);
            ring = Ring::nowhere(area);
        }
        if random.one_in(32) {
            // All three parts have the same address: the device overwrites what it reads.
            parts = [area; 3];
        }
        for (register, address) in QUEUE_PARTS.into_iter().zip(parts) {
            write32(base + register, address as u32);
            write32(base + register + 4, (address >> 32) as u32);
        }
        ring.clear();
        write32(base + QUEUE_READY, 1);
        ring
    }

    /// Offers requests to the queues, and interferes while the device processes them.
    fn round(&mut self, random: &mut Random, index: usize, base: u64, device: u32) {
        for (queue, ring) in self.rings[index].iter_mut().enumerate() {
            if random.one_in(6) {
                continue;
            }
            chains::offer(random, ring, device, queue, base + CONFIG, &self.memory);
            write32(base + QUEUE_NOTIFY, queue as u32);
        }
        match random.below(24) {
            0 => write32(base + STATUS, 0),
            1 => write32(base + STATUS, random.next() as u32 & 0xff),
            2 => {
                write32(base + QUEUE_SEL, random.below(QUEUES as u64) as u32);
                write32(base + QUEUE_READY, random.next() as u32 & 1);
            }
            3 => {
                // Move a queue while the device is running.
                write32(base + QUEUE_SEL, random.below(QUEUES as u64) as u32);
                let register = random.choose(QUEUE_PARTS);
                write32(base + register, self.memory.anywhere(random) as u32);
            }
            4 => write32(base + CONFIG + random.below(64) * 4, random.next() as u32),
            5..12 => write32(base + INTERRUPT_ACK, read32(base + INTERRUPT_STATUS)),
            12..15 => board::notify_storm(random),
            _ => {}
        }
    }
}
