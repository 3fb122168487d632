//! A folder becomes what a monitor restores.
//!
//! The folder is opened once, and its files from there: one that is replaced meanwhile is the old one or the new one,
//! never some files of each. Whether the files belong together is the monitor's to check: each carries the id of
//! its snapshot.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1 as proto;

use super::{BASE, MEMORY, STATE, WORKING_SET, layer_name};
use crate::arch::layout::VIRTIO_SLOTS;
use crate::config::DiskSource;
use crate::config::restore::RestoreConfig;
use crate::snapshot::state_file::{self, StateError};

/// Why a snapshot's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something is missing, or may not be read.
    #[error("opening the {what} of the snapshot {path}: {source}; is that the folder of a snapshot?")]
    File {
        /// Which file.
        what: String,
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The link leads nowhere.
    #[error(
        "the snapshot {path} builds on {base}, which cannot be opened: {source}; bring that folder back to its place"
    )]
    Base {
        /// The folder.
        path: PathBuf,
        /// What its link says.
        base: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The base has a base.
    #[error(
        "the snapshot {path} builds on {base}, which builds on another one itself: no snapshot does that; restore {path} \
         from its source"
    )]
    Chain {
        /// The folder.
        path: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// The state is damaged.
    #[error("the snapshot {path}: {source}")]
    State {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        source: StateError,
    },
    /// Another number of disks.
    #[error("disks of the snapshot {path}: it has {wanted}, {given} given; give as many, in the same order")]
    Disks {
        /// The folder.
        path: PathBuf,
        /// How many it has.
        wanted: usize,
        /// How many were given.
        given: usize,
    },
    /// A disk is attached in another way.
    #[error("disk {index} of the snapshot {path} was {was}: attach it in the same way")]
    DiskMode {
        /// The folder.
        path: PathBuf,
        /// Which disk.
        index: usize,
        /// How it was attached.
        was: &'static str,
    },
    /// The overlay belongs to another story.
    #[error(
        "the overlay of disk {0} is not empty: what a restored disk holds comes from the snapshot, and its writes go into a new \
         file; name one"
    )]
    Overlay(usize),
}

/// Opens a file by its name in an open folder.
fn open_in(folder: &File, name: &str, flags: libc::c_int) -> io::Result<File> {
    let name = CString::new(name)?;
    // SAFETY: a string with a NUL at its end, which lives across the call.
    let fd = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// The same for a file that need not be there.
fn open_optional(folder: &File, name: &str, flags: libc::c_int) -> io::Result<Option<File>> {
    match open_in(folder, name, flags) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An open folder.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    file: File,
}

impl Folder {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { what: "folder".into(), path: path.to_owned(), source };
        // Its true name: the link that leads here may be another one tomorrow.
        let path = fs::canonicalize(path).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        Ok(Self { path, file })
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> OpenError + use<> {
        let (what, path) = (what.to_owned(), self.path.clone());
        move |source| OpenError::File { what, path, source }
    }

    fn file(&self, name: &str) -> Result<File, OpenError> {
        open_in(&self.file, name, libc::O_RDONLY).map_err(self.failed(name))
    }

    fn optional(&self, name: &str) -> Result<Option<File>, OpenError> {
        open_optional(&self.file, name, libc::O_RDONLY).map_err(self.failed(name))
    }

    fn is_diff(&self) -> Result<bool, OpenError> {
        let link = open_optional(&self.file, BASE, libc::O_PATH | libc::O_NOFOLLOW);
        Ok(link.map_err(self.failed(BASE))?.is_some())
    }

    /// The folder that this one builds on.
    fn base(&self) -> Result<Option<Self>, OpenError> {
        if !self.is_diff()? {
            return Ok(None);
        }
        let link = self.path.join(BASE);
        let failed = |source| OpenError::Base {
            path: self.path.clone(),
            base: fs::read_link(&link).unwrap_or_else(|_| link.clone()),
            source,
        };
        let file = open_in(&self.file, BASE, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK)
            .map_err(failed)?;
        let base = Self { path: fs::canonicalize(&link).map_err(failed)?, file };
        if base.is_diff()? {
            return Err(OpenError::Chain { path: self.path.clone(), base: base.path });
        }
        Ok(Some(base))
    }

    /// Adds this folder's layer of each disk.
    fn add_layers(&self, layers: &mut [Vec<File>]) -> Result<(), OpenError> {
        for (index, layers) in layers.iter_mut().enumerate() {
            layers.extend(self.optional(&layer_name(index))?);
        }
        Ok(())
    }
}

/// The files of a snapshot, open for reading.
#[derive(Debug)]
pub struct Opened {
    folder: PathBuf,
    base: Option<PathBuf>,
    state: File,
    /// The full snapshot's.
    memory: File,
    diff: Option<File>,
    /// By disk, the lowest first.
    layers: Vec<Vec<File>>,
    working_set: Option<File>,
}

/// Opens the snapshot in `folder`, with what it builds on.
///
/// # Errors
/// [`OpenError`].
pub fn open(folder: &Path) -> Result<Opened, OpenError> {
    let folder = Folder::open(folder)?;
    let state = folder.file(STATE)?;
    let own_memory = folder.file(MEMORY)?;
    let mut layers: Vec<Vec<File>> = (0..VIRTIO_SLOTS).map(|_| Vec::new()).collect();
    let base = folder.base()?;
    // A diff is restored with the working set of what it builds on.
    let full = base.as_ref().unwrap_or(&folder);
    let working_set = full.optional(WORKING_SET)?;
    full.add_layers(&mut layers)?;
    let (memory, diff) = match &base {
        Some(base) => {
            folder.add_layers(&mut layers)?;
            (base.file(MEMORY)?, Some(own_memory))
        }
        None => (own_memory, None),
    };
    let (folder, base) = (folder.path, base.map(|base| base.path));
    Ok(Opened { folder, base, state, memory, diff, layers, working_set })
}

impl Opened {
    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it is a diff.
    #[must_use]
    pub fn is_diff(&self) -> bool {
        self.base.is_some()
    }

    /// The folder on which a diff of a machine that is restored from this one builds.
    #[must_use]
    pub fn next_base(&self) -> &Path {
        self.base.as_ref().unwrap_or(&self.folder)
    }

    /// The full snapshot's memory.
    pub(super) fn memory(&self) -> &File {
        &self.memory
    }

    /// How many frozen layers disk `index` has.
    #[must_use]
    pub fn layers(&self, index: usize) -> usize {
        self.layers.get(index).map_or(0, Vec::len)
    }

    /// The recorded working set, if there is one: that of the full snapshot.
    #[must_use]
    pub fn has_working_set(&self) -> bool {
        self.working_set.is_some()
    }

    /// What the machine is made of.
    ///
    /// # Errors
    /// [`OpenError::State`].
    pub fn machine(&self) -> Result<proto::Create, OpenError> {
        let failed = |source| OpenError::State { path: self.folder.clone(), source };
        Ok(state_file::read(&self.state).map_err(failed)?.config.unwrap_or_default())
    }

    /// What a monitor restores, with disks in the order of the guest's. The layers of an overlay are this snapshot's,
    /// whatever it has, and its file must be empty. Taps, sockets, console and clock are still to be set.
    ///
    /// # Errors
    /// [`OpenError`] when these are not the machine's disks.
    pub fn into_config(mut self, mut disks: Vec<DiskSource>) -> Result<RestoreConfig, OpenError> {
        let machine = self.machine()?;
        if machine.disks.len() != disks.len() {
            let (wanted, given) = (machine.disks.len(), disks.len());
            return Err(OpenError::Disks { path: self.folder, wanted, given });
        }
        for (index, (disk, wanted)) in disks.iter_mut().zip(&machine.disks).enumerate() {
            let was = match (wanted.mode(), &disk) {
                (proto::DiskMode::ReadOnly, DiskSource::ReadOnly(_))
                | (proto::DiskMode::Writable, DiskSource::Writable(_))
                | (proto::DiskMode::Overlay, DiskSource::Overlay { .. }) => None,
                (proto::DiskMode::Overlay, _) => Some("attached with an overlay"),
                (proto::DiskMode::Writable, _) => Some("writable, without an overlay"),
                _ => Some("read-only"),
            };
            if let Some(was) = was {
                return Err(OpenError::DiskMode { path: self.folder, index, was });
            }
            if let DiskSource::Overlay { layers, overlay, .. } = disk {
                let reading = |source| OpenError::File {
                    what: format!("overlay for disk {index}"),
                    path: self.folder.clone(),
                    source,
                };
                if overlay.metadata().map_err(reading)?.len() != 0 {
                    return Err(OpenError::Overlay(index));
                }
                *layers = self.layers.get_mut(index).map(std::mem::take).unwrap_or_default();
            }
        }
        let mut config = RestoreConfig::new(self.state, self.memory);
        config.diff = self.diff;
        config.disks = disks;
        config.working_set = self.working_set;
        Ok(config)
    }
}
