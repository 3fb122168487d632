//! The reasons for which the monitor refuses requests, and their encoding for the controller.

use hearth_proto::vmm::v1::{self as proto, ErrorCode};
use hearth_vmm_api::config::ConfigError;
use hearth_vmm_api::protocol::VERSIONS;

use crate::machine::BuildError;
use crate::snapshot::save::SaveError;

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The packet cannot be decoded as a request.
    #[error("the message is not a hearth.vmm.v1.Request: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The request uses a protocol version that this monitor does not speak.
    #[error("protocol version {0} is not supported: this hearth-vmm {program} speaks {VERSIONS}; use a controller of its release or a newer one",
            program = env!("CARGO_PKG_VERSION"))]
    Version(u32),
    /// The request contains no operation that this version of the protocol has.
    #[error("the request names no operation that this hearth-vmm {program} has", program = env!("CARGO_PKG_VERSION"))]
    NoOperation,
    /// The request carries another number of descriptors than its operation takes.
    #[error("{operation} takes {expected} descriptors and got {got}")]
    Descriptors {
        /// Name of the operation.
        operation: &'static str,
        /// Number of descriptors that the operation takes.
        expected: usize,
        /// Number of descriptors that the packet carried.
        got: usize,
    },
    /// The state of the machine does not allow the operation.
    #[error("cannot {operation}: the machine is {state}")]
    State {
        /// The operation that was requested.
        operation: &'static str,
        /// The state of the machine.
        state: &'static str,
    },
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The machine could not be saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The request does not specify the kind of save: full or diff.
    #[error("the request does not say whether all of memory is to be saved or what has changed")]
    SaveKind,
    /// A file into which the save is to write is not empty.
    #[error("the file for the {0} is not empty: pass a new one")]
    NotEmpty(&'static str),
    /// The machine does not record a working set.
    #[error("the machine does not record its working set: restore it with a userfaultfd")]
    NotRecording,
    /// A device refused the operation.
    #[error(transparent)]
    Device(#[from] crate::machine::board::BoardError),
    /// A system call on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// The error that the host returned.
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

    /// Converts the error into the message for the controller.
    pub(super) fn message(&self) -> proto::Error {
        proto::Error { code: self.code().into(), message: self.to_string() }
    }
}
