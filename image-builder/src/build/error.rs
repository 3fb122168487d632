//! Why a build failed.

use std::path::PathBuf;

use hearth_host::agent::AgentError;
use hearth_host::microvm::MicrovmError;
use hearth_host::network::NetworkError;
use hearth_model::text::harmless;

use crate::failure::{FailureCode, StateReason};

/// Most bytes of what a `stateReason` says beyond its sentence.
const DETAIL: usize = 1536;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A failure that the user can mend: in the artifact, the Dockerfile or the app.
    #[error("{reason}{}", Detail(.detail))]
    Failed {
        /// The build's `stateReason`.
        reason: StateReason,
        /// Details; empty if the reason is complete.
        detail: String,
    },
    /// A failure that the operator can mend.
    #[error("Internal platform error: {0}")]
    Platform(String),
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The image's folder exists already.
    #[error("{0} exists already; give another folder, or remove it first")]
    Occupied(PathBuf),
}

struct Detail<'a>(&'a String);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

impl BuildError {
    /// Makes a failure that the user can mend.
    pub(super) fn failed(reason: impl Into<StateReason>, detail: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), detail: detail.into() }
    }

    /// Makes a failure that the user can mend, whose `stateReason` says what exactly. The detail may have been written by the guest.
    pub(super) fn explained(code: FailureCode, detail: &str) -> Self {
        let detail = harmless(detail.as_bytes(), DETAIL);
        Self::Failed { reason: StateReason::Explained(code, detail), detail: String::new() }
    }

    /// The sentence for the build's `stateReason`.
    #[must_use]
    pub fn state_reason(&self) -> String {
        self.reason_by(StateReason::sentence)
    }

    /// The sentence that AWS uses, without what this project adds.
    #[must_use]
    pub fn measured_reason(&self) -> String {
        self.reason_by(StateReason::measured)
    }

    fn reason_by(&self, sentence: impl FnOnce(&StateReason) -> String) -> String {
        match self {
            Self::Failed { reason, .. } => sentence(reason),
            Self::Platform(_) | Self::Occupied(_) => FailureCode::InternalPlatformError.sentence().to_owned(),
            Self::Cancelled => "The build was cancelled.".to_owned(),
        }
    }
}

/// Converts errors that only the operator can mend.
macro_rules! platform {
    ($($error:ty),*) => {
        $(impl From<$error> for BuildError {
            fn from(error: $error) -> Self {
                Self::Platform(error.to_string())
            }
        })*
    };
}

platform!(AgentError, MicrovmError, NetworkError, tokio::task::JoinError);

/// Makes the error of a file operation on the host.
pub(super) fn file<'a>(
    what: &'a str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> BuildError + 'a {
    move |error| {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return BuildError::failed(
                FailureCode::DiskStorageFull,
                format!("{what} {}: {error}", path.display()),
            );
        }
        BuildError::Platform(format!("{what} {}: {error}", path.display()))
    }
}
