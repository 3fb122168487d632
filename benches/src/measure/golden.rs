//! The snapshots that are restored: one per monitor, memory size and place, taken when it is first needed.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{SETTLE, ready};
use crate::slow_disk::SlowDisk;
use crate::vm::{self, Guest, Monitor, Restore, Save, Snapshot};

/// Location of a snapshot's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// With all other files: in memory, on emulated metal.
    Default,
    /// On a disk with a realistic latency.
    SlowDisk,
}

/// All snapshots. The order of the fields is the order in which they must be dropped.
#[derive(Debug, Default)]
pub(super) struct Goldens {
    snapshots: Vec<Golden>,
    slow_disk: Option<SlowDisk>,
}

#[derive(Debug)]
struct Golden {
    monitor: &'static str,
    place: Place,
    snapshot: Snapshot,
    /// The working set, once it was requested; `None` inside if the monitor cannot record one.
    working_set: Option<Option<PathBuf>>,
    folder: TempDir,
}

impl Goldens {
    /// Drops the snapshots of guests with another memory size.
    pub(super) fn keep_only(&mut self, memory_mib: u64) {
        self.snapshots.retain(|golden| golden.snapshot.memory_mib == memory_mib);
    }

    /// Takes a new full snapshot of a booted, idle guest, and keeps it. Returns the time that this took once the guest
    /// was paused.
    pub(super) fn renew(&mut self, monitor: &dyn Monitor, memory_mib: u64, place: Place) -> Result<Duration> {
        // The old one is dropped first: two of the largest would not fit.
        self.snapshots.retain(|golden| !golden.is(monitor, memory_mib, place));
        let folder = match place {
            Place::Default => tempfile::tempdir(),
            Place::SlowDisk => tempfile::tempdir_in(self.slow_disk()?.folder()),
        };
        let folder = folder.context("making a folder for a snapshot")?;
        let run = tempfile::tempdir().context("making a folder")?;
        let mut guest = ready(monitor, run.path(), Guest { memory_mib, disk: None, saved_later: true })?;
        vm::command(&guest.vsock(), "ping")?;
        thread::sleep(SETTLE);
        guest.pause()?;
        let started = Instant::now();
        guest.save(Save::Full, folder.path())?;
        let taken = started.elapsed();
        let snapshot = Snapshot::full(folder.path(), memory_mib);
        self.snapshots.push(Golden { monitor: monitor.name(), place, snapshot, working_set: None, folder });
        Ok(taken)
    }

    fn find(&mut self, monitor: &dyn Monitor, memory_mib: u64, place: Place) -> Result<&mut Golden> {
        if !self.snapshots.iter().any(|golden| golden.is(monitor, memory_mib, place)) {
            self.renew(monitor, memory_mib, place)?;
        }
        let found = self.snapshots.iter_mut().find(|golden| golden.is(monitor, memory_mib, place));
        found.context("a snapshot that was just taken is gone")
    }

    /// The monitor's snapshot of a booted, idle guest with this memory.
    pub(super) fn get(&mut self, monitor: &dyn Monitor, memory_mib: u64, place: Place) -> Result<Snapshot> {
        Ok(self.find(monitor, memory_mib, place)?.snapshot.clone())
    }

    /// The pages that such a guest touches until its first response, if the monitor can record them.
    pub(super) fn working_set(
        &mut self,
        monitor: &dyn Monitor,
        memory_mib: u64,
        place: Place,
    ) -> Result<Option<PathBuf>> {
        let golden = self.find(monitor, memory_mib, place)?;
        if golden.working_set.is_none() {
            let file = golden.folder.path().join("working-set");
            let run = tempfile::tempdir().context("making a folder")?;
            let recorded = monitor.record_working_set(Restore::plain(run.path(), &golden.snapshot), &file)?;
            golden.working_set = Some(recorded.then_some(file));
        }
        Ok(golden.working_set.clone().flatten())
    }

    /// The disk of [`Place::SlowDisk`].
    pub(super) fn slow_disk(&mut self) -> Result<&SlowDisk> {
        if self.slow_disk.is_none() {
            self.slow_disk = Some(SlowDisk::make()?);
        }
        self.slow_disk.as_ref().context("there is no slow disk")
    }
}

impl Golden {
    fn is(&self, monitor: &dyn Monitor, memory_mib: u64, place: Place) -> bool {
        self.monitor == monitor.name() && self.snapshot.memory_mib == memory_mib && self.place == place
    }
}
