//! Virtqueues as devices use them: a device pops a descriptor chain as checked buffers, pushes it back as used, and
//! notifies the driver if the driver has not suppressed that.
//!
//! `virtio-queue` walks the rings; this module adds the checks that the specification leaves to the
//! device (2.7.4, 2.7.5): every buffer lies in guest memory, readable buffers come before writable ones,
//! and a chain is no longer than its queue. Nothing is allocated once a [`Chain`] exists.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// Flag in the available ring: the driver polls and wants no interrupts (2.7.7).
const NO_INTERRUPT: u16 = 1;

/// How a driver broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A ring lies outside guest memory or its indexes are not valid.
    #[error("virtqueue ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// A buffer lies outside guest memory.
    #[error("descriptor at {address:#x}+{length:#x} lies outside guest memory")]
    OutsideMemory {
        /// Guest-physical address of the buffer.
        address: u64,
        /// Length of the buffer in bytes.
        length: u32,
    },
    /// A readable buffer follows a writable one.
    #[error("a device-readable descriptor follows a device-writable one")]
    Order,
    /// A chain has more descriptors than the queue.
    #[error("descriptor chain longer than the queue ({0} entries)")]
    TooLong(u16),
}

/// One descriptor chain as two lists of buffers in guest memory: those that the device may read, then those that it
/// may write. The structure is reused from chain to chain.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    buffers: Vec<libc::iovec>,
    split: usize,
    readable_len: usize,
    writable_len: usize,
    /// Keeps the mapping alive that `buffers` points into.
    memory: Option<GuestMemory>,
}

// SAFETY: the raw pointers point into guest memory, which `memory` keeps mapped and which every thread may access.
unsafe impl Send for Chain {}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// Makes an empty chain, to be filled by [`VirtQueue::pop`].
    #[must_use]
    pub fn new() -> Self {
        Self { head: 0, buffers: Vec::new(), split: 0, readable_len: 0, writable_len: 0, memory: None }
    }

    /// Index of the chain's first descriptor, for [`VirtQueue::push_used`].
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Number of bytes that the device may read.
    #[must_use]
    pub fn readable_len(&self) -> usize {
        self.readable_len
    }

    /// Number of bytes that the device may write.
    #[must_use]
    pub fn writable_len(&self) -> usize {
        self.writable_len
    }

    /// The device-readable buffers. Each points into guest memory and stays valid until this chain is dropped or
    /// refilled; the guest may change their contents at any time.
    #[must_use]
    pub fn readable(&self) -> &[libc::iovec] {
        self.buffers.get(..self.split).unwrap_or_default()
    }

    /// The device-writable buffers, valid for as long as those of [`Self::readable`].
    #[must_use]
    pub fn writable(&self) -> &[libc::iovec] {
        self.buffers.get(self.split..).unwrap_or_default()
    }

    /// Copies readable bytes from `offset` on into `data`; returns the number of bytes copied, which is less than
    /// `data.len()` when the chain has fewer.
    #[must_use]
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        for_each_part(self.readable(), offset, data.len(), |pointer, length| {
            // SAFETY: `pointer..pointer + length` is mapped guest memory, `done + length <= data.len()`, and a
            // slice of the monitor's own memory never overlaps guest memory.
            unsafe {
                std::ptr::copy_nonoverlapping(pointer.cast_const(), data.as_mut_ptr().add(done), length)
            };
            done += length;
        });
        done
    }

    /// Copies `data` into the writable bytes from `offset` on; returns the number of bytes that fitted.
    #[must_use]
    pub fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        for_each_part(self.writable(), offset, data.len(), |pointer, length| {
            // SAFETY: as in `read_at`, in the other direction.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr().add(done), pointer, length) };
            done += length;
        });
        done
    }

    fn clear(&mut self) {
        self.buffers.clear();
        self.split = 0;
        self.readable_len = 0;
        self.writable_len = 0;
    }

    fn add(&mut self, memory: &GuestMemory, descriptor: Descriptor, limit: u16) -> Result<(), QueueError> {
        let length = descriptor.len();
        if length == 0 {
            return Ok(());
        }
        if self.buffers.len() >= usize::from(limit) {
            return Err(QueueError::TooLong(limit));
        }
        let bytes = length as usize;
        let slice = memory
            .get_slice(descriptor.addr(), bytes)
            .map_err(|_| QueueError::OutsideMemory { address: descriptor.addr().0, length })?;
        if descriptor.is_write_only() {
            self.writable_len += bytes;
        } else {
            if self.split != self.buffers.len() {
                return Err(QueueError::Order);
            }
            self.split += 1;
            self.readable_len += bytes;
        }
        let iov_base = slice.ptr_guard_mut().as_ptr().cast();
        self.buffers.push(libc::iovec { iov_base, iov_len: bytes });
        Ok(())
    }
}

/// Walks the parts of `buffers` that hold bytes `offset..offset + length`.
pub(crate) fn for_each_part(
    buffers: &[libc::iovec],
    mut offset: usize,
    mut length: usize,
    mut part: impl FnMut(*mut u8, usize),
) {
    for buffer in buffers {
        if length == 0 {
            return;
        }
        if offset >= buffer.iov_len {
            offset -= buffer.iov_len;
            continue;
        }
        let run = (buffer.iov_len - offset).min(length);
        // SAFETY: `offset < iov_len`, so the pointer stays inside the buffer.
        part(unsafe { buffer.iov_base.cast::<u8>().add(offset) }, run);
        offset = 0;
        length -= run;
    }
}

/// Addresses, sizes and indexes of a queue, as the driver set it up; also the state that a snapshot keeps.
pub use virtio_queue::QueueState;

/// A queue that a driver has set up.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    memory: GuestMemory,
    interrupt: Arc<Interrupt>,
    /// The used index at the last call of [`Self::notify`].
    notified: Wrapping<u16>,
}

impl VirtQueue {
    /// Takes over a queue whose rings the driver has placed.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when a ring lies outside guest memory or is misaligned.
    pub fn new(
        state: QueueState,
        memory: GuestMemory,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, QueueError> {
        let queue = Queue::try_from(state)?;
        if !queue.is_valid(&memory) {
            return Err(QueueError::Ring(virtio_queue::Error::QueueNotReady));
        }
        let notified = Wrapping(queue.next_used());
        Ok(Self { queue, memory, interrupt, notified })
    }

    /// Number of descriptors in the queue.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// State of the queue, for a snapshot.
    #[must_use]
    pub fn state(&self) -> QueueState {
        self.queue.state()
    }

    /// Pops the next available chain into `chain`; `false` when there is none.
    ///
    /// # Errors
    /// [`QueueError`] when the rings or the chain break the specification.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        chain.clear();
        let limit = self.queue.size();
        let Some(descriptors) = self.queue.iter(&self.memory)?.next() else { return Ok(false) };
        chain.head = descriptors.head_index();
        for descriptor in descriptors {
            chain.add(&self.memory, descriptor, limit)?;
        }
        if chain.memory.is_none() {
            chain.memory = Some(self.memory.clone());
        }
        Ok(true)
    }

    /// Puts the last `count` popped chains back, so that [`Self::pop`] returns them again.
    pub fn undo_pop(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// How many chains the driver has made available so far, modulo 2^16.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring is broken.
    pub fn available_index(&self) -> Result<u16, QueueError> {
        Ok(self.queue.avail_idx(&self.memory, Ordering::Acquire)?.0)
    }

    /// Returns the chain that starts at `head` to the driver, with `written` bytes written.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when `head` is not one of the queue's.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&self.memory, head, written)?)
    }

    /// Returns several chains, each given as its head and the bytes written, to the driver at once: the driver sees all
    /// of them or none. A packet in several receive buffers requires that (5.1.6.4).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when a head is not one of the queue's.
    pub fn push_used_together(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueError> {
        let Some((&(last, written), before)) = chains.split_last() else { return Ok(()) };
        let size = self.queue.size();
        let mut next = Wrapping(self.queue.next_used());
        for &(head, written) in before {
            if head >= size {
                return Err(QueueError::Ring(virtio_queue::Error::InvalidDescriptorIndex));
            }
            let entry = self.queue.used_ring() + 4 + 8 * u64::from(next.0 % size);
            // A used element: `le32` head, `le32` bytes written (2.7.8).
            let element = (u64::from(head) | u64::from(written) << 32).to_le();
            let stored = self.memory.write_obj(element, GuestAddress(entry));
            stored.map_err(|error| QueueError::Ring(virtio_queue::Error::GuestMemory(error)))?;
            next += 1;
        }
        // Pushing the last chain publishes the used index of all of them.
        self.queue.set_next_used(next.0);
        self.push_used(last, written)
    }

    /// Raises the interrupt if the driver wants one for the chains pushed since the last call.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring is broken.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let used = Wrapping(self.queue.next_used());
        let before = std::mem::replace(&mut self.notified, used);
        // The used index must be visible before the driver's suppression fields are read (2.7.7.2, 2.7.10.1).
        fence(Ordering::SeqCst);
        let wanted = if self.queue.event_idx_enabled() {
            // The driver's `used_event` field follows the available ring.
            let at = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
            let event = Wrapping(u16::from_le(self.load(at)?));
            used - event - Wrapping(1) < used - before
        } else {
            u16::from_le(self.load(self.queue.avail_ring())?) & NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    fn load(&self, address: u64) -> Result<u16, QueueError> {
        let value = self.memory.load(GuestAddress(address), Ordering::Relaxed);
        value.map_err(|error| QueueError::Ring(virtio_queue::Error::GuestMemory(error)))
    }

    /// Re-enables notifications from the driver. Returns `true` when the driver has made a chain available meanwhile;
    /// the caller must then continue to pop.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring is broken.
    pub fn enable_notification(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.memory)?)
    }

    /// Disables notifications from the driver, for the time in which the device processes the queue anyway.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the ring is broken.
    pub fn disable_notification(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&self.memory)?)
    }

    /// Address of the descriptor table; used by tests.
    #[must_use]
    pub fn descriptor_table(&self) -> GuestAddress {
        GuestAddress(self.queue.desc_table())
    }
}
