//! The reasons for which a snapshot could not be taken.

use std::io;
use std::path::PathBuf;

use hearth_vmm_api::snapshot::id_text;
use hearth_vmm_api::snapshot::memory_file::MemoryFileError;
use hearth_vmm_api::snapshot::state_file::StateError;

use super::open::OpenError;
use super::temporary::NotNamed;
use crate::ClientError;

/// The reason for which a snapshot was not taken. The machine continues as before, and the destination is unchanged,
/// unless the message states otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The destination has no name.
    #[error("{0} names no folder: give a path that ends in a name")]
    Name(PathBuf),
    /// The destination exists already.
    #[error("{0} exists already: name another folder, or have it replaced")]
    Exists(PathBuf),
    /// The destination is not a snapshot, and only snapshots are replaced.
    #[error("{path} is not replaced, it is no snapshot: {why}; name another folder")]
    NotASnapshot {
        /// Path of the destination.
        path: PathBuf,
        /// The reason for which it is not a snapshot.
        why: String,
    },
    /// The base cannot be opened.
    #[error(transparent)]
    Base(#[from] OpenError),
    /// The base is not a full snapshot.
    #[error("{0} builds on another snapshot itself: name that one as the base")]
    BaseIsDiff(PathBuf),
    /// A diff would replace the snapshot on which it builds.
    #[error("{0} cannot be replaced by a snapshot that builds on it: name another folder")]
    ReplacesBase(PathBuf),
    /// The machine was not restored from a snapshot, so there is nothing to compare it with.
    #[error(
        "the machine builds on no snapshot: it was booted, or its guest has restarted itself since; take a full snapshot"
    )]
    NoBase,
    /// The machine builds on another snapshot than the one that was given as the base.
    #[error("{path} is not what the machine builds on: {source}")]
    OtherBase {
        /// The folder that was given as the base.
        path: PathBuf,
        /// Describes whose memory the folder contains, and whose is needed.
        source: MemoryFileError,
    },
    /// The monitor refused the request, or its connection is closed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The state that the monitor wrote cannot be read.
    #[error("what the monitor wrote: {0}")]
    State(#[from] StateError),
    /// The snapshot that the monitor wrote would be incomplete in this folder.
    #[error("the monitor wrote a snapshot that this folder would not be whole for: {0}")]
    Unfit(String),
    /// A system call on the host failed.
    #[error("{what} {path}: {source}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// The path that the step concerned.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The file system cannot exchange folders.
    #[error(
        "the file system of {0} cannot exchange folders: name a new folder instead of having this one replaced"
    )]
    CannotExchange(PathBuf),
    /// The snapshot has its final name, but it is unknown whether the name is on stable storage.
    #[error(
        "the snapshot is at {path}, but the host could not make that durable: {source}; the machine stays paused. Look after \
         the file system, then take the snapshot again, or end the machine and keep this one"
    )]
    Unsettled {
        /// The folder of the snapshot.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
}

impl TakeError {
    /// For `map_err`: the step `what` failed on the host.
    pub(super) fn host(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { what, path, source }
    }

    /// For `map_err`: a temporary folder or file could not be renamed to `path`.
    pub(super) fn not_named(path: PathBuf) -> impl FnOnce(NotNamed) -> Self {
        move |NotNamed { source, undone }| match (undone, source.raw_os_error()) {
            (false, _) => Self::Unsettled { path, source },
            (true, Some(libc::EEXIST | libc::ENOTEMPTY)) => Self::Exists(path),
            (true, Some(libc::EINVAL | libc::ENOSYS)) => Self::CannotExchange(path),
            (true, _) => Self::Host { what: "putting the snapshot at", path, source },
        }
    }

    /// The error for a monitor that saved a diff over another base than the one that it had announced.
    pub(super) fn other_base(announced: &[u8], written: &[u8]) -> Self {
        Self::Unfit(format!("it builds on {}, not on {}", id_text(written), id_text(announced)))
    }
}
