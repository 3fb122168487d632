//! Why a snapshot could not be taken.

use std::io;
use std::path::PathBuf;

use super::open::OpenError;
use super::temporary::NotNamed;
use crate::client::ClientError;
use crate::snapshot::id_text;
use crate::snapshot::memory_file::MemoryFileError;
use crate::snapshot::state_file::StateError;

/// Why a snapshot was not taken. The machine goes on as before, and what was at the folder's place still is there,
/// unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// No place for a folder.
    #[error("{0} names no folder: give a path that ends in a name")]
    Name(PathBuf),
    /// The place is taken.
    #[error("{0} exists already: name another folder, or have it replaced")]
    Exists(PathBuf),
    /// Only snapshots are replaced.
    #[error("{path} is not replaced, it is no snapshot: {why}; name another folder")]
    NotASnapshot {
        /// What is there.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The base.
    #[error(transparent)]
    Base(#[from] OpenError),
    /// The base is no full snapshot.
    #[error("{0} builds on another snapshot itself: name that one as the base")]
    BaseIsDiff(PathBuf),
    /// A diff would replace what it builds on.
    #[error("{0} cannot be replaced by a snapshot that builds on it: name another folder")]
    ReplacesBase(PathBuf),
    /// A machine that was not restored differs from nothing.
    #[error(
        "the machine builds on no snapshot: it was booted, or its guest has restarted itself since; take a full snapshot"
    )]
    NoBase,
    /// The machine builds on another snapshot than the one that was named.
    #[error("{path} is not what the machine builds on: {source}")]
    OtherBase {
        /// The folder that was named.
        path: PathBuf,
        /// Whose memory it has, and whose is wanted.
        source: MemoryFileError,
    },
    /// The monitor refused, or has gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What the monitor wrote cannot be read again.
    #[error("what the monitor wrote: {0}")]
    State(#[from] StateError),
    /// What the monitor wrote is not what the folder would be.
    #[error("the monitor wrote a snapshot that this folder would not be whole for: {0}")]
    Unfit(String),
    /// The host refused something.
    #[error("{what} {path}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Folders cannot be exchanged here.
    #[error(
        "the file system of {0} cannot exchange folders: name a new folder instead of having this one replaced"
    )]
    CannotExchange(PathBuf),
    /// It has its name, and nobody knows whether that is durable.
    #[error(
        "the snapshot is at {path}, but the host could not make that durable: {source}; the machine stays paused. Look after \
         the file system, then take the snapshot again, or end the machine and keep this one"
    )]
    Unsettled {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl TakeError {
    /// For `map_err`: the host refused `what`.
    pub(super) fn host(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { what, path, source }
    }

    /// For `map_err`: `path` was not given to what was to have that name.
    pub(super) fn not_named(path: PathBuf) -> impl FnOnce(NotNamed) -> Self {
        move |NotNamed { source, undone }| match (undone, source.raw_os_error()) {
            (false, _) => Self::Unsettled { path, source },
            (true, Some(libc::EEXIST | libc::ENOTEMPTY)) => Self::Exists(path),
            (true, Some(libc::EINVAL | libc::ENOSYS)) => Self::CannotExchange(path),
            (true, _) => Self::Host { what: "putting the snapshot at", path, source },
        }
    }

    /// The monitor answered with another base than it had announced.
    pub(super) fn other_base(announced: &[u8], written: &[u8]) -> Self {
        Self::Unfit(format!("it builds on {}, not on {}", id_text(written), id_text(announced)))
    }
}
