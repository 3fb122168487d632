//! Opens a snapshot's folder for a monitor to restore.
//!
//! The folder is opened once, and its files relative to it. If the folder is replaced meanwhile, all files come from
//! the old one or all from the new one, never some from each. The monitor checks whether the files belong together:
//! each contains the id of its snapshot.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::restore::RestoreConfig;
use hearth_vmm_api::limits::VIRTIO_SLOTS;
use hearth_vmm_api::snapshot::folder::{BASE, MEMORY, STATE, WORKING_SET, layer_name};
use hearth_vmm_api::snapshot::state_file::{self, StateError};

/// The reason for which a snapshot's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file is missing or cannot be read.
    #[error("opening the {what} of the snapshot {path}: {source}; is that the folder of a snapshot?")]
    File {
        /// Name of the file.
        what: String,
        /// The folder.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The target of the link to the base cannot be opened.
    #[error(
        "the snapshot {path} builds on {base}, which cannot be opened: {source}; bring that folder back to its place"
    )]
    Base {
        /// The folder.
        path: PathBuf,
        /// The target of the link.
        base: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The base builds on another snapshot itself.
    #[error(
        "the snapshot {path} builds on {base}, which builds on another one itself: no snapshot does that; restore {path} \
         from its source"
    )]
    Chain {
        /// The folder.
        path: PathBuf,
        /// The base of the folder.
        base: PathBuf,
    },
    /// The file `state` is damaged.
    #[error("the snapshot {path}: {source}")]
    State {
        /// The folder.
        path: PathBuf,
        /// The error in the state.
        source: StateError,
    },
    /// The number of disks differs from that of the snapshot.
    #[error("disks of the snapshot {path}: it has {wanted}, {given} given; give as many, in the same order")]
    Disks {
        /// The folder.
        path: PathBuf,
        /// Number of disks of the snapshot.
        wanted: usize,
        /// Number of disks that were given.
        given: usize,
    },
    /// A disk is not attached in the same way as when the snapshot was taken.
    #[error("disk {index} of the snapshot {path} was {was}: attach it in the same way")]
    DiskMode {
        /// The folder.
        path: PathBuf,
        /// Index of the disk.
        index: usize,
        /// How the disk was attached.
        was: &'static str,
    },
    /// The overlay file is not empty, so it belongs to another machine.
    #[error(
        "the overlay of disk {0} is not empty: what a restored disk holds comes from the snapshot, and its writes go into a new \
         file; name one"
    )]
    Overlay(usize),
}

/// Opens a file by its name in an open folder.
fn open_in(folder: &File, name: &str, flags: libc::c_int) -> io::Result<File> {
    let name = CString::new(name)?;
    // SAFETY: `name` is NUL-terminated and lives across the call.
    let fd = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Does the same as [`open_in`] for an optional file; returns `None` if it does not exist.
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
        // Resolve symbolic links now: a link that leads here may lead elsewhere later.
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

    /// Opens the folder on which this one builds.
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
    /// The memory of the full snapshot.
    memory: File,
    diff: Option<File>,
    /// The frozen layers of each disk, the lowest first.
    layers: Vec<Vec<File>>,
    working_set: Option<File>,
}

/// Opens the snapshot in `folder`, and the one on which it builds.
///
/// # Errors
/// [`OpenError`].
pub fn open(folder: &Path) -> Result<Opened, OpenError> {
    let folder = Folder::open(folder)?;
    let state = folder.file(STATE)?;
    let own_memory = folder.file(MEMORY)?;
    let mut layers: Vec<Vec<File>> = (0..VIRTIO_SLOTS).map(|_| Vec::new()).collect();
    let base = folder.base()?;
    // A diff is restored with the working set of its base.
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
    /// Returns the path of the folder, with symbolic links resolved.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the snapshot is a diff.
    #[must_use]
    pub fn is_diff(&self) -> bool {
        self.base.is_some()
    }

    /// Returns the folder on which a diff builds if it is taken of a machine that is restored from this snapshot.
    #[must_use]
    pub fn next_base(&self) -> &Path {
        self.base.as_ref().unwrap_or(&self.folder)
    }

    /// Returns the memory of the full snapshot.
    pub(super) fn memory(&self) -> &File {
        &self.memory
    }

    /// Returns the number of frozen layers of disk `index`.
    #[must_use]
    pub fn layers(&self, index: usize) -> usize {
        self.layers.get(index).map_or(0, Vec::len)
    }

    /// Returns the configuration of the saved machine.
    ///
    /// # Errors
    /// [`OpenError::State`].
    pub fn machine(&self) -> Result<proto::Create, OpenError> {
        let failed = |source| OpenError::State { path: self.folder.clone(), source };
        Ok(state_file::read(&self.state).map_err(failed)?.config.unwrap_or_default())
    }

    /// Builds the configuration for the monitor's restore. `disks` are in the order in which the guest sees them. The
    /// layers of an overlay are replaced by those of this snapshot, and the overlay file must be empty. The caller
    /// still sets taps, sockets, console and clock.
    ///
    /// # Errors
    /// [`OpenError`] when `disks` do not match the disks of the machine.
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
