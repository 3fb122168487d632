//! Turns requests into operations on files: splits requests into parts, tracks the parts, and runs flushes.

use std::collections::VecDeque;
use std::io;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};

use super::SECTOR_SIZE;
use super::backend::Disk;
use super::engine::{Engine, MAX_OPERATIONS};
use super::flush::{Flusher, Step};
use super::map::OverlayMap;
use super::request::{self, Limits, Operation, Request, Status};
use super::room::Room;
use super::slots::{MAX_PARTS, Part, PartKind, SLOTS, Slots};
use crate::devices::virtio::queue::Chain;

/// Largest number of sectors in one operation: 16 MiB. It bounds the walk through the map.
const MAX_PART_SECTORS: u64 = 1 << 15;
/// Operations on more bytes than this run in the kernel's worker threads from the start, so that copying does not
/// occupy the device thread. Drivers do not send such large requests for speed.
const INLINE_BYTES: u64 = 1 << 20;
/// From this number of operations in progress on, a request has only one at a time, so that there is always room for
/// one operation of every slot.
#[expect(clippy::cast_possible_truncation, reason = "a request has a handful of parts")]
const CROWDED: u32 = MAX_OPERATIONS - SLOTS as u32 - MAX_PARTS as u32 - 1;
/// Largest number of attempts at an operation that makes no progress.
const MAX_ATTEMPTS: u8 = 16;
/// Number of bytes written at a time where the host can only zero by writing.
const ZEROS: usize = 1 << 20;

/// Tag of the flush's operation. The tag of any other operation is the slot's index × 256 + the part's index.
const FLUSH_TAG: u64 = u64::MAX;

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A disk, its ring, and every request in progress.
#[derive(Debug)]
pub(super) struct DiskIo {
    disk: Disk,
    engine: Engine,
    slots: Slots,
    flusher: Flusher,
    flush_under_way: bool,
    flush_attempts: u8,
    write_through: bool,
    limits: Limits,
    room: Room,
    /// Finished requests, in the order in which they finished.
    finished: VecDeque<(u16, Status)>,
    /// Zeros to write; empty for a read-only disk.
    zeros: Vec<u8>,
    can_punch: bool,
    can_zero: bool,
}

impl DiskIo {
    /// `room`: the storage in bytes that the disk's writes may take.
    ///
    /// # Errors
    /// When the host provides no ring.
    pub(super) fn new(disk: Disk, room: Option<u64>) -> io::Result<Self> {
        let limits = Limits {
            sectors: disk.sectors(),
            read_only: disk.is_read_only(),
            discard: false,
            write_zeroes: false,
        };
        Ok(Self {
            engine: Engine::new(disk.files())?,
            slots: Slots::new(),
            flusher: Flusher::new(disk.map().is_some(), usize::from(SLOTS), !disk.is_fresh()),
            flush_under_way: false,
            flush_attempts: 0,
            write_through: false,
            limits,
            room: Room::new(room),
            finished: VecDeque::with_capacity(usize::from(SLOTS)),
            zeros: vec![0; if disk.is_read_only() { 0 } else { ZEROS }],
            can_punch: true,
            can_zero: true,
            disk,
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Sets the features that the driver negotiated, and whether every write must be durable when it completes.
    pub(super) fn configure(&mut self, discard: bool, write_zeroes: bool, write_through: bool) {
        self.limits.discard = discard;
        self.limits.write_zeroes = write_zeroes;
        self.write_through = write_through;
    }

    /// Takes a slot for a request; `None` when as many requests as possible are in progress.
    pub(super) fn claim(&mut self) -> Option<u16> {
        self.slots.claim()
    }

    /// Releases a slot that was claimed or whose request is finished.
    pub(super) fn release(&mut self, index: u16) {
        self.slots.release(index);
    }

    pub(super) fn chain(&self, index: u16) -> Option<&Chain> {
        self.slots.get(index).map(|slot| &slot.chain)
    }

    pub(super) fn chain_mut(&mut self, index: u16) -> Option<&mut Chain> {
        self.slots.get_mut(index).map(|slot| &mut slot.chain)
    }

    /// Number of bytes that `request` transfers, or may have to transfer.
    pub(super) fn cost(&self, request: &Request) -> u64 {
        match request.operation {
            Operation::Read | Operation::Write => request.bytes,
            Operation::WriteZeroes if !self.can_zero => request.bytes,
            _ => 0,
        }
    }

    /// Changes the storage in bytes that the disk's writes may take; returns whether it is another amount than before.
    pub(super) fn set_room(&mut self, room: Option<u64>) -> bool {
        self.room.set(room)
    }

    /// Whether the storage that `request` may take is within the bound; then it counts as taken. Discards take none, and
    /// neither do zeros where storage is bounded, unless the host can only write them.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn has_room(&mut self, request: &Request) -> io::Result<bool> {
        if !self.room.is_bounded() {
            return Ok(true);
        }
        let (sector, bytes) = match request.operation {
            Operation::Write => (request.sector, request.bytes),
            // Where its segments lie does not matter: they are not looked for in what is there already.
            Operation::WriteZeroes if !self.can_punch => (self.disk.sectors(), request.bytes),
            _ => return Ok(true),
        };
        let extent = self.disk.locate_for_write(sector, 0);
        match self.disk.files().get(extent.file as usize) {
            Some(file) => self.room.admit(file, extent.offset, bytes, || self.slots.bytes_written()),
            None => Ok(true),
        }
    }

    /// Finishes the request in slot `index` without any I/O.
    pub(super) fn answer(&mut self, index: u16, status: Status) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.request = None;
        }
        self.finished.push_back((index, status));
    }

    /// Starts `request`, whose chain is in slot `index`.
    pub(super) fn start(&mut self, index: u16, request: Request) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.request = Some(request);
        slot.issued = 0;
        slot.failed = false;
        if request.operation == Operation::Flush {
            self.flusher.wait(index);
        } else {
            self.next_round(index);
        }
    }

    /// Takes a finished request: its slot, the request (`None` if it was answered without I/O) and its status.
    pub(super) fn take_finished(&mut self) -> Option<(u16, Option<Request>, Status)> {
        let (index, status) = self.finished.pop_front()?;
        Some((index, self.slots.get(index).and_then(|slot| slot.request), status))
    }

    /// Submits the queued operations to the kernel. Returns `false` when the kernel cannot take all of them now.
    pub(super) fn submit(&mut self) -> io::Result<bool> {
        self.drive_flush();
        self.engine.submit()
    }

    /// Handles all completions; returns `false` when there were none.
    pub(super) fn reap(&mut self) -> bool {
        let mut any = false;
        // Handling a completion never causes another one at once, so this loop terminates.
        while let Some((tag, result)) = self.engine.pop() {
            any = true;
            if tag == FLUSH_TAG {
                self.flush_returned(result);
            } else {
                let (slot, part) = (u16::try_from(tag >> 8), usize::try_from(tag & 0xff));
                if let (Ok(slot), Ok(part)) = (slot, part) {
                    self.part_returned(slot, part, result);
                }
            }
        }
        any
    }

    /// Whether requests or a flush are in progress, or finished requests have not been released.
    pub(super) fn is_busy(&self) -> bool {
        self.slots.any_taken() || self.flush_under_way || self.engine.in_flight() > 0
    }

    /// Starts a flush that no request asked for; returns `false` when everything is durable already.
    pub(super) fn begin_flush(&mut self) -> bool {
        if self.flusher.is_clean(self.disk.map()) {
            return false;
        }
        self.flusher.begin(self.disk.map_mut());
        self.drive_flush();
        true
    }

    /// Whether the last flush failed, so that not everything that was written is durable.
    pub(super) fn flush_has_failed(&self) -> bool {
        self.flusher.has_failed()
    }

    /// The map of the disk's overlay, if it has one.
    pub(super) fn overlay_map(&self) -> Option<&OverlayMap> {
        self.disk.map()
    }

    /// Waits for all operations that the kernel has, and drops all requests.
    pub(super) fn abandon(&mut self) {
        while self.engine.in_flight() > 0 {
            while let Some((tag, result)) = self.engine.pop() {
                if tag == FLUSH_TAG && result < 0 {
                    self.flusher.failed(self.disk.map_mut());
                }
            }
            // An error here means that the ring itself is gone: then there will be no more completions.
            if self.engine.in_flight() > 0 && self.engine.wait().is_err() {
                break;
            }
        }
        self.flusher.abandon(self.disk.map_mut());
        self.flush_under_way = false;
        self.finished.clear();
        self.slots.clear();
    }
}

// === Parts ===

impl DiskIo {
    /// Makes the next parts of the request in slot `index`, which has no parts in progress. Finishes the request when
    /// there are no more parts.
    fn next_round(&mut self, index: u16) {
        let room = if self.engine.in_flight() < CROWDED { MAX_PARTS } else { 1 };
        if let Some(slot) = self.slots.get_mut(index) {
            slot.used_iovecs = 0;
        }
        for position in 0..room {
            let Some(part) = self.next_part(index) else { break };
            self.issue(index, position, part);
        }
        if self.slots.get(index).is_some_and(|slot| !slot.is_busy()) {
            self.complete(index);
        }
    }

    fn next_part(&mut self, index: u16) -> Option<Part> {
        let slot = self.slots.get_mut(index)?;
        let request = slot.request.filter(|_| !slot.failed)?;
        if matches!(request.operation, Operation::Discard | Operation::WriteZeroes) {
            return self.next_segment(index, request);
        }
        let issued = slot.issued;
        let sector = request.sector + issued / SECTOR_SIZE;
        let sectors = ((request.bytes - issued) / SECTOR_SIZE).min(MAX_PART_SECTORS);
        if sectors == 0 {
            return None;
        }
        let (kind, extent) = match request.operation {
            Operation::Write => (PartKind::Write, self.disk.locate_for_write(sector, sectors)),
            _ => (PartKind::Read, self.disk.locate_for_read(sector, sectors)),
        };
        let mut part = Part::new(kind, sector, extent);
        slot.issued += part.left;
        self.slots.gather(index, issued, &mut part);
        Some(part)
    }

    fn next_segment(&mut self, index: u16, request: Request) -> Option<Part> {
        let slot = self.slots.get_mut(index)?;
        while slot.issued < u64::from(request.segments) {
            let number = u32::try_from(slot.issued).ok()?;
            slot.issued += 1;
            // The segment was checked when the request was accepted, but the guest may have changed it since.
            let Ok(segment) = request::segment(&slot.chain, request.operation, number, &self.limits) else {
                slot.failed = true;
                return None;
            };
            let kind = match request.operation {
                Operation::Discard if self.can_punch => PartKind::Discard,
                Operation::Discard => continue,
                // Where storage is bounded, none is taken for zeros. A guest cannot tell the difference.
                _ if (segment.unmap || self.room.is_bounded()) && self.can_punch => PartKind::Punch,
                _ if self.can_zero => PartKind::Zero,
                _ => PartKind::WriteZeros,
            };
            if segment.sectors > 0 {
                let extent = self.disk.locate_for_write(segment.sector, segment.sectors);
                return Some(Part::new(kind, segment.sector, extent));
            }
        }
        None
    }

    /// Queues `part` as the slot's part at `position`.
    fn issue(&mut self, index: u16, position: usize, mut part: Part) {
        if part.kind == PartKind::WriteZeros {
            self.slots.gather_zeros(index, &mut part, &self.zeros);
        }
        let file = Fixed(part.file);
        let (iovecs, count) = self.slots.iovecs(index, &part);
        let fallocate = |mode| opcode::Fallocate::new(file, part.left).offset(part.offset).mode(mode).build();
        let mut entry = match part.kind {
            PartKind::Read => opcode::Readv::new(file, iovecs, count).offset(part.offset).build(),
            PartKind::Write | PartKind::WriteZeros => {
                opcode::Writev::new(file, iovecs, count).offset(part.offset).build()
            }
            PartKind::Discard | PartKind::Punch => fallocate(PUNCH_HOLE),
            PartKind::Zero => fallocate(ZERO_RANGE),
        };
        if part.left > INLINE_BYTES {
            entry = entry.flags(Flags::FIXED_FILE | Flags::ASYNC);
        }
        let tag = u64::from(index) << 8 | position as u64;
        // SAFETY: buffers and their list belong to the slot, which is not released before all of its parts
        // have completed; the zeros live as long as the ring.
        let queued = unsafe { self.engine.push(entry, tag) };
        if let Some(slot) = self.slots.get_mut(index) {
            if let Some(place) = slot.parts.get_mut(position).filter(|_| queued) {
                *place = Some(part);
            } else {
                slot.failed = true;
            }
        }
    }

    fn part_returned(&mut self, index: u16, position: usize, result: i32) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(mut part) = slot.parts.get_mut(position).and_then(Option::take) else { return };
        match usize::try_from(result) {
            Ok(done) => {
                if self.progress(index, &mut part, done) {
                    return self.issue(index, position, part);
                }
            }
            Err(_) => {
                if self.should_retry(&mut part, -result) {
                    return self.issue(index, position, part);
                }
            }
        }
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.failed |= part.left > 0;
        if !slot.is_busy() {
            self.next_round(index);
        }
    }

    /// Records that `done` bytes were transferred, or that an operation without a byte count succeeded. Returns `true`
    /// when the rest has to be issued again.
    fn progress(&mut self, index: u16, part: &mut Part, done: usize) -> bool {
        let whole = matches!(part.kind, PartKind::Discard | PartKind::Punch | PartKind::Zero);
        let done_bytes = if whole { part.left } else { part.left.min(done as u64) };
        part.left -= done_bytes;
        part.offset += done_bytes;
        if part.left > 0 {
            part.attempts = 0;
            if part.kind != PartKind::WriteZeros {
                self.slots.advance(index, part, done);
            }
            // A read or write that transfers nothing is at the end of the file, where a retry would do no better.
            return done > 0;
        }
        if part.kind != PartKind::Read {
            self.disk.written(part.sector, part.sectors);
            self.flusher.data_written();
        }
        false
    }

    /// Decides what to do about an error: returns `true` if `part` is to be tried again, possibly as another kind of
    /// operation. Sets the remaining bytes to 0 in a part whose error does not matter.
    fn should_retry(&mut self, part: &mut Part, error: i32) -> bool {
        part.attempts += 1;
        match (error, part.kind) {
            (libc::EINTR | libc::EAGAIN | libc::ECANCELED, _) => part.attempts < MAX_ATTEMPTS,
            (libc::EOPNOTSUPP, PartKind::Discard) => {
                self.can_punch = false;
                part.left = 0;
                false
            }
            (libc::EOPNOTSUPP, PartKind::Punch) => {
                self.can_punch = false;
                part.kind = if self.can_zero { PartKind::Zero } else { PartKind::WriteZeros };
                true
            }
            (libc::EOPNOTSUPP, PartKind::Zero) => {
                self.can_zero = false;
                part.kind = PartKind::WriteZeros;
                true
            }
            _ => false,
        }
    }

    /// Finishes the request in slot `index`, all of whose parts have completed.
    fn complete(&mut self, index: u16) {
        let Some(slot) = self.slots.get(index) else { return };
        let writes = slot.request.is_some_and(|request| request.operation != Operation::Read);
        if slot.failed {
            self.finished.push_back((index, Status::IoError));
        } else if writes && self.write_through {
            self.flusher.wait(index);
        } else {
            self.finished.push_back((index, Status::Ok));
        }
    }
}

// === Flushes ===

impl DiskIo {
    /// Starts the next flush if one is requested and none is running, and queues its next operation.
    fn drive_flush(&mut self) {
        while !self.flush_under_way {
            if self.flusher.has_waiting() {
                self.flusher.begin(self.disk.map_mut());
            }
            while let Some((index, durable)) = self.flusher.take_finished() {
                self.finished.push_back((index, if durable { Status::Ok } else { Status::IoError }));
            }
            let Some(entry) = self.flush_entry() else {
                // A flush with nothing to do has finished already, and other requests may wait.
                if self.flusher.has_waiting() {
                    continue;
                }
                return;
            };
            // SAFETY: staging and its entry in the arena stay as they are until the operation has completed.
            self.flush_under_way = unsafe { self.engine.push(entry, FLUSH_TAG) };
            if !self.flush_under_way {
                return;
            }
        }
    }

    fn flush_entry(&mut self) -> Option<Entry> {
        match self.flusher.step() {
            Step::Idle => None,
            Step::Sync => {
                let file = Fixed(self.disk.written_file());
                Some(opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build())
            }
            Step::Write { file_offset, start, length } => {
                let bytes = self.flusher.staging().get(start..start + length)?;
                let (iovecs, count) = self.slots.gather_staged(bytes);
                let file = Fixed(self.disk.written_file());
                Some(opcode::Writev::new(file, iovecs, count).offset(file_offset).build())
            }
        }
    }

    fn flush_returned(&mut self, result: i32) {
        self.flush_under_way = false;
        let writes = matches!(self.flusher.step(), Step::Write { .. });
        match usize::try_from(result) {
            Ok(done) if done > 0 || !writes => {
                self.flush_attempts = 0;
                self.flusher.succeeded(done, self.disk.map_mut());
            }
            _ => {
                self.flush_attempts += 1;
                let transient = matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
                if !transient || self.flush_attempts >= MAX_ATTEMPTS {
                    self.flush_attempts = 0;
                    self.flusher.failed(self.disk.map_mut());
                }
            }
        }
        self.drive_flush();
    }
}

impl Drop for DiskIo {
    /// Waits for all operations: the kernel must have finished with guest memory before the mapping is removed.
    fn drop(&mut self) {
        self.abandon();
    }
}
