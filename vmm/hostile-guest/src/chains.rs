//! Rings (virtio 1.2, 2.7) and descriptor chains, valid ones and many kinds of invalid ones.

use crate::payload::{self, Memory, Part, Parts};
use crate::random::Random;

/// Descriptor flags (2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Offsets of the parts of a ring in its area.
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
/// Offset of the indirect tables in the ring's area, number of descriptors in a table, and number of tables.
const TABLES: u64 = 0x8000;
const TABLE_LENGTH: u64 = 16;
const TABLE_COUNT: u64 = 32;

/// A ring in memory, or the information that the ring is not where this guest can write to it.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    area: u64,
    size: u16,
    usable: bool,
    /// On average one chain in `rarity` is invalid; 0 means none.
    rarity: u64,
    available: u16,
    /// Index of the descriptor after the last one used.
    next: u16,
}

struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Ring {
    /// Creates a ring of `size` entries. A device stops at the first invalid chain, so only some rings get many of
    /// them: one chain in `rarity`, or none if that is 0.
    pub(crate) fn new(area: u64, size: u16, rarity: u64) -> Self {
        Self { area, size, usable: true, rarity, available: 0, next: 0 }
    }

    /// Creates a ring whose real location is elsewhere.
    pub(crate) fn nowhere(area: u64) -> Self {
        Self { area, size: 1, usable: false, rarity: 0, available: 0, next: 0 }
    }

    /// Whether to do the next thing wrong.
    fn errs(&self, random: &mut Random) -> bool {
        self.rarity != 0 && random.one_in(self.rarity)
    }

    /// Returns the number of entries of the ring.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Returns the addresses of the descriptor table, the available ring and the used ring.
    pub(crate) fn parts(&self) -> [u64; 3] {
        [self.area, self.area + AVAILABLE, self.area + USED]
    }

    /// Resets the state that an earlier driver has left.
    pub(crate) fn clear(&mut self) {
        (self.available, self.next) = (0, 0);
        payload::write16(self.area + AVAILABLE, 0);
        payload::write16(self.area + AVAILABLE + 2, 0);
        payload::write16(self.area + USED + 2, 0);
    }

    fn put(&self, table: u64, index: u16, descriptor: &Descriptor) {
        let at = table + 16 * u64::from(index);
        payload::write64(at, descriptor.address);
        payload::write32(at + 8, descriptor.length);
        payload::write16(at + 12, descriptor.flags);
        payload::write16(at + 14, descriptor.next);
    }
}

/// Offers a few chains to the device and advances the index.
pub(crate) fn offer(
    random: &mut Random,
    ring: &mut Ring,
    device: u32,
    queue: usize,
    config: u64,
    memory: &Memory,
) {
    if !ring.usable {
        return;
    }
    // The number of chains that the device has not returned, as far as the device can be trusted.
    let waiting = ring.available.wrapping_sub(payload::read16(ring.area + USED + 2));
    let room = ring.size.saturating_sub(waiting);
    let mut chains = (1 + random.below(8) as u16).min(room);
    if ring.errs(random) {
        chains = 1 + random.below(8) as u16;
    }
    for number in 0..chains {
        let parts = payload::request(random, device, queue, config, memory);
        let mut head = ring.next;
        ring.next = head.wrapping_add(parts.as_slice().len() as u16) % ring.size;
        write_chain(random, ring, head, &parts, memory);
        if ring.errs(random) {
            head = if random.one_in(4) { random.number() } else { random.below(u64::from(ring.size)) } as u16;
        }
        let entry = ring.available.wrapping_add(number) % ring.size;
        payload::write16(ring.area + AVAILABLE + 4 + 2 * u64::from(entry), head);
    }
    ring.available = ring.available.wrapping_add(chains);
    if ring.errs(random) && random.one_in(4) {
        ring.available = random.number() as u16;
    }
    if random.one_in(8) {
        payload::write16(ring.area + AVAILABLE, random.next() as u16 & 1);
        let used_event = ring.area + AVAILABLE + 4 + 2 * u64::from(ring.size);
        payload::write16(used_event, random.number() as u16);
    }
    payload::write16(ring.area + AVAILABLE + 2, ring.available);
}

fn write_chain(random: &mut Random, ring: &Ring, head: u16, parts: &Parts, memory: &Memory) {
    if !ring.errs(random) {
        if random.one_in(3) || parts.as_slice().len() > usize::from(ring.size) {
            write_indirect(random, ring, head, parts, false);
        } else {
            write_list(ring, ring.area, ring.size, head, parts.as_slice(), 0);
        }
        return;
    }
    match random.below(12) {
        0..3 => write_indirect(random, ring, head, parts, true),
        3 => {
            // A loop.
            write_list(ring, ring.area, ring.size, head, parts.as_slice(), 0);
            let back = Descriptor { address: memory.data(random), length: 64, flags: NEXT, next: head };
            ring.put(ring.area, head.wrapping_add(1) % ring.size, &back);
        }
        4 => {
            let next = random.number() as u16;
            let stray = Descriptor { address: memory.data(random), length: 16, flags: NEXT, next };
            ring.put(ring.area, head, &stray);
        }
        5 => {
            let mut wrong = *parts;
            wrong.change(random, |random, part| part.address = memory.anywhere(random));
            write_list(ring, ring.area, ring.size, head, wrong.as_slice(), 0);
        }
        6 => {
            let mut wrong = *parts;
            wrong.change(random, |random, part| part.length = random.number() as u32);
            write_list(ring, ring.area, ring.size, head, wrong.as_slice(), 0);
        }
        7 => {
            let mut wrong = *parts;
            wrong.change(random, |_, part| part.writable = !part.writable);
            write_list(ring, ring.area, ring.size, head, wrong.as_slice(), 0);
        }
        8 => {
            let mut wrong = *parts;
            wrong.change(random, |random, part| part.length = random.below(4) as u32);
            write_list(ring, ring.area, ring.size, head, wrong.as_slice(), 0);
        }
        9 => {
            // A buffer that overlaps the ring itself.
            let mut wrong = *parts;
            let address = ring.parts()[random.below(3) as usize % 3];
            wrong.change(random, |_, part| part.address = address);
            write_list(ring, ring.area, ring.size, head, wrong.as_slice(), 0);
        }
        10 => {
            // A chain that continues after its request.
            write_list(ring, ring.area, ring.size, head, parts.as_slice(), NEXT);
        }
        _ => {
            let address = memory.anywhere(random);
            let (length, flags) = (random.number() as u32, random.next() as u16 & 7);
            ring.put(ring.area, head, &Descriptor { address, length, flags, next: random.number() as u16 });
        }
    }
}

/// Writes a chain of consecutive descriptors into a table of `size` entries, all with `more_flags`.
fn write_list(ring: &Ring, table: u64, size: u16, head: u16, parts: &[Part], more_flags: u16) {
    let mut index = head;
    for (number, part) in parts.iter().enumerate() {
        let next = index.wrapping_add(1) % size.max(1);
        let mut flags = more_flags;
        flags |= if part.writable { WRITE } else { 0 };
        flags |= if number + 1 == parts.len() { 0 } else { NEXT };
        ring.put(table, index, &Descriptor { address: part.address, length: part.length, flags, next });
        index = next;
    }
}

/// Writes the chain into an indirect table, a valid or an invalid one.
fn write_indirect(random: &mut Random, ring: &Ring, head: u16, parts: &Parts, wrong: bool) {
    let table = ring.area + TABLES + random.below(TABLE_COUNT) * TABLE_LENGTH * 16;
    let (mut length, mut flags, mut inner) = (16 * parts.as_slice().len() as u64, INDIRECT, 0);
    let mut address = table;
    if wrong {
        match random.below(8) {
            0 => inner = INDIRECT,
            1 => length += 1 + random.below(15),
            2 => length = 0,
            3 => length = random.number(),
            4 => flags |= NEXT,
            5 => flags |= WRITE,
            6 => address += 1 + random.below(15),
            _ => address = ring.area,
        }
    }
    write_list(ring, table, TABLE_LENGTH as u16, 0, parts.as_slice(), inner);
    let next = random.number() as u16;
    ring.put(ring.area, head, &Descriptor { address, length: length as u32, flags, next });
}
