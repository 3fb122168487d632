//! A task per microVM that executes what its state machine says, and recovery.

use std::sync::Arc;

use hearth_proto::store::v1::MicrovmRecord;

use crate::store::{Batch, StoreError};

/// What a client asks of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// SuspendMicrovm.
    Suspend,
    /// ResumeMicrovm.
    Resume,
    /// TerminateMicrovm.
    Terminate,
}

/// Why a microVM was not launched. Nothing of it is left.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// An expectation of the batch did not hold: the client token was used meanwhile, or the version is gone.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The host is full.
    #[error("the host has no room for {needed_mib} MiB: {free_mib} MiB of its capacity are free")]
    Capacity {
        /// What it takes.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Why a request was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// There is no such microVM in the account.
    #[error("Unable to find microvmIdentifier {0}")]
    NotFound(String),
    /// It is terminating or terminated.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// Its state does not allow it.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    Conflict {
        /// Which.
        id: String,
        /// Its state, like `PENDING`.
        state: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The host is full, so that it cannot be resumed.
    #[error("the host has no room for {needed_mib} MiB: {free_mib} MiB of its capacity are free")]
    Capacity {
        /// What it takes.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

/// The drivers of all microVMs. Copies are cheap and reach the same.
#[derive(Debug, Clone)]
pub struct Microvms {
    inner: Arc<()>,
}

impl Microvms {
    /// Launches a microVM: its record (phase LAUNCHING) is stored together with `with` – the client token, say – and what the
    /// drivers keep beside it (indices, use of the artifact); durable when this returns. The launch itself goes on afterwards.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing was stored then.
    pub async fn launch(&self, record: MicrovmRecord, with: Batch) -> Result<(), LaunchError> {
        let _ = (&self.inner, record, with);
        Err(LaunchError::Stopping)
    }

    /// Asks something of a microVM. What was accepted is durable when this returns, and happens afterwards.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, account: &str, id: &str, request: Request) -> Result<(), RequestError> {
        let _ = (account, request);
        Err(RequestError::NotFound(id.to_owned()))
    }

    /// Baseline memory in MiB: what microVMs may have on this host, and what those that run have.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        (0, 0)
    }
}
