//! Flushing: the order in which data and the block map become durable.
//!
//! ```text
//!           something to flush      synced, pages staged        all written
//!   Idle ─────────────────────► Sync ───────────────────► Write ───────────► Sync …
//!    ▲                            │ synced, nothing staged
//!    └────────────────────────────┘
//! ```
//!
//! Before each sync the next dirty pages of the map are staged, that is, copied. A bit is set only after
//! its data is written, so the sync that follows makes the data of every staged bit durable, and only then
//! are the staged pages written. The last sync makes the last pages durable. If the host crashes at any point,
//! every bit points to durable data, and only data that was never flushed lacks its bits.
//!
//! Requests that arrive while a flush is running wait for the next one, which serves all of them: the
//! running one may have passed their data already. A cycle visits the pages once, in order,
//! so that a guest that keeps writing cannot keep it from finishing. Once a sync has failed, the host may have
//! dropped the data that it could not write, so no later flush can be guaranteed either: all of them fail then.
//!
//! This module is the decision logic alone: it determines the next step, and the caller reports the step's result.

use super::map::{MAP_PAGE_BYTES, MAP_PAGE_SIZE, OverlayMap};
use super::overlay::MAP_OFFSET;

/// Largest number of map pages staged at a time; 64 pages map 1 GiB of disk.
const STAGED_PAGES: usize = 64;

/// The next step of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Do nothing: no flush is running.
    Idle,
    /// Call `fdatasync` on the file to which data is written.
    Sync,
    /// Write a part of [`Flusher::staging`] to the overlay.
    Write {
        /// Offset in the overlay file, in bytes.
        file_offset: u64,
        /// Offset in the staging memory, in bytes.
        start: usize,
        /// Number of bytes.
        length: usize,
    },
}

/// State machine that flushes one disk.
#[derive(Debug)]
pub(super) struct Flusher {
    step: Step,
    /// Copies of map pages. Empty for a disk without a map.
    staging: Vec<u8>,
    /// Numbers of the staged pages, ascending.
    staged: Vec<usize>,
    /// Number of bytes of the staged pages that have been written.
    written: usize,
    /// The first page that this cycle has not visited; `None` when it has visited all.
    cursor: Option<usize>,
    /// Slots of the requests that the running cycle completes.
    current: Vec<u16>,
    /// Slots of the requests that wait for the next cycle.
    waiting: Vec<u16>,
    /// Whether data was written after the last cycle began.
    unsynced: bool,
    /// Whether the last cycle failed to make everything durable.
    cycle_failed: bool,
    /// Whether a sync has failed at any time.
    sync_failed: bool,
}

impl Flusher {
    /// Makes a flusher for a disk with or without a map, and for at most `requests` requests at a time. `unsynced`
    /// means that the disk may hold data from before that is not durable.
    pub(super) fn new(has_map: bool, requests: usize, unsynced: bool) -> Self {
        Self {
            step: Step::Idle,
            staging: vec![0; if has_map { STAGED_PAGES * MAP_PAGE_SIZE } else { 0 }],
            staged: Vec::with_capacity(STAGED_PAGES),
            written: 0,
            cursor: None,
            current: Vec::with_capacity(requests),
            waiting: Vec::with_capacity(requests),
            unsynced,
            cycle_failed: false,
            sync_failed: false,
        }
    }

    /// The step that has to be done or is in progress.
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// The memory to which [`Step::Write`] refers. It does not move, and does not change before the step is finished.
    pub(super) fn staging(&self) -> &[u8] {
        &self.staging
    }

    /// Records that data was written to the disk.
    pub(super) fn data_written(&mut self) {
        self.unsynced = true;
    }

    /// Makes the request in `slot` wait until everything written so far is durable.
    pub(super) fn wait(&mut self, slot: u16) {
        self.waiting.push(slot);
    }

    /// Whether requests wait for a cycle that has not started.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether everything written so far is durable, or will be once the running cycle has succeeded.
    pub(super) fn is_clean(&self, map: Option<&OverlayMap>) -> bool {
        !self.unsynced && map.is_none_or(|map| map.next_dirty(0).is_none())
    }

    /// Whether the last cycle failed to make everything durable, or a sync has failed at any time.
    pub(super) fn has_failed(&self) -> bool {
        self.cycle_failed || self.sync_failed
    }

    /// Starts a cycle for the waiting requests, unless one is running. Where nothing has to be done,
    /// [`Self::take_finished`] returns the requests at once.
    pub(super) fn begin(&mut self, map: Option<&mut OverlayMap>) {
        if self.step != Step::Idle || !self.current.is_empty() {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.waiting);
        self.cycle_failed = self.sync_failed;
        if !self.sync_failed && !self.is_clean(map.as_deref()) {
            self.unsynced = false;
            self.cursor = Some(0);
            self.stage(map);
        }
    }

    /// Takes a request that the last cycle has completed, and whether the cycle succeeded.
    pub(super) fn take_finished(&mut self) -> Option<(u16, bool)> {
        if self.step != Step::Idle {
            return None;
        }
        Some((self.current.pop()?, !self.cycle_failed))
    }

    /// Reports that the current step succeeded; `count` is the number of bytes that a [`Step::Write`] wrote.
    pub(super) fn succeeded(&mut self, count: usize, map: Option<&mut OverlayMap>) {
        match self.step {
            Step::Idle => {}
            Step::Sync if self.staged.is_empty() => self.step = Step::Idle,
            Step::Sync => self.write_next(),
            Step::Write { .. } => {
                self.written = self.written.saturating_add(count);
                if self.written < self.staged.len() * MAP_PAGE_SIZE {
                    self.write_next();
                } else {
                    self.stage(map);
                }
            }
        }
    }

    /// Reports that the current step failed for good. Map pages may be written again later; the data of a failed sync
    /// counts as lost.
    pub(super) fn failed(&mut self, map: Option<&mut OverlayMap>) {
        self.sync_failed |= self.step == Step::Sync;
        self.cycle_failed = true;
        self.stop(map);
    }

    /// Drops the running cycle and every request, but remembers what still has to be made durable.
    pub(super) fn abandon(&mut self, map: Option<&mut OverlayMap>) {
        self.stop(map);
        self.current.clear();
        self.waiting.clear();
    }

    fn stop(&mut self, map: Option<&mut OverlayMap>) {
        if let Some(map) = map {
            self.staged.iter().for_each(|page| map.mark_dirty(*page));
        }
        self.staged.clear();
        self.unsynced |= self.step != Step::Idle;
        self.step = Step::Idle;
    }

    /// Stages the next dirty pages that this cycle has not visited and requests a sync.
    fn stage(&mut self, map: Option<&mut OverlayMap>) {
        self.staged.clear();
        self.written = 0;
        self.step = Step::Sync;
        let Some(map) = map else { return };
        for buffer in self.staging.chunks_exact_mut(MAP_PAGE_SIZE) {
            self.cursor = self.cursor.and_then(|from| map.next_dirty(from));
            let Some(page) = self.cursor.filter(|page| map.take_page(*page, buffer)) else { return };
            self.staged.push(page);
            self.cursor = Some(page + 1);
        }
    }

    /// Requests the write of the next staged pages that are adjacent in the file.
    fn write_next(&mut self) {
        let position = self.written / MAP_PAGE_SIZE;
        let pages = self.staged.get(position..).unwrap_or_default();
        let Some(first) = pages.first() else { return };
        let neighbours =
            pages.iter().zip(*first..).take_while(|(page, expected)| **page == *expected).count();
        let within = self.written % MAP_PAGE_SIZE;
        let file_offset = MAP_OFFSET + *first as u64 * MAP_PAGE_BYTES + within as u64;
        self.step =
            Step::Write { file_offset, start: self.written, length: neighbours * MAP_PAGE_SIZE - within };
    }
}
