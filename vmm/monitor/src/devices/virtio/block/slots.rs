//! Slots hold all that a request needs while it is in progress. They are allocated in advance.
//!
//! A slot keeps the request's chain, and so the mapping of its buffers, until the kernel has finished with them.
//! The buffer lists of all slots lie in one arena, which is mapped only where it is used.

use std::mem::MaybeUninit;

use super::backend::Extent;
use super::request::{HEADER_LEN, Operation, Request};
use super::{QUEUE_SIZE, SECTOR_SIZE};
use crate::devices::virtio::queue::{Chain, for_each_part};

/// Largest number of requests in progress at a time.
pub(super) const SLOTS: u16 = 128;
/// Largest number of operations of one request in progress at a time.
pub(super) const MAX_PARTS: usize = 4;
/// Number of buffers in a slot's list: every part may cut one of the queue's buffers in two.
const IOVECS: usize = QUEUE_SIZE as usize + MAX_PARTS;

/// Kind of operation that a part performs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    Read,
    Write,
    /// Deallocates storage if possible: it is no error if the host cannot do that.
    Discard,
    /// Zeroes and deallocates the storage.
    Punch,
    /// Zeroes and keeps the storage.
    Zero,
    /// Zeroes by writing zeros.
    WriteZeros,
}

/// One operation of a request, on adjacent sectors in one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) kind: PartKind,
    /// Index of the file.
    pub(super) file: u32,
    /// Offset in that file of the remaining range, in bytes.
    pub(super) offset: u64,
    /// Number of remaining bytes.
    pub(super) left: u64,
    /// First sector of the operation; `sectors` is their number.
    pub(super) sector: u64,
    pub(super) sectors: u64,
    /// Position of the remaining range's buffers in the slot's part of the arena; `iovecs` is their number.
    pub(super) first_iovec: usize,
    pub(super) iovecs: usize,
    /// Number of attempts since the last progress.
    pub(super) attempts: u8,
}

impl Part {
    pub(super) fn new(kind: PartKind, sector: u64, extent: Extent) -> Self {
        Self {
            kind,
            file: extent.file,
            offset: extent.offset,
            left: extent.sectors * SECTOR_SIZE,
            sector,
            sectors: extent.sectors,
            first_iovec: 0,
            iovecs: 0,
            attempts: 0,
        }
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) chain: Chain,
    pub(super) request: Option<Request>,
    /// Number of bytes of a read or write, or of segments of another request, that have been turned into parts.
    pub(super) issued: u64,
    /// The parts in progress; `None` where there is room for one.
    pub(super) parts: [Option<Part>; MAX_PARTS],
    /// Number of arena entries used by the parts that were made since the slot last had none in progress.
    pub(super) used_iovecs: usize,
    pub(super) failed: bool,
}

impl Slot {
    fn new() -> Self {
        Self {
            chain: Chain::new(),
            request: None,
            issued: 0,
            parts: [None; MAX_PARTS],
            used_iovecs: 0,
            failed: false,
        }
    }

    /// Whether any part is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.parts.iter().any(Option::is_some)
    }
}

/// All slots of a device.
pub(super) struct Slots {
    /// The slots. The vector grows up to its capacity of [`SLOTS`], so that slots that are never needed cost nothing.
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// [`IOVECS`] entries for each slot, and one for the flush.
    arena: Box<[MaybeUninit<libc::iovec>]>,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("slots", &self.slots.len()).field("free", &self.free.len()).finish()
    }
}

// SAFETY: the pointers in the arena point into guest memory, which the slots' chains keep mapped and which every
// thread may access, or into the zeros that live as long as the slots.
unsafe impl Send for Slots {}

impl Slots {
    pub(super) fn new() -> Self {
        let count = usize::from(SLOTS);
        Self {
            slots: Vec::with_capacity(count),
            free: Vec::with_capacity(count),
            arena: Box::new_uninit_slice(count * IOVECS + 1),
        }
    }

    /// Takes a free slot; `None` when all are taken.
    pub(super) fn claim(&mut self) -> Option<u16> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u16::try_from(self.slots.len()).ok().filter(|index| *index < SLOTS)?;
        self.slots.push(Slot::new());
        Some(index)
    }

    /// Releases a slot.
    pub(super) fn release(&mut self, index: u16) {
        if let Some(slot) = self.get_mut(index) {
            slot.request = None;
        }
        self.free.push(index);
    }

    /// Drops all requests. No operation may be in progress.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
    }

    /// Whether any slot is taken.
    pub(super) fn any_taken(&self) -> bool {
        self.free.len() < self.slots.len()
    }

    /// Bytes of the writes in progress.
    pub(super) fn bytes_written(&self) -> u64 {
        let requests = self.slots.iter().filter_map(|slot| slot.request);
        let writes = requests.filter(|request| request.operation == Operation::Write);
        writes.fold(0, |sum, request| sum.saturating_add(request.bytes))
    }

    pub(super) fn get(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    /// Lists the guest's buffers for `part`, which starts `skip` bytes into the data of slot `index`. Buffers that do
    /// not fit into the arena are left out: the part is then shorter.
    pub(super) fn gather(&mut self, index: u16, skip: u64, part: &mut Part) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        let (buffers, header) = match part.kind {
            PartKind::Write => (slot.chain.readable(), HEADER_LEN),
            _ => (slot.chain.writable(), 0),
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).saturating_add(header);
        let length = usize::try_from(part.left).unwrap_or(usize::MAX);
        let start = usize::from(index) * IOVECS;
        let Some(arena) = self.arena.get_mut(start..start + IOVECS) else { return };
        part.first_iovec = slot.used_iovecs;
        for_each_part(buffers, skip, length, |pointer, run| {
            if let Some(entry) = arena.get_mut(slot.used_iovecs) {
                entry.write(libc::iovec { iov_base: pointer.cast(), iov_len: run });
                slot.used_iovecs += 1;
            }
        });
        part.iovecs = slot.used_iovecs - part.first_iovec;
    }

    /// Makes `part` write from `zeros`: all of them, or as many as remain to be written if that is less.
    pub(super) fn gather_zeros(&mut self, index: u16, part: &mut Part, zeros: &[u8]) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        if part.iovecs == 0 {
            part.first_iovec = slot.used_iovecs;
            slot.used_iovecs += 1;
        }
        let position = usize::from(index) * IOVECS + part.first_iovec;
        part.iovecs = usize::from(part.first_iovec < IOVECS);
        if let (Some(entry), 1) = (self.arena.get_mut(position), part.iovecs) {
            let length = usize::try_from(part.left).unwrap_or(usize::MAX).min(zeros.len());
            entry.write(libc::iovec { iov_base: zeros.as_ptr().cast_mut().cast(), iov_len: length });
        }
    }

    /// Lists `bytes` as the buffer that the flush writes; returns the list's address, for the kernel, and its length.
    pub(super) fn gather_staged(&mut self, bytes: &[u8]) -> (*const libc::iovec, u32) {
        let Some(entry) = self.arena.last_mut() else { return (std::ptr::null(), 0) };
        let iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        (std::ptr::from_ref(entry.write(iovec)), 1)
    }

    /// Removes the first `done` bytes from the buffers of `part`.
    pub(super) fn advance(&mut self, index: u16, part: &mut Part, mut done: usize) {
        while done > 0 && part.iovecs > 0 {
            let position = usize::from(index) * IOVECS + part.first_iovec;
            let Some(entry) = self.arena.get_mut(position) else { return };
            // SAFETY: the entries of a part were written when it was gathered.
            let iovec = unsafe { entry.assume_init_mut() };
            if done < iovec.iov_len {
                // SAFETY: still inside the buffer, as `done` is less than its length.
                iovec.iov_base = unsafe { iovec.iov_base.cast::<u8>().add(done) }.cast();
                iovec.iov_len -= done;
                return;
            }
            done -= iovec.iov_len;
            part.first_iovec += 1;
            part.iovecs -= 1;
        }
    }

    /// Address of the list of `part`'s buffers, for the kernel, and their number.
    pub(super) fn iovecs(&self, index: u16, part: &Part) -> (*const libc::iovec, u32) {
        let position = usize::from(index) * IOVECS + part.first_iovec;
        let list = self.arena.get(position..position + part.iovecs).unwrap_or_default();
        (list.as_ptr().cast(), u32::try_from(list.len()).unwrap_or(0))
    }
}
