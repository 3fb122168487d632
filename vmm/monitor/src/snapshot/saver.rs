//! The thread that saves a machine to files, while the controller may still cancel the save.
//!
//! ```text
//!  Memory ──► Disks ──► State ──► Sync ──► Done
//! ```
//!
//! The thread only reads guest memory and the files of the machine, so the machine can resume the moment a cancel
//! arrives, whatever the thread is doing. The thread notices the cancel soon, and its output is discarded.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use hearth_proto::vmm::v1::{self as proto, SaveKind, SaveStage, SavedMachine, SavedMemory};
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_api::snapshot::{ID_LEN, SnapshotId};
use hearth_vmm_api::steps::Steps;
use hearth_vmm_jail::{Filters, ThreadRole};
use vmm_sys_util::eventfd::EventFd;

use super::layer_maps;
use super::load::Backing;
use super::save::{Cancel, Memory, PageCounts, SaveError, Written};
use crate::devices::random;
use crate::devices::virtio::block::{LayerToMerge, merge_checked};
use crate::memory::GuestMemory;

/// Stack size of the thread in bytes.
const STACK: usize = 256 << 10;

/// A disk whose layers are merged into one.
#[derive(Debug)]
pub struct LayerJob {
    /// Index of the disk, for errors.
    pub index: usize,
    /// The layers to merge, lowest first; the machine's overlay is the last.
    pub layers: Vec<LayerToMerge>,
    /// The file for the merged layer, empty at first.
    pub into: File,
}

/// The contents of a save, and the files for it.
#[derive(Debug)]
pub struct Job {
    /// Whether all of memory is saved or only the changes.
    pub kind: SaveKind,
    /// The state of the machine, without ids and memory.
    pub state: SavedMachine,
    /// Guest memory.
    pub memory: GuestMemory,
    /// `/proc/self/pagemap`.
    pub pagemap: File,
    /// The files below guest memory, if the machine was restored.
    pub backing: Option<Arc<Backing>>,
    /// The file `state`, empty.
    pub state_file: File,
    /// The file `memory`, empty.
    pub memory_file: File,
    /// The disks whose layers are to be merged.
    pub layers: Vec<LayerJob>,
    /// The stage before which the save waits for a cancel; for tests.
    pub hold_at: SaveStage,
    /// The steps that were measured so far.
    pub steps: Steps,
}

/// The result of a save.
#[derive(Debug)]
pub struct Outcome {
    /// The duration of each step.
    pub steps: Steps,
    /// Numbers of pages, by kind.
    pub pages: PageCounts,
    /// The id of the snapshot.
    pub id: SnapshotId,
    /// The id of the snapshot on which it builds; empty for a full one.
    pub base_id: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    cancel: Cancel,
    stage: AtomicI32,
    outcome: Mutex<Option<Result<Outcome, SaveError>>>,
    cancelled: Condvar,
    done: Arc<EventFd>,
}

/// A save that is under way. Dropping it cancels the save. Its thread shares ownership of everything that it reads, and
/// stops by itself, so that nothing waits for a slow file system.
#[derive(Debug)]
pub struct Saver {
    shared: Arc<Shared>,
}

impl Saver {
    /// Starts to save. `done` is signalled when the outcome is available.
    ///
    /// # Errors
    /// Fails when no thread can be started.
    pub fn start(job: Job, filters: &Filters, done: Arc<EventFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            cancel: Cancel::default(),
            stage: AtomicI32::new(SaveStage::Memory.into()),
            outcome: Mutex::new(None),
            cancelled: Condvar::new(),
            done,
        });
        let (mine, filters) = (Arc::clone(&shared), filters.clone());
        let work = move || {
            let outcome = match filters.install(ThreadRole::Memory) {
                Ok(()) => mine.save(job),
                Err(error) => {
                    Err(SaveError::Io { what: "jailing a thread", source: io::Error::other(error) })
                }
            };
            *mine.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            let _ = mine.done.write(1); // the write fails only when the event is signalled already
        };
        drop(thread::Builder::new().name("save".into()).stack_size(STACK).spawn(work)?);
        Ok(Self { shared })
    }

    /// Returns the current stage of the save.
    #[must_use]
    pub fn stage(&self) -> SaveStage {
        SaveStage::try_from(self.shared.stage.load(Ordering::SeqCst)).unwrap_or_default()
    }

    /// Cancels the save. Its thread may continue for a moment.
    pub fn cancel(&self) {
        // Under the lock, so that a thread that is about to wait for the cancel does not miss it.
        let _outcome = self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.cancel.cancel();
        self.shared.cancelled.notify_all();
    }

    /// Takes the outcome; `None` as long as there is none.
    #[must_use]
    pub fn take_outcome(&self) -> Option<Result<Outcome, SaveError>> {
        self.shared.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Shared {
    /// Enters a stage. If `hold_at` is this stage, waits first until the save is cancelled (for tests).
    fn enter(&self, stage: SaveStage, hold_at: SaveStage) -> Result<(), SaveError> {
        self.stage.store(stage.into(), Ordering::SeqCst);
        if stage == hold_at {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            while !self.cancel.is_cancelled() {
                outcome = self.cancelled.wait(outcome).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.cancel.check()
    }

    fn save(&self, job: Job) -> Result<Outcome, SaveError> {
        let Job {
            kind,
            mut state,
            memory,
            pagemap,
            backing,
            state_file,
            memory_file,
            layers,
            hold_at,
            mut steps,
        } = job;
        let mut id = [0; ID_LEN];
        random::fill(&mut id).map_err(SaveError::io("reading random bytes"))?;
        self.enter(SaveStage::Memory, hold_at)?;
        let source = Memory { memory: &memory, pagemap: &pagemap, backing: backing.as_deref() };
        let diff = kind == SaveKind::Diff;
        let Written { data, zero, pages, .. } = if diff {
            source.write_diff(&memory_file, &id, &self.cancel)?
        } else {
            source.write_full(&memory_file, &id, &self.cancel)?
        };
        steps.done("memory");
        self.enter(SaveStage::Disks, hold_at)?;
        for LayerJob { index, layers, into } in &layers {
            let merged = merge_checked(layers, into, &|| self.cancel.is_cancelled());
            self.cancel.check()?;
            let map =
                merged.map_err(|error| SaveError::Disk { index: *index, message: error.to_string() })?;
            if let Some(board) = &mut state.board {
                layer_maps::set(board, *index, map);
            }
        }
        steps.done("disks");
        self.enter(SaveStage::State, hold_at)?;
        let base = backing.filter(|_| diff);
        let base_id = base.as_ref().map(|backing| backing.base_id.clone()).unwrap_or_default();
        state.snapshot_id = id.to_vec();
        state.base_id.clone_from(&base_id);
        state.memory = Some(SavedMemory {
            bytes: super::load::range_of(&memory)?.bytes as u64,
            data: data.to_pairs(),
            zero: zero.to_pairs(),
            base_data: base.map(|backing| backing.base_data.to_pairs()).unwrap_or_default(),
        });
        let bytes = state_file::encode(&state);
        std::os::unix::fs::FileExt::write_all_at(&state_file, &bytes, 0)
            .map_err(SaveError::io("writing the state"))?;
        steps.done("state");
        self.enter(SaveStage::Sync, hold_at)?;
        memory_file.sync_all().map_err(SaveError::io("making the memory durable"))?;
        state_file.sync_all().map_err(SaveError::io("making the state durable"))?;
        steps.done("sync");
        self.enter(SaveStage::Done, hold_at)?;
        Ok(Outcome { steps, pages, id, base_id })
    }
}

impl Outcome {
    /// Returns the outcome as a message of the control protocol.
    #[must_use]
    pub fn message(&self) -> proto::Saved {
        let counter = |(name, value): (&str, u64)| proto::Counter { name: name.into(), value };
        proto::Saved {
            steps: self.steps.message(),
            pages: self.pages.named().map(counter).to_vec(),
            snapshot_id: self.id.to_vec(),
            base_id: self.base_id.clone(),
        }
    }
}
