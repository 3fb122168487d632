//! The receive direction: packets from the backend to the guest.
//!
//! The length of a packet is known only once it has been read. So the device takes as many of the guest's
//! buffers in advance as the largest packet needs, reads into all of them at once and uses up those that were
//! written. The rest serve the next packet; a pause puts them back into their queue. Behind them is a spill buffer of
//! the device's own, which shows whether a packet was longer than the guest's buffers.

use std::io;

use super::super::DeviceError;
use super::super::queue::{Chain, QueueState, VirtQueue, for_each_part};
use super::backend::Backend;
use super::throttle::Throttle;
use super::{Counters, HEADER_LEN, MAX_PACKET_LEN, QUEUE_SIZE};
use crate::memory::GuestMemory;

/// Largest number of buffers in one `readv`, including the spill buffer (`IOV_MAX`).
const MAX_BUFFERS: usize = 1024;
/// Largest number of packets that are read before the device thread serves other events.
const BATCH: usize = 64;
/// Offset of `num_buffers` in the header (5.1.6).
const NUM_BUFFERS_OFFSET: usize = 10;

/// A chain that was taken from the queue in advance.
#[derive(Debug, Clone, Copy)]
struct Entry {
    head: u16,
    buffers: usize,
    bytes: usize,
}

/// Why a batch stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is no packet, or there may be more: continue when the backend is readable.
    WaitReadable,
    /// The guest has no buffers: continue when it notifies that there are some.
    WaitBuffers,
    /// The rate limit is reached: continue when the timer expires.
    WaitTimer,
    /// The backend is closed.
    Closed,
}

/// The receive queue and the buffers taken from it.
#[derive(Debug)]
pub(super) struct Receiver {
    queue: VirtQueue,
    chain: Chain,
    mergeable: bool,
    entries: Vec<Entry>,
    buffers: Vec<libc::iovec>,
    bytes: usize,
    used: Vec<(u16, u32)>,
    spill: Box<[u8]>,
    /// Keeps the mapping alive that `buffers` points into.
    _memory: GuestMemory,
}

// SAFETY: the raw pointers point into guest memory, which `_memory` keeps mapped and which every thread may
// access, or into `spill`, which this structure owns.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(super) fn new(queue: VirtQueue, memory: GuestMemory, mergeable: bool) -> Self {
        Self {
            queue,
            chain: Chain::new(),
            mergeable,
            entries: Vec::with_capacity(usize::from(QUEUE_SIZE)),
            buffers: Vec::with_capacity(MAX_BUFFERS),
            bytes: 0,
            used: Vec::with_capacity(usize::from(QUEUE_SIZE)),
            spill: vec![0; MAX_PACKET_LEN].into_boxed_slice(),
            _memory: memory,
        }
    }

    /// Moves packets from `backend` to the guest until one of them has to wait.
    ///
    /// `debt` is the length of a packet that was delivered before it had paid its tokens, because its length was not
    /// known earlier. The debt is paid before anything else passes, so a limit is exceeded by at most one packet.
    ///
    /// # Errors
    /// When the driver broke the queue.
    pub(super) fn run(
        &mut self,
        backend: &Backend,
        throttle: &mut Throttle,
        debt: &mut Option<usize>,
        counters: &mut Counters,
    ) -> Result<Outcome, DeviceError> {
        let outcome = self.batch(backend, throttle, debt, counters);
        self.queue.notify()?;
        outcome
    }

    fn batch(
        &mut self,
        backend: &Backend,
        throttle: &mut Throttle,
        debt: &mut Option<usize>,
        counters: &mut Counters,
    ) -> Result<Outcome, DeviceError> {
        for _ in 0..BATCH {
            if let Some(owed) = *debt {
                if !throttle.admit(owed).map_err(DeviceError::backend("arming the receive limit's timer"))? {
                    return Ok(Outcome::WaitTimer);
                }
                *debt = None;
            }
            self.gather()?;
            if self.entries.is_empty() {
                if self.queue.enable_notification()? {
                    continue;
                }
                return Ok(Outcome::WaitBuffers);
            }
            let read = self.read(backend);
            let length = match read {
                Ok(0) => return Ok(Outcome::Closed),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::WaitReadable),
                Err(_) => {
                    counters.errors += 1;
                    return Ok(Outcome::Closed);
                }
            };
            if length < HEADER_LEN {
                counters.errors += 1;
                continue;
            }
            *debt = Some(length - HEADER_LEN);
            if length > self.bytes {
                counters.drops += 1;
                continue;
            }
            self.deliver(length)?;
            counters.packets += 1;
            counters.bytes += (length - HEADER_LEN) as u64;
        }
        Ok(Outcome::WaitReadable)
    }

    /// Takes buffers from the queue until the next packet certainly fits, or there are no more.
    fn gather(&mut self) -> Result<(), DeviceError> {
        let enough = if self.mergeable { MAX_PACKET_LEN } else { 1 };
        let room_for_a_chain = MAX_BUFFERS - 1 - usize::from(QUEUE_SIZE);
        while self.bytes < enough
            && self.buffers.len() <= room_for_a_chain
            && self.entries.len() < usize::from(QUEUE_SIZE)
            && self.queue.pop(&mut self.chain)?
        {
            let bytes = self.chain.writable_len();
            if bytes < HEADER_LEN {
                return Err(DeviceError::Protocol("a receive buffer is shorter than a packet's header"));
            }
            self.buffers.extend_from_slice(self.chain.writable());
            self.entries.push(Entry { head: self.chain.head(), buffers: self.chain.writable().len(), bytes });
            self.bytes += bytes;
        }
        Ok(())
    }

    fn read(&mut self, backend: &Backend) -> io::Result<usize> {
        let spill = libc::iovec { iov_base: self.spill.as_mut_ptr().cast(), iov_len: self.spill.len() };
        self.buffers.push(spill);
        // SAFETY: the guest's buffers were checked when they were popped and are kept mapped; the spill buffer
        // belongs to this structure, and nothing borrows it.
        let read = unsafe { backend.read(&self.buffers) };
        self.buffers.pop();
        read
    }

    /// Returns to the guest the buffers into which the packet of `length` bytes was read.
    fn deliver(&mut self, length: usize) -> Result<(), DeviceError> {
        let (mut left, mut buffers) = (length, 0);
        self.used.clear();
        for entry in &self.entries {
            let written = entry.bytes.min(left);
            // The number is at most `MAX_PACKET_LEN` plus the length of the spill buffer.
            self.used.push((entry.head, u32::try_from(written).unwrap_or(u32::MAX)));
            left -= written;
            buffers += entry.buffers;
            self.bytes -= entry.bytes;
            if left == 0 {
                break;
            }
        }
        // There are never more entries than a queue holds.
        let count = u16::try_from(self.used.len()).unwrap_or(u16::MAX).to_le_bytes();
        let mut done = 0;
        for_each_part(&self.buffers, NUM_BUFFERS_OFFSET, count.len(), |pointer, length| {
            // SAFETY: `pointer..pointer + length` is mapped guest memory, and `done + length` stays in `count`.
            unsafe { std::ptr::copy_nonoverlapping(count.as_ptr().add(done), pointer, length) };
            done += length;
        });
        self.queue.push_used_together(&self.used)?;
        self.entries.drain(..self.used.len().min(self.entries.len()));
        self.buffers.drain(..buffers.min(self.buffers.len()));
        Ok(())
    }

    /// State of the queue, for a snapshot.
    pub(super) fn queue_state(&self) -> QueueState {
        self.queue.state()
    }

    /// Disables notifications from the driver, because the device checks the queue anyway.
    ///
    /// # Errors
    /// When the queue is broken.
    pub(super) fn disable_notification(&mut self) -> Result<(), DeviceError> {
        Ok(self.queue.disable_notification()?)
    }

    /// Puts the buffers that were taken in advance back into the queue.
    pub(super) fn put_back(&mut self) {
        // There are never more entries than a queue holds.
        self.queue.undo_pop(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        self.entries.clear();
        self.buffers.clear();
        self.bytes = 0;
    }
}
