//! Writes a machine into a folder.
//!
//! ```text
//!           write                    commit
//!  running ───────► paused, written ────────► paused, the folder is there ──► resume, or shutdown
//!     ▲                    │ drop
//!     └────────────────────┘ the temporary folder is removed
//! ```
//!
//! The contents of a disk's overlay become the folder's layer of that disk: the monitor merges the overlay, with the
//! layers below it that are not the base's, into a new file. If the machine is shut down with its snapshot and nothing
//! has to be merged, the overlay file itself can become the layer: the file gets a second name in the folder (a hard
//! link), and its first name is removed when the machine has exited.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_proto::vmm::v1::{self as proto, DiskMode, MachineState, SaveKind, SaveStage};
use hearth_vmm_api::snapshot::folder::{BASE, MEMORY, STATE, layer_name};
use hearth_vmm_api::snapshot::memory_file;
use hearth_vmm_api::snapshot::state_file;

use super::error::TakeError;
use super::open::{self, Opened};
use super::temporary::{Temporary, create};
use super::{belongs, parent};
use crate::{Client, ClientError, SaveConfig};

/// The file of a disk's overlay, to which the machine is writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Index of the disk.
    pub disk: usize,
    /// Path of the file.
    pub path: PathBuf,
    /// Device and inode number of the file. They identify it: another file that is found at the path is left alone.
    pub identity: (u64, u64),
}

impl Overlay {
    /// Describes the open file at `path` as the overlay of disk `disk`.
    ///
    /// # Errors
    /// The error that the system returns.
    pub fn of(disk: usize, path: &Path, file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let path = fs::canonicalize(path)?;
        Ok(Self { disk, path, identity: (metadata.dev(), metadata.ino()) })
    }

    fn is_at(&self, path: &Path) -> bool {
        let there = fs::symlink_metadata(path);
        there.is_ok_and(|there| (there.dev(), there.ino()) == self.identity)
    }
}

/// The parameters for taking a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Take {
    /// The full snapshot on which both the machine and the new snapshot build; `None` to take a full snapshot.
    pub base: Option<PathBuf>,
    /// Files of overlays. If the machine is shut down with its snapshot, these files may become layers of the snapshot;
    /// overlays that are not listed here remain unchanged.
    pub overlays: Vec<Overlay>,
    /// Whether an existing snapshot is replaced.
    pub replace: bool,
    /// The stage before which the save waits until it is cancelled; for tests.
    pub hold_at: SaveStage,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Taken {
    /// The monitor's response, with the step `commit` added.
    pub saved: proto::Saved,
    /// Whether the machine ran before; it is paused now.
    pub was_running: bool,
    /// Indexes of the disks whose overlay files became layers of the folder.
    pub linked: Vec<usize>,
    /// If a folder was replaced and could not be removed: the path at which its remains are.
    pub left: Option<PathBuf>,
}

/// Writes the machine into the folder `to`, which appears completely or not at all. The machine is paused afterwards;
/// the caller resumes it or shuts it down.
///
/// # Errors
/// [`TakeError`]; the machine continues as before.
pub fn take(client: &Client, to: &Path, take: &Take) -> Result<Taken, TakeError> {
    write(client, to, take)?.commit()
}

/// Writes the machine into the folder `to`, which appears completely or not at all, and shuts the machine down. The
/// folder then owns the overlays: the original names of [`Take::overlays`] are removed.
///
/// # Errors
/// [`TakeError`]; the machine continues as before.
pub fn suspend(client: &Client, to: &Path, take: &Take) -> Result<Taken, TakeError> {
    let taken = Uncommitted::write(client, to, take, true)?.commit()?;
    match client.shutdown() {
        // On `Unreachable` the monitor has exited meanwhile although its machine was paused: most likely it was killed.
        Ok(()) | Err(ClientError::Unreachable { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for overlay in &take.overlays {
        if overlay.is_at(&overlay.path) {
            let _ = fs::remove_file(&overlay.path); // a file that remains is of no use and does no harm
        }
    }
    Ok(taken)
}

/// Writes the machine into a temporary folder whose final path will be `to`. The machine is paused afterwards.
///
/// # Errors
/// [`TakeError`]; the machine continues as before.
pub fn write<'a>(client: &'a Client, to: &Path, take: &Take) -> Result<Uncommitted<'a>, TakeError> {
    Uncommitted::write(client, to, take, false)
}

/// A snapshot that is written to stable storage but has not got its final name. Dropping it removes the snapshot, and
/// the machine continues as before.
#[derive(Debug)]
#[must_use = "what is not committed is removed"]
pub struct Uncommitted<'a> {
    client: &'a Client,
    to: PathBuf,
    replace: bool,
    saved: proto::Saved,
    linked: Vec<usize>,
    was_running: bool,
    /// Whether the machine is resumed on drop.
    resume: bool,
    folder: Option<Temporary>,
}

/// Returns an error if the folder cannot be placed at `to`; returns whether a snapshot exists there.
fn check_place(to: &Path, replace: bool) -> Result<bool, TakeError> {
    if to.file_name().is_none() {
        return Err(TakeError::Name(to.to_owned()));
    }
    let metadata = match fs::symlink_metadata(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata.map_err(TakeError::host("looking at", to))?,
    };
    if !replace {
        return Err(TakeError::Exists(to.to_owned()));
    }
    let refused = |why| TakeError::NotASnapshot { path: to.to_owned(), why };
    if !metadata.is_dir() {
        return Err(refused("it is no folder".into()));
    }
    let reading = || TakeError::host("looking into", to);
    for entry in fs::read_dir(to).map_err(reading())? {
        let name = entry.map_err(reading())?.file_name();
        let name = name.to_string_lossy();
        if !belongs(&name) {
            return Err(refused(format!("it holds {name}")));
        }
    }
    Ok(true)
}

/// Opens the base and checks that the machine builds on it.
fn check_base(path: &Path, to: &Path, status: &proto::Status) -> Result<Opened, TakeError> {
    let base = open::open(path)?;
    if base.is_diff() {
        return Err(TakeError::BaseIsDiff(path.to_owned()));
    }
    if fs::canonicalize(to).is_ok_and(|to| to == base.folder()) {
        return Err(TakeError::ReplacesBase(path.to_owned()));
    }
    if status.base_id.is_empty() {
        return Err(TakeError::NoBase);
    }
    memory_file::read(base.memory(), MEMORY)
        .and_then(|trailer| memory_file::check(base.memory(), MEMORY, trailer.bytes, &status.base_id))
        .map_err(|source| TakeError::OtherBase { path: path.to_owned(), source })?;
    Ok(base)
}

/// Returns the machine's disks with overlays, with their indexes.
fn overlaid(disks: &[proto::Disk]) -> impl Iterator<Item = (usize, &proto::Disk)> {
    disks.iter().enumerate().filter(|(_, disk)| disk.mode() == DiskMode::Overlay)
}

/// Returns the number of a disk's layers that belong to the base.
fn base_layers(base: Option<&Opened>, disk: usize) -> usize {
    base.map_or(0, |base| base.layers(disk))
}

fn layers(disk: &proto::Disk) -> usize {
    usize::try_from(disk.layers).unwrap_or(usize::MAX)
}

impl<'a> Uncommitted<'a> {
    fn write(client: &'a Client, to: &Path, take: &Take, ends: bool) -> Result<Self, TakeError> {
        check_place(to, take.replace)?;
        let status = client.status()?;
        let base = take.base.as_ref().map(|base| check_base(base, to, &status)).transpose()?;
        let folder = Temporary::folder(to).map_err(TakeError::host("making a folder beside", to))?;
        let file = |name: &str| {
            let path = folder.path().join(name);
            create(&path).map_err(TakeError::host("making", path))
        };
        let kind = if base.is_some() { SaveKind::Diff } else { SaveKind::Full };
        let mut config = SaveConfig::new(kind, file(STATE)?, file(MEMORY)?);
        config.hold_at = take.hold_at;
        let reading = config.state.try_clone().map_err(TakeError::host("duplicating the state in", to))?;
        let mut linked = Vec::new();
        for (index, disk) in overlaid(&status.disks) {
            // Whether the overlay lies directly on the base's layers, so that it need not be merged.
            let is_all = ends && layers(disk) == base_layers(base.as_ref(), index);
            let overlay = take.overlays.iter().find(|overlay| is_all && overlay.disk == index);
            let name = layer_name(index);
            if overlay.is_some_and(|overlay| link(overlay, &folder.path().join(&name))) {
                linked.push(index);
            } else {
                config.layers.push((index, file(&name)?));
            }
        }
        if let Some(base) = &base {
            let link = folder.path().join(BASE);
            symlink(link_target(base.folder(), to), &link)
                .map_err(TakeError::host("making the link", link))?;
        }
        let saved = client.save(config)?;
        // From here on the machine is paused; it resumes when `uncommitted` is dropped.
        let was_running = status.state() == MachineState::Running;
        let uncommitted = Self {
            client,
            to: to.to_owned(),
            replace: take.replace,
            saved,
            linked,
            was_running,
            resume: was_running,
            folder: Some(folder),
        };
        uncommitted.check(&reading, &status.base_id, base.as_ref())?;
        Ok(uncommitted)
    }

    /// Checks that the folder has the files that its state needs: the machine may have changed between the requests.
    fn check(&self, state: &File, base_id: &[u8], base: Option<&Opened>) -> Result<(), TakeError> {
        if base.is_some() && self.saved.base_id != base_id {
            return Err(TakeError::other_base(base_id, &self.saved.base_id));
        }
        let state = state_file::read(state)?;
        let disks = state.config.as_ref().map(|config| config.disks.as_slice()).unwrap_or_default();
        for (index, disk) in overlaid(disks) {
            let (wanted, has) = (layers(disk), base_layers(base, index) + 1);
            if wanted != has {
                let message = format!("disk {index} has {wanted} layers, not {has}");
                return Err(TakeError::Unfit(message));
            }
        }
        Ok(())
    }

    /// Returns the monitor's response to the save.
    #[must_use]
    pub fn saved(&self) -> &proto::Saved {
        &self.saved
    }

    /// Renames the folder to its final name.
    ///
    /// # Errors
    /// [`TakeError`]; the machine continues as before.
    pub fn commit(mut self) -> Result<Taken, TakeError> {
        let started = Instant::now();
        for disk in &self.linked {
            let Some(path) = self.folder.as_ref().map(|folder| folder.path().join(layer_name(*disk))) else {
                continue;
            };
            // The pause has synced the file already, so this costs nothing.
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(TakeError::host("making durable", path))?;
        }
        let exists = check_place(&self.to, self.replace)?;
        let mut left = None;
        if let Some(folder) = self.folder.take() {
            let named = if exists {
                folder.exchange(&self.to).map(|rest| left = rest)
            } else {
                folder.rename(&self.to)
            };
            let named = named.map_err(TakeError::not_named(self.to.clone()));
            // If both folders exist the machine must not resume: its overlays may be layers of the new folder.
            self.resume &= !matches!(named, Ok(()) | Err(TakeError::Unsettled { .. }));
            named?;
        }
        self.saved
            .steps
            .push(proto::Step { name: "commit".into(), nanoseconds: nanoseconds(started.elapsed()) });
        Ok(Taken {
            saved: std::mem::take(&mut self.saved),
            was_running: self.was_running,
            linked: std::mem::take(&mut self.linked),
            left,
        })
    }
}

impl Drop for Uncommitted<'_> {
    fn drop(&mut self) {
        if self.resume {
            let _ = self.client.resume(); // the machine may have exited
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Gives the overlay a second name. Returns `false` if the overlay must be merged instead: if `to` is on another file
/// system, or if another file is at the overlay's path now.
fn link(overlay: &Overlay, to: &Path) -> bool {
    if fs::hard_link(&overlay.path, to).is_err() {
        return false;
    }
    overlay.is_at(to) || {
        let _ = fs::remove_file(to); // if this fails, creating the merged file fails and reports it
        false
    }
}

/// Returns the target of the link from a folder at `to` to its base: relative where both are below one folder, so that they
/// can be moved with that folder, for example with the data of a daemon.
pub(super) fn link_target(base: &Path, to: &Path) -> PathBuf {
    let Ok(from) = fs::canonicalize(parent(to)) else { return base.to_owned() };
    let shared = from.components().zip(base.components()).take_while(|(from, base)| from == base).count();
    // The root alone is shared by everything.
    if shared < 2 {
        return base.to_owned();
    }
    // The link is in the folder itself, one level below its parent.
    let up = from.components().skip(shared).map(|_| Path::new("..")).chain([Path::new("..")]);
    up.map(Path::as_os_str).chain(base.components().skip(shared).map(Component::as_os_str)).collect()
}
