//! Buffers for bytes of a stream that the guest has sent and the host's socket has not taken yet.

use crate::devices::virtio::queue::Chain;

/// A ring of bytes with a fixed capacity. Its memory is touched only as far as it is used.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Ring {
    /// Makes an empty ring for `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, len: 0 }
    }

    /// Number of bytes in the ring.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the ring is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bytes that the ring can hold.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The free space, in the order in which it fills.
    fn space(&mut self) -> [&mut [u8]; 2] {
        let (capacity, end) = (self.bytes.len(), self.start + self.len);
        let (front, back) = self.bytes.split_at_mut(self.start);
        if end >= capacity {
            // The contents wrap: the free space lies between their end at the front and their start.
            [front.get_mut(end - capacity..).unwrap_or_default(), &mut []]
        } else {
            [back.get_mut(self.len..).unwrap_or_default(), front]
        }
    }

    /// Appends `length` readable bytes of `chain` from `offset` on; returns the number of bytes that fitted.
    pub(super) fn append(&mut self, chain: &Chain, offset: usize, length: usize) -> usize {
        let mut done = 0;
        for space in self.space() {
            let run = space.len().min(length - done);
            done += chain.read_at(offset + done, space.get_mut(..run).unwrap_or_default());
        }
        self.len += done;
        done
    }

    /// The contents of the ring, oldest first.
    pub(super) fn contents(&self) -> [&[u8]; 2] {
        let (front, back) = self.bytes.split_at(self.start);
        let first = back.get(..self.len).unwrap_or(back);
        [first, front.get(..self.len - first.len()).unwrap_or_default()]
    }

    /// Removes the oldest `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.start = if self.len == 0 { 0 } else { (self.start + count) % self.bytes.len() };
    }
}

/// A pool of a few empty rings, so that streams that occasionally send faster than their peer reads allocate nothing.
#[derive(Debug)]
pub(super) struct RingPool {
    capacity: usize,
    spare: Vec<Ring>,
}

impl RingPool {
    /// Largest number of rings in the pool.
    const KEPT: usize = 8;

    /// Makes an empty pool for rings of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, spare: Vec::with_capacity(Self::KEPT) }
    }

    /// Takes an empty ring for `capacity` bytes from the pool, or makes one.
    pub(super) fn take(&mut self, capacity: usize) -> Ring {
        let spare = if capacity == self.capacity { self.spare.pop() } else { None };
        spare.unwrap_or_else(|| Ring::new(capacity))
    }

    /// Returns a ring to the pool; its contents are discarded.
    pub(super) fn give(&mut self, mut ring: Ring) {
        if ring.capacity() == self.capacity && self.spare.len() < Self::KEPT {
            ring.consume(usize::MAX);
            self.spare.push(ring);
        }
    }

    /// Drops all rings in the pool.
    pub(super) fn clear(&mut self) {
        self.spare.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use vm_memory::{Bytes as _, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::virtio::interrupt::Interrupt;
    use crate::devices::virtio::queue::VirtQueue;
    use crate::devices::virtio::testing::{Buffer, DriverQueue, test_memory};
    use crate::memory::DRAM_BASE;

    /// A chain over one buffer that holds `data`.
    fn chain_of(data: &[u8]) -> Chain {
        let memory = test_memory(1 << 20);
        let mut driver = DriverQueue::new(&memory, DRAM_BASE, 4);
        memory.write_slice(data, GuestAddress(DRAM_BASE + 0x1000)).unwrap();
        driver.add(&[Buffer::Read(DRAM_BASE + 0x1000, u32::try_from(data.len()).unwrap())]);
        let interrupt = Arc::new(Interrupt::new(EventFd::new(0).unwrap()));
        let mut queue = VirtQueue::new(driver.state(), memory, interrupt).unwrap();
        let mut chain = Chain::new();
        assert!(queue.pop(&mut chain).unwrap());
        chain
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_of_bytes(steps in proptest::collection::vec((any::<bool>(), 0..40usize), 1..200)) {
            let source: Vec<u8> = (0..=255).cycle().take(4096).collect();
            let chain = chain_of(&source);
            let mut ring = Ring::new(32);
            let mut model = std::collections::VecDeque::new();
            let mut offset = 0;
            for (append, count) in steps {
                if append {
                    let fitted = ring.append(&chain, offset, count);
                    prop_assert_eq!(fitted, count.min(32 - model.len()).min(source.len() - offset));
                    model.extend(&source[offset..offset + fitted]);
                    offset += fitted;
                } else {
                    ring.consume(count);
                    model.drain(..count.min(model.len()));
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.contents().concat(), model.iter().copied().collect::<Vec<u8>>());
            }
        }
    }
}
