//! The folder of an image.
//!
//! | Entry | Content |
//! |---|---|
//! | `image.json` | [`Manifest`]: the app, its hooks and sizes, the image's sources |
//! | `disk` | the root disk: ext4, sparse, never written again |
//! | `sums` | checksums of all files that have none of their own (`hearth_vmm_api::snapshot::sums`); not in images of 0.2 |
//! | `snapshot/` | a full snapshot of the running app: state, memory, changes to the disk, working set |
//!
//! The folder appears as a whole or not at all, and never changes.

mod manifest;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hearth_host::microvm::{MicrovmError, Restore, create, open};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreClock;

pub use manifest::{App, BaseOrigin, Manifest, Origin, Sizes};

/// Name of the manifest in the folder.
pub const MANIFEST: &str = "image.json";
/// Name of the root disk in the folder.
pub const DISK: &str = "disk";
/// Name of the snapshot in the folder.
pub const SNAPSHOT: &str = "snapshot";

/// Longest `image.json` in bytes.
const MANIFEST_MAX: u64 = 16 << 20;

/// Why a folder is not an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file is missing or unreadable.
    #[error("{path}: {source}; is that the folder of an image?")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// `image.json` cannot be parsed.
    #[error("{path}: {source}; it was written by another release, or damaged")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The image was written by a newer release.
    #[error("{path} has format {found}; this release reads {known}", known = Manifest::FORMAT)]
    Format {
        /// The file.
        path: PathBuf,
        /// The image's format.
        found: u32,
    },
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    folder: PathBuf,
    manifest: Manifest,
}

impl Image {
    /// The image in `folder`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.join(MANIFEST);
        let file = |source| ImageError::File { path: path.clone(), source };
        let size = fs::metadata(&path).map_err(file)?.len();
        if size > MANIFEST_MAX {
            return Err(file(io::Error::other("it is too large")));
        }
        let text = fs::read(&path).map_err(file)?;
        let broken = |source| ImageError::Manifest { path: path.clone(), source };
        let format: Format = serde_json::from_slice(&text).map_err(broken)?;
        if format.format != Manifest::FORMAT {
            return Err(ImageError::Format { path, found: format.format });
        }
        let manifest = serde_json::from_slice(&text).map_err(broken)?;
        Ok(Self { folder: folder.to_owned(), manifest })
    }

    /// The description of the image.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Path of the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How to restore a microVM of the image, with a new overlay at `overlay`, and the tap of its network if it has one. It has no
    /// rate limits.
    ///
    /// # Errors
    /// [`MicrovmError::File`].
    pub fn restore(&self, overlay: &Path, tap: Option<File>) -> Result<Restore, MicrovmError> {
        let base = open("opening the image's disk", &self.folder.join(DISK))?;
        let overlay = create("making the microVM's overlay", overlay)?;
        Ok(Restore {
            snapshot: self.folder.join(SNAPSHOT),
            disks: vec![DiskSource::Overlay { base, layers: Vec::new(), overlay }],
            tap,
            clock: RestoreClock::Continue,
            limits: DeviceLimits::default(),
            record: false,
        })
    }
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// Bytes that a file takes on its file system.
///
/// # Errors
/// A system call failed.
pub fn allocated(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}
