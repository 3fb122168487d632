//! Why an artifact could not be fetched.

use std::io;

use super::zip::ZipError;
use crate::failure::{FailureCode, StateReason, is_full};

/// Why an artifact could not be fetched. `Display` is for the log; the user sees [`ArtifactError::state_reason`].
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A failure that its documented code describes completely.
    #[error("{}", .0.sentence())]
    Code(FailureCode),
    /// The store refused, or the artifact does not exist or is invalid: a failure with a documented code and a detail.
    #[error("{what}")]
    Refused {
        /// The documented code.
        code: FailureCode,
        /// The detail, which the user may see.
        what: String,
    },
    /// More bytes than allowed.
    #[error("the artifact is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The archive is refused.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// A server could not be reached, broke the connection, or failed.
    #[error("{what}: {why}")]
    Transport {
        /// The operation, for the message.
        what: &'static str,
        /// Description of the error.
        why: String,
    },
    /// A file operation on this host failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation, for the message.
        what: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A worker has failed, or has failed at its task.
    #[error("{log}")]
    Worker {
        /// The build's `stateReason`.
        reason: StateReason,
        /// The whole error.
        log: String,
    },
    /// The configuration is invalid.
    #[error("the configuration of {what}: {why}")]
    Config {
        /// The part of the configuration.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl From<FailureCode> for ArtifactError {
    fn from(code: FailureCode) -> Self {
        Self::Code(code)
    }
}

impl ArtifactError {
    pub(super) fn refused(code: FailureCode, what: impl Into<String>) -> Self {
        Self::Refused { code, what: what.into() }
    }

    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// The build's `stateReason`, which reveals nothing about this host.
    #[must_use]
    pub fn state_reason(&self) -> StateReason {
        match self {
            Self::Code(code) => StateReason::Code(*code),
            Self::Refused { code, what } => StateReason::Detailed(*code, what.clone()),
            Self::TooLarge { limit } => StateReason::Detailed(
                FailureCode::ArchiveInvalid,
                format!("The code artifact is larger than {limit} bytes."),
            ),
            Self::Zip(error) => match error.code() {
                code @ (FailureCode::ArchiveInvalid | FailureCode::ArchiveDockerfileNotFound) => {
                    StateReason::Detailed(code, error.to_string())
                }
                code => StateReason::Code(code),
            },
            Self::Worker { reason, .. } => reason.clone(),
            Self::Io { source, .. } if is_full(source) => StateReason::Code(FailureCode::DiskStorageFull),
            Self::Transport { .. } => StateReason::Detailed(
                FailureCode::InternalPlatformError,
                "The code artifact could not be fetched.".to_owned(),
            ),
            Self::Io { .. } | Self::Config { .. } => StateReason::Code(FailureCode::InternalPlatformError),
        }
    }
}
