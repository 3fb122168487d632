//! Why a launch or a request is not accepted.

use hearth_model::id::IdError;

use super::capacity::Full;
use crate::store::{CommitError, StoreError};

/// Why a microVM was not launched. Nothing of the microVM is left.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// An expectation of the batch did not hold: the client token was used meanwhile, or the version is gone.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The account's microVMs would have more memory together than those of one account may have.
    #[error("the microVMs of the account {account} may have {limit_mib} MiB of memory together")]
    Quota {
        /// The account.
        account: String,
        /// Memory that the microVMs of an account may have together, in MiB.
        limit_mib: u64,
    },
    /// The host has not enough free memory.
    #[error(transparent)]
    Capacity(#[from] Full),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record has a text that is no id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The daemon is shutting down.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Why a request was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The account has no such microVM.
    #[error("MicroVM not found: {0}")]
    NotFound(String),
    /// The microVM is terminating or terminated.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// The microVM's state does not allow the request.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    Conflict {
        /// Id of the microVM.
        id: String,
        /// State of the microVM, like `PENDING`.
        state: &'static str,
        /// Advice to the client.
        hint: &'static str,
    },
    /// The host has not enough free memory to resume the microVM.
    #[error(transparent)]
    Capacity(#[from] Full),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is shutting down.
    #[error("the daemon is stopping")]
    Stopping,
}

impl RequestError {
    /// The error of a request whose change could not be stored.
    pub(super) fn not_stored(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            CommitError::Conflict => Self::Stopping, // updates have no expectations
        }
    }
}
