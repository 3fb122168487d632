//! A machine becomes a folder.
//!
//! ```text
//!           write                    commit
//!  running ───────► paused, written ────────► paused, the folder is there ──► resume, or shutdown
//!     ▲                    │ drop
//!     └────────────────────┘ the temporary folder is removed
//! ```
//!
//! What a disk's overlay holds becomes the folder's layer of that disk: the monitor merges it, with the layers below
//! it that are not the base's, into a new file. A machine that ends with its snapshot may leave the overlay itself
//! instead, where nothing has to be merged: the file gets a second name in the folder (a hard link), and loses its
//! first one when the machine has ended.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_proto::vmm::v1::{self as proto, DiskMode, MachineState, SaveKind, SaveStage};

use super::error::TakeError;
use super::open::{self, Opened};
use super::temporary::{Temporary, create};
use super::{BASE, MEMORY, STATE, belongs, layer_name, parent};
use crate::client::{Client, ClientError, SaveConfig};
use crate::snapshot::memory_file::{self, TRAILER};
use crate::snapshot::state_file;

/// The file of a disk's overlay, which the machine is writing to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Which disk.
    pub disk: usize,
    /// Where the file is.
    pub path: PathBuf,
    /// Its file system and inode: another file that has come to its place is left alone.
    pub identity: (u64, u64),
}

impl Overlay {
    /// The file of disk `disk`, which is open.
    ///
    /// # Errors
    /// What the system answers.
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

/// What kind of snapshot is to be taken.
#[derive(Debug, Clone, Default)]
pub struct Take {
    /// The full snapshot that it builds on, and that its machine builds on; the snapshot is a full one without.
    pub base: Option<PathBuf>,
    /// Files of overlays. A machine that ends with its snapshot leaves them to it; those that are not named here stay.
    pub overlays: Vec<Overlay>,
    /// Whether a snapshot that is there is replaced.
    pub replace: bool,
    /// A stage before which the save waits until it is cancelled; for tests.
    pub hold_at: SaveStage,
}

/// A snapshot that was taken.
#[derive(Debug)]
pub struct Taken {
    /// What the monitor said. The step `commit` was added.
    pub saved: proto::Saved,
    /// Whether the machine ran before; it is paused now.
    pub was_running: bool,
    /// Disks whose overlays became the folder's layers themselves.
    pub linked: Vec<usize>,
    /// Where the rest of a folder is that was replaced and could not be removed.
    pub left: Option<PathBuf>,
}

/// Writes the machine into the folder `to`, which appears as a whole. The machine is paused afterwards, to be resumed
/// or ended.
///
/// # Errors
/// [`TakeError`]; the machine goes on as before.
pub fn take(client: &Client, to: &Path, take: &Take) -> Result<Taken, TakeError> {
    write(client, to, take)?.commit()
}

/// Writes the machine into the folder `to`, which appears as a whole, and ends it. Its overlays are the folder's then:
/// the names of [`Take::overlays`] are removed.
///
/// # Errors
/// [`TakeError`]; the machine goes on as before.
pub fn suspend(client: &Client, to: &Path, take: &Take) -> Result<Taken, TakeError> {
    let taken = Uncommitted::write(client, to, take, true)?.commit()?;
    match client.shutdown() {
        // It has ended by itself meanwhile, paused as it was: killed, most likely.
        Ok(()) | Err(ClientError::Unreachable { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for overlay in &take.overlays {
        if overlay.is_at(&overlay.path) {
            let _ = fs::remove_file(&overlay.path); // what stays is of no use, and does no harm
        }
    }
    Ok(taken)
}

/// Writes the machine into a temporary folder, for `to`. The machine is paused then.
///
/// # Errors
/// [`TakeError`]; the machine goes on as before.
pub fn write<'a>(client: &'a Client, to: &Path, take: &Take) -> Result<Uncommitted<'a>, TakeError> {
    Uncommitted::write(client, to, take, false)
}

/// A snapshot that is written and durable, and has not got its name. When this is dropped it is gone, and the machine
/// goes on as before.
#[derive(Debug)]
#[must_use = "what is not committed is removed"]
pub struct Uncommitted<'a> {
    client: &'a Client,
    to: PathBuf,
    replace: bool,
    saved: proto::Saved,
    linked: Vec<usize>,
    was_running: bool,
    /// Lets the machine go on when dropped.
    resume: bool,
    folder: Option<Temporary>,
}

/// Refuses what cannot be the folder's place; returns whether a snapshot is there.
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

/// Opens the base and makes sure that the machine builds on it.
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
    let length = base.memory().metadata().map_err(TakeError::host("looking at the memory in", path))?.len();
    memory_file::check(base.memory(), MEMORY, length.saturating_sub(TRAILER), &status.base_id)
        .map_err(|source| TakeError::OtherBase { path: path.to_owned(), source })?;
    Ok(base)
}

/// The machine's disks with overlays.
fn overlaid(disks: &[proto::Disk]) -> impl Iterator<Item = (usize, &proto::Disk)> {
    disks.iter().enumerate().filter(|(_, disk)| disk.mode() == DiskMode::Overlay)
}

/// How many of a disk's layers belong to the base.
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
            // Whether there is nothing between the base's layers and the overlay, which then need not be merged.
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
        // From here on the machine stands still, and goes on when this is dropped.
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

    /// Makes sure that the folder has what its state wants: the machine may have changed between the questions.
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

    /// What the monitor said.
    #[must_use]
    pub fn saved(&self) -> &proto::Saved {
        &self.saved
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`TakeError`]; the machine goes on as before.
    pub fn commit(mut self) -> Result<Taken, TakeError> {
        let started = Instant::now();
        for disk in &self.linked {
            let Some(path) = self.folder.as_ref().map(|folder| folder.path().join(layer_name(*disk))) else {
                continue;
            };
            // The pause has made it durable; this costs nothing then.
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
            // Where both are there the machine must not go on: its overlays may be the folder's.
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
            let _ = self.client.resume(); // it may have ended
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Gives the overlay a second name; `false` where it must be merged: on another file system, or where there is
/// another file now.
fn link(overlay: &Overlay, to: &Path) -> bool {
    if fs::hard_link(&overlay.path, to).is_err() {
        return false;
    }
    overlay.is_at(to) || {
        let _ = fs::remove_file(to); // a new file could not be made there otherwise, which is told
        false
    }
}

/// What the link of a folder at `to` says about its base.
fn link_target(base: &Path, to: &Path) -> PathBuf {
    let beside = fs::canonicalize(parent(to)).is_ok_and(|folder| Some(folder.as_path()) == base.parent());
    match base.file_name() {
        Some(name) if beside => Path::new("..").join(name),
        _ => base.to_owned(),
    }
}
