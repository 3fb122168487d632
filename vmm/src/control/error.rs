//! Why requests are refused, and how a controller is told.

use hearth_proto::vmm::v1::{self as proto, ErrorCode};

use super::VERSIONS;
use crate::config::ConfigError;
use crate::machine::BuildError;
use crate::snapshot::save::SaveError;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The packet is no request.
    #[error("the message is not a hearth.vmm.v1.Request: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The request speaks another version.
    #[error("protocol version {0} is not supported: this hearth-vmm {program} speaks {VERSIONS}; use a controller of its release or a newer one",
            program = env!("CARGO_PKG_VERSION"))]
    Version(u32),
    /// The request names no operation that this version has.
    #[error("the request names no operation that this hearth-vmm {program} has", program = env!("CARGO_PKG_VERSION"))]
    NoOperation,
    /// The operation takes no descriptors, or another number.
    #[error("{operation} takes {expected} descriptors and got {got}")]
    Descriptors {
        /// Which operation.
        operation: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// The state does not allow it.
    #[error("cannot {operation}: the machine is {state}")]
    State {
        /// What was asked for.
        operation: &'static str,
        /// The state it is in.
        state: &'static str,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A machine could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The request does not say what to save.
    #[error("the request does not say whether all of memory is to be saved or what has changed")]
    SaveKind,
    /// A file that is to be written holds something.
    #[error("the file for the {0} is not empty: pass a new one")]
    NotEmpty(&'static str),
    /// Nothing was recorded.
    #[error("the machine does not record its working set: restore it with a userfaultfd")]
    NotRecording,
    /// A device refused.
    #[error(transparent)]
    Device(#[from] crate::machine::board::BoardError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: std::io::Error,
    },
}

impl RequestError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) | Self::Version(_) | Self::NoOperation | Self::Descriptors { .. } => {
                ErrorCode::Protocol
            }
            Self::State { .. }
            | Self::NotRecording
            | Self::Save(SaveError::NoBase | SaveError::Restarted) => ErrorCode::State,
            Self::Save(SaveError::Cancelled) => ErrorCode::Cancelled,
            Self::Host { .. } | Self::Build(BuildError::Host { .. }) | Self::Save(_) => ErrorCode::Host,
            Self::SaveKind | Self::NotEmpty(_) | Self::Config(_) | Self::Build(_) | Self::Device(_) => {
                ErrorCode::Invalid
            }
        }
    }

    /// As a controller is told.
    pub(super) fn message(&self) -> proto::Error {
        proto::Error { code: self.code().into(), message: self.to_string() }
    }
}
