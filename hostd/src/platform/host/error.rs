//! Why an operation on this host fails.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_host::agent::AgentError;
use hearth_host::microvm::MicrovmError;
use hearth_host::network::NetworkError;
use hearth_host::roles::RoleError;
use hearth_image_builder::image::ImageError;
use hearth_model::id::MicrovmId;
use hearth_vmm_client::ClientError;
use hearth_vmm_jail::cgroup::CgroupError;
use rustix::io::Errno;
use tokio::task::JoinError;

use crate::platform::PlatformError;

/// Why a microVM could not be made, found or removed on this host. Drivers see it as a [`PlatformError`].
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation failed.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// The operation, for the message.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A monitor or its files failed.
    #[error(transparent)]
    Microvm(#[from] MicrovmError),
    /// A monitor could not make a virtual machine ahead of its microVM.
    #[error("preparing a virtual machine: {0}")]
    Prepare(#[source] ClientError),
    /// The guest's agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A role yields no credentials.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A network could not be made or removed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A control group could not be set up or removed.
    #[error(transparent)]
    Group(#[from] CgroupError),
    /// The control groups could not be listed.
    #[error("reading the control groups: {0}")]
    Groups(#[source] io::Error),
    /// The files of a build are no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A blocking thread has panicked.
    #[error("a thread of the program ended unexpectedly: {0}")]
    Thread(#[from] JoinError),
    /// All user ids for monitors are taken.
    #[error("all user ids of jail.uids are in use: configure more, or end microVMs")]
    NoUserId,
    /// The monitor is no child of this process.
    #[error("the monitor was not started here")]
    NotStarted,
    /// The monitor belongs to a microVM already.
    #[error("the monitor has a microVM already")]
    Claimed,
    /// The microVM has no suspended state.
    #[error("{0} was never suspended")]
    NeverSuspended(MicrovmId),
    /// The suspended state does not exist.
    #[error("suspended state {number} of {id} is not there")]
    NoState {
        /// Id of the microVM.
        id: MicrovmId,
        /// Number of the suspended state.
        number: u64,
    },
    /// The operation exceeded its time limit.
    #[error("it took longer than {} s", .0.as_secs())]
    TooLong(Duration),
    /// The operation was given up before its turn came; contains the id of the microVM.
    #[error("{0} was given up before it was begun")]
    GivenUp(MicrovmId),
    /// A later operation on the microVM has begun.
    #[error("something else was begun with it meanwhile")]
    Overtaken,
    /// An error, and the last output of the monitor and its guest.
    #[error("{error}; its last words:\n{words}")]
    LastWords {
        /// The error.
        #[source]
        error: Box<HostError>,
        /// The output.
        words: String,
    },
}

/// For `map_err`: converts an I/O error of the operation `what` on `path`.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::File { what, path, source }
}

impl HostError {
    /// Whether the host has no room left. A full disk or a full table is a lack of capacity, not a failure of the
    /// request.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::NoUserId | Self::Network(NetworkError::PoolIsFull { .. }) => true,
            Self::File { source, .. } | Self::Microvm(MicrovmError::File { source, .. }) => is_full(source),
            _ => false,
        }
    }

    /// Adds the last output of a monitor and its guest, if there is any, unless the error needs no such explanation.
    pub(super) fn with_last_words(self, words: String) -> Self {
        if words.is_empty() || self.is_full() {
            return self;
        }
        Self::LastWords { error: Box::new(self), words }
    }
}

fn is_full(error: &io::Error) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|code| full.contains(&code))
}

impl From<HostError> for PlatformError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Role(_) => Self::Role(error.into()),
            _ if error.is_full() => Self::Capacity(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_host_is_told_from_a_failure() {
        let error = |code: Errno| failed("writing", Path::new("/data/x"))(io::Error::from(code));
        assert!(matches!(error(Errno::NOSPC).into(), PlatformError::Capacity(_)));
        let failure: PlatformError = error(Errno::IO).into();
        assert!(matches!(failure, PlatformError::Failed(_)));
        assert!(failure.to_string().starts_with("writing /data/x: "), "{failure}");
    }

    #[test]
    fn last_words_explain_a_failure_and_no_lack_of_room() {
        let file = |code: Errno| failed("writing", Path::new("/data/x"))(io::Error::from(code));
        let explained = file(Errno::IO).with_last_words("panic".to_owned()).to_string();
        assert!(explained.ends_with("; its last words:\npanic"), "{explained}");
        assert!(!file(Errno::IO).with_last_words(String::new()).to_string().contains("last words"));
        let full = file(Errno::NOSPC).with_last_words("panic".to_owned());
        assert!(matches!(full.into(), PlatformError::Capacity(_)));
    }
}
