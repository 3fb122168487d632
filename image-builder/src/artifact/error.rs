//! Why an artifact could not be had.

use std::io;

use super::zip::ZipError;
use crate::failure::{FailureCode, StateReason};

/// Why an artifact could not be had. Its `Display` is for the log; what the user sees is [`ArtifactError::state_reason`].
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A documented code says it all.
    #[error("{}", .0.sentence())]
    Code(FailureCode),
    /// The store said no, or there is no such thing: something about the artifact that has a code of its own.
    #[error("{what}")]
    Refused {
        /// The documented code.
        code: FailureCode,
        /// What, for the user, too.
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
    /// A server could not be reached, broke off, or answered with an error of its own.
    #[error("{what}: {why}")]
    Transport {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        why: String,
    },
    /// A file of this host.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error("the configuration of {what}: {why}")]
    Config {
        /// Of what.
        what: String,
        /// What is wrong.
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

    /// What the build's `stateReason` is: nothing about this host.
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
            Self::Io { source, .. } if is_full(source) => StateReason::Code(FailureCode::DiskStorageFull),
            Self::Transport { .. } => StateReason::Detailed(
                FailureCode::InternalPlatformError,
                "The code artifact could not be fetched.".to_owned(),
            ),
            Self::Io { .. } | Self::Config { .. } => StateReason::Code(FailureCode::InternalPlatformError),
        }
    }
}

/// Whether there is no room for a file, or none for this process.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
