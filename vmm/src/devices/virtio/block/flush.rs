//! Flushing: the order in which data and the block map become durable.
//!
//! ```text
//!           something to flush      synced, pages staged        all written
//!   Idle ─────────────────────► Sync ───────────────────► Write ───────────► Sync …
//!    ▲                            │ synced, nothing staged
//!    └────────────────────────────┘
//! ```
//!
//! Before each sync the next dirty pages of the map are staged, that is, copied. A bit is only ever set once
//! its data is written, so the sync that follows makes the data of every staged bit durable, and only then
//! are the staged pages written. The last sync makes the last pages durable. A crash of the host at any point
//! leaves bits that point to durable data, and bits missing only for what was never flushed.
//!
//! Requests that arrive while a flush is running wait for the next one, which serves all of them: the
//! running one may have passed the data that they are about. A cycle goes through the pages once, in order,
//! so that a guest which keeps writing cannot keep it from ending. Once a sync has failed the host may have
//! dropped the data it could not write, so no later flush can be promised either: all fail from then on.
//!
//! This is the decision logic alone: it says what to do next and is told how that went.

use super::map::{MAP_PAGE_BYTES, MAP_PAGE_SIZE, OverlayMap};
use super::overlay::MAP_OFFSET;

/// Most map pages staged at a time; 64 map 1 GiB of disk.
const STAGED_PAGES: usize = 64;

/// What has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: no flush is running.
    Idle,
    /// `fdatasync` of the file that data is written to.
    Sync,
    /// Writing a part of [`Flusher::staging`] to the overlay.
    Write {
        /// Where in the overlay file, in bytes.
        file_offset: u64,
        /// Where in the staging memory.
        start: usize,
        /// How many bytes.
        length: usize,
    },
}

/// The state of flushing one disk.
#[derive(Debug)]
pub(super) struct Flusher {
    step: Step,
    /// Copies of map pages. Empty for a disk without a map.
    staging: Vec<u8>,
    /// Which pages are staged, ascending.
    staged: Vec<usize>,
    /// Bytes of the staged pages that are written.
    written: usize,
    /// The first page that this cycle has not looked at; `None` when it has looked at all.
    cursor: Option<usize>,
    /// Requests that the running cycle completes.
    current: Vec<u16>,
    /// Requests for the next.
    waiting: Vec<u16>,
    /// Data was written after the last cycle began.
    unsynced: bool,
    /// The last cycle did not make everything durable.
    cycle_failed: bool,
    /// A sync failed.
    sync_failed: bool,
}

impl Flusher {
    /// For a disk with or without a map, and at most `requests` requests at a time. `unsynced` says that the
    /// disk may hold data from before that is not durable.
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

    /// What has to be done, or is being done.
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// The memory that [`Step::Write`] refers to. It stays where it is, unchanged until the step is over.
    pub(super) fn staging(&self) -> &[u8] {
        &self.staging
    }

    /// Data was written to the disk.
    pub(super) fn data_written(&mut self) {
        self.unsynced = true;
    }

    /// Request `slot` waits for everything written so far to be durable.
    pub(super) fn wait(&mut self, slot: u16) {
        self.waiting.push(slot);
    }

    /// Whether requests wait for a cycle that has not begun.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether everything written so far is durable, or on its way there in the running cycle.
    pub(super) fn is_clean(&self, map: Option<&OverlayMap>) -> bool {
        !self.unsynced && map.is_none_or(|map| map.next_dirty(0).is_none())
    }

    /// Whether the last cycle ended without making everything durable that it was about.
    pub(super) fn has_failed(&self) -> bool {
        self.cycle_failed || self.sync_failed
    }

    /// Begins a cycle for the requests that wait, unless one is running. Where nothing has to be done,
    /// [`Self::take_finished`] gives them back at once.
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

    /// A request that the last cycle has completed, and whether that went well.
    pub(super) fn take_finished(&mut self) -> Option<(u16, bool)> {
        if self.step != Step::Idle {
            return None;
        }
        Some((self.current.pop()?, !self.cycle_failed))
    }

    /// The step under way succeeded; `count` is the number of bytes that a [`Step::Write`] wrote.
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

    /// The step under way failed for good. Map pages may be written again later; what a failed sync was about
    /// is lost.
    pub(super) fn failed(&mut self, map: Option<&mut OverlayMap>) {
        self.sync_failed |= self.step == Step::Sync;
        self.cycle_failed = true;
        self.stop(map);
    }

    /// Forgets the cycle under way and every request, but not what is still to be made durable.
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

    /// Stages the next dirty pages that this cycle has not looked at and asks for a sync.
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

    /// Asks for the write of the next staged pages that are neighbours in the file.
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
