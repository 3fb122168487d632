//! The contents to which descriptors point: memory of this CPU, and requests for each kind of device.

use core::ptr::{read_volatile, write_volatile};

use crate::board;
use crate::random::Random;

/// Address of the first byte of guest memory.
const DRAM: u64 = 0x8000_0000;
/// Address of the first CPU's memory: far from the program.
const SCRATCH: u64 = DRAM + (32 << 20);
/// Number of bytes per CPU: the first half is for rings, the second for data.
const PER_CPU: u64 = 4 << 20;
/// Size of a ring's area in bytes.
const RING_AREA: u64 = 64 << 10;

/// Virtio device types (virtio 1.2, 5).
const NET: u32 = 1;
const BLOCK: u32 = 2;
const BALLOON: u32 = 5;
const VSOCK: u32 = 19;

/// The memory of one CPU, and the end of guest memory.
pub(crate) struct Memory {
    start: u64,
    end_of_ram: u64,
}

impl Memory {
    /// Creates the description of a CPU's memory.
    pub(crate) fn new(cpu: u32, ram_mib: u32) -> Self {
        Self { start: SCRATCH + u64::from(cpu) * PER_CPU, end_of_ram: DRAM + (u64::from(ram_mib) << 20) }
    }

    /// Returns the address of a ring's area.
    pub(crate) fn ring_area(&self, index: usize) -> u64 {
        self.start + index as u64 % 32 * RING_AREA
    }

    /// Returns the address of memory for a buffer of up to 64 KiB, aligned to 64 bytes.
    pub(crate) fn data(&self, random: &mut Random) -> u64 {
        self.start + PER_CPU / 2 + (random.below(PER_CPU / 2 - (64 << 10)) & !63)
    }

    /// Returns an address that may be anywhere but in the program.
    pub(crate) fn anywhere(&self, random: &mut Random) -> u64 {
        match random.below(10) {
            0 => self.data(random) + random.below(64),
            1 => self.end_of_ram - 1 - random.below(64),
            2 => self.end_of_ram + random.below(1 << 20),
            3 => DRAM - 1 - random.below(64),
            4 => board::slot(random.below(board::SLOTS)) + random.below(0x200),
            5 => u64::MAX - random.below(1 << 16),
            6 => random.below(1 << 16),
            7 => random.next() | 1 << 63,
            8 => self.end_of_ram << random.below(16),
            _ => (1 << 40) + random.below(1 << 40),
        }
    }
}

/// A buffer of a request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Part {
    /// Address of the buffer.
    pub(crate) address: u64,
    /// Length of the buffer in bytes.
    pub(crate) length: u32,
    /// Whether the device writes to it.
    pub(crate) writable: bool,
}

/// The buffers of a request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Parts {
    parts: [Part; 6],
    count: usize,
}

impl Parts {
    /// Returns the buffers in order.
    pub(crate) fn as_slice(&self) -> &[Part] {
        self.parts.get(..self.count).unwrap_or_default()
    }

    /// Changes one of the buffers.
    pub(crate) fn change(&mut self, random: &mut Random, change: impl Fn(&mut Random, &mut Part)) {
        let index = random.below(self.count as u64) as usize;
        if let Some(part) = self.parts.get_mut(index) {
            change(random, part);
        }
    }

    fn add(&mut self, address: u64, length: u32, writable: bool) {
        if let Some(part) = self.parts.get_mut(self.count) {
            *part = Part { address, length, writable };
            self.count += 1;
        }
    }
}

/// Creates a request that is mostly valid for queue `queue` of a device; `config` is the address of its configuration.
pub(crate) fn request(random: &mut Random, device: u32, queue: usize, config: u64, memory: &Memory) -> Parts {
    let mut parts = Parts::default();
    match (device, queue) {
        (BLOCK, _) => block(random, memory, &mut parts),
        (NET, 1) => frame(random, memory, &mut parts),
        (VSOCK, 1) => packet(random, config, memory, &mut parts),
        (BALLOON, 0 | 1) => pages(random, memory, &mut parts),
        (BALLOON, _) => {
            for _ in 0..1 + random.below(4) {
                parts.add(memory.data(random) & !0xfff, 4096 << random.below(4), random.one_in(2));
            }
        }
        _ => {
            for _ in 0..1 + random.below(3) {
                parts.add(memory.data(random), random.length(), true);
            }
        }
    }
    parts
}

/// Virtio 1.2, 5.2.6: a header, data, a status byte.
fn block(random: &mut Random, memory: &Memory, parts: &mut Parts) {
    let header = memory.data(random);
    let unknown = random.next() as u32;
    let kind = random.choose([0, 0, 0, 1, 1, 1, 4, 8, 11, 11, 13, 13, unknown]);
    let sector = if random.one_in(4) { random.number() } else { random.below(1 << 12) };
    write32(header, kind);
    write32(header + 4, random.next() as u32);
    write64(header + 8, sector);
    parts.add(header, 16, false);
    let most = if matches!(kind, 11 | 13) { 1 } else { 3 };
    for _ in 0..if kind == 4 { 0 } else { 1 + random.below(most) } {
        let data = memory.data(random);
        let length = match kind {
            11 | 13 => {
                // A segment of a discard: sector, count, flags.
                write64(data, sector);
                write32(data + 8, if random.one_in(3) { random.number() as u32 } else { 8 });
                write32(data + 12, if random.one_in(3) { random.below(3) as u32 } else { 0 });
                if random.one_in(4) { 16 * random.below(4) } else { 16 }
            }
            8 => 20,
            _ => 512 * random.below(33),
        };
        let odd = if random.one_in(16) { random.below(512) } else { 0 };
        parts.add(data, (length + odd) as u32, matches!(kind, 0 | 8));
    }
    parts.add(memory.data(random), 1, true);
}

/// Virtio 1.2, 5.1.6: a header with offloads that make no sense, and a frame.
fn frame(random: &mut Random, memory: &Memory, parts: &mut Parts) {
    let header = memory.data(random);
    for word in 0..3 {
        write32(header + 4 * word, if random.one_in(2) { 0 } else { random.next() as u32 });
    }
    let length = random.length();
    if random.one_in(2) {
        parts.add(header, 12, false);
        parts.add(memory.data(random), length, false);
    } else {
        parts.add(header, 12 + length.min(1 << 15), false);
    }
}

/// Virtio 1.2, 5.10.6: a packet. In half of the cases it is a valid one of a stream.
fn packet(random: &mut Random, config: u64, memory: &Memory, parts: &mut Parts) {
    let header = memory.data(random);
    let own_cid = u64::from(board::read32(config));
    let mut length = random.length();
    let ports = [1024, 1025, random.below(16), random.below(16), random.next()];
    if random.one_in(2) {
        // Operations: request, data, credit update, credit request; occasionally shutdown or reset.
        let operation = random.choose([1, 5, 5, 5, 5, 5, 6, 7, 4, 3]);
        length = if operation == 5 { length } else { 0 };
        write64(header, own_cid);
        write64(header + 8, 2);
        write32(header + 16, 7 + random.below(4) as u32);
        write32(header + 20, 1024);
        write32(header + 24, length);
        write32(header + 28, 1 | operation << 16);
        write32(header + 32, 0);
        write32(header + 36, 1 << 16);
        write32(header + 40, 0);
    } else {
        write64(header, if random.one_in(16) { random.number() } else { own_cid });
        write64(header + 8, if random.one_in(16) { random.number() } else { 2 });
        write32(header + 16, random.choose(ports) as u32);
        write32(header + 20, random.choose(ports) as u32);
        write32(header + 24, if random.one_in(16) { random.number() as u32 } else { length });
        write16(header + 28, if random.one_in(16) { random.next() as u16 } else { 1 });
        write16(header + 30, if random.one_in(16) { random.next() as u16 } else { random.below(9) as u16 });
        write32(header + 32, random.below(4) as u32);
        write32(header + 36, random.number() as u32);
        write32(header + 40, random.number() as u32);
    }
    parts.add(header, 44, false);
    if length > 0 {
        parts.add(memory.data(random), length, false);
    }
}

/// Virtio 1.2, 5.5.6: page numbers, of this guest's own pages or of pages that do not exist.
fn pages(random: &mut Random, memory: &Memory, parts: &mut Parts) {
    let list = memory.data(random);
    let count = random.below(256);
    let some_are_wrong = random.one_in(3);
    for index in 0..count {
        let page =
            if some_are_wrong && random.one_in(8) { memory.anywhere(random) } else { memory.data(random) };
        write32(list + 4 * index, (page >> 12) as u32);
    }
    let odd = if some_are_wrong { random.below(4) } else { 0 };
    parts.add(list, (4 * count + odd) as u32, false);
}

/// Reads 16 bits of memory of this CPU.
pub(crate) fn read16(address: u64) -> u16 {
    // SAFETY: all callers read from the areas above, which are mapped.
    unsafe { read_volatile(address as *const u16) }
}

/// Writes 16 bits to memory of this CPU.
pub(crate) fn write16(address: u64, value: u16) {
    // SAFETY: all callers write to the areas above, which are mapped and contain no data of the program.
    unsafe { write_volatile(address as *mut u16, value) };
}

/// Writes 32 bits to memory of this CPU.
pub(crate) fn write32(address: u64, value: u32) {
    // SAFETY: as for `write16`.
    unsafe { write_volatile(address as *mut u32, value) };
}

/// Writes 64 bits to memory of this CPU.
pub(crate) fn write64(address: u64, value: u64) {
    // SAFETY: as for `write16`.
    unsafe { write_volatile(address as *mut u64, value) };
}
