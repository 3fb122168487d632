//! The errors of all operations: one enum for each family of operations and checks, and [`ServiceError`] for all of
//! them.
//!
//! The messages are, word for word, those that clients of AWS know. What a front end needs beside the message – name of
//! the exception, HTTP status, gRPC code, resource, quota, invalid members, retry delay – it gets from the accessors of
//! [`ServiceError`], so that no front end depends on the variants ([`exception`]).
//!
//! * [`request`], [`name`], [`denied`], [`limit`] – the checks
//! * [`image`], [`configuration`], [`microvm`], [`host`] – the operations

mod configuration;
mod denied;
mod exception;
mod host;
mod image;
mod limit;
mod microvm;
mod name;
mod request;

#[cfg(test)]
mod tests;

use crate::access::UnknownCaller;
use crate::driver::{LaunchError, RequestError};
use crate::lifecycle::image::NoActiveVersion;
use crate::store::{CommitError, StoreError};
use crate::turns::Busy;

use super::host::artifacts::error::ArtifactError;
use super::quota::{Quota, Throttled};

pub use configuration::ConfigurationError;
pub use denied::Denied;
pub use exception::{Exception, Resource};
pub use host::HostError;
pub use image::ImageError;
pub use limit::LimitError;
pub use microvm::MicrovmError;
pub use name::NameError;
pub use request::InvalidRequest;

/// A member of a request that violates a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the member, like `idlePolicy.maxIdleDurationSeconds` or `resources.1.member.minimumMemoryInMiB`.
    pub field: String,
    /// The value of the member.
    pub value: Shown,
    /// The constraint, like `Member must have value greater than or equal to 60`.
    pub constraint: String,
}

/// A value as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The value, shortened if it is long.
    Text(String),
    /// There is no value.
    Null,
    /// The value is a secret or a structure, and not shown.
    Hidden,
}

impl Violation {
    /// The sentence about the violation.
    pub(crate) fn message(&self) -> String {
        let value = match &self.value {
            Shown::Text(text) => format!(" '{text}'"),
            Shown::Null => " null".to_owned(),
            Shown::Hidden => String::new(),
        };
        format!("Value{value} at '{}' failed to satisfy constraint: {}", self.field, self.constraint)
    }
}

/// The reason why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// The request as a whole, or one of its members, is invalid.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// A name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The caller is unknown, or may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A limit is exceeded.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// An operation on images has failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The requested configuration of a version is invalid.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// An operation on microVMs has failed.
    #[error(transparent)]
    Microvm(#[from] MicrovmError),
    /// One of Hearth's own operations has failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Other requests kept changing the resource, so that all attempts conflicted.
    #[error("The {kind} {id} is being changed by another request. Try again.")]
    Contended {
        /// Kind of the resource.
        kind: &'static str,
        /// Id of the resource.
        id: String,
    },
    /// The store has failed.
    #[error("An internal server error occurred. Retry the request later.")]
    Store(StoreError),
    /// The daemon is shutting down.
    #[error("The service is stopping. Retry the request later.")]
    Stopping,
    /// Nobody waits for the answer any more. No client sees this error; it is audited and counted.
    #[error(
        "The call was given up before its answer: its client disconnected, its deadline passed, or the service stopped. \
         The operation may have been performed."
    )]
    Disconnected,
    /// Any other failure that the caller has not caused. Clients do not see `what`; it is logged.
    #[error("An internal server error occurred. Retry the request later.")]
    Internal {
        /// Description of the failure.
        what: String,
    },
    /// An error of a tag operation. Tag operations use exception names of their own.
    #[error(transparent)]
    OfTags(Box<ServiceError>),
}

impl ServiceError {
    /// An error about one member; `message` is a sentence.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        InvalidRequest::Member { field, message: message.into() }.into()
    }

    /// An internal error. `what` is logged and not sent to the client.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }

    /// The error of a call whose handler has panicked; [`crate::panics`] has logged the panic.
    pub(crate) fn panicked() -> Self {
        Self::internal("its handler has panicked")
    }

    /// The same error with the exception names of the tag operations.
    pub(crate) fn of_tags(self) -> Self {
        match self {
            Self::OfTags(_) => self,
            other => Self::OfTags(Box::new(other)),
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoRoom { .. } => LimitError::DiskFull.into(),
            error => Self::Store(error),
        }
    }
}

impl From<UnknownCaller> for ServiceError {
    fn from(error: UnknownCaller) -> Self {
        Denied::from(error).into()
    }
}

impl From<ArtifactError> for ServiceError {
    fn from(error: ArtifactError) -> Self {
        match error {
            // Clients do not see what the system says.
            ArtifactError::Io(_) => Self::internal(error.to_string()),
            ArtifactError::Disk(error, account) => LimitError::of_disk(error, &account).into(),
            error => HostError::from(error).into(),
        }
    }
}

impl From<NoActiveVersion> for ServiceError {
    fn from(error: NoActiveVersion) -> Self {
        ImageError::from(error).into()
    }
}

impl From<CommitError> for ServiceError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => {
                Self::internal("a batch did not apply that nothing could have come before")
            }
            CommitError::Store(error) => error.into(),
        }
    }
}

impl From<LaunchError> for ServiceError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Conflict => {
                Self::internal("a launch conflicts, and its operation has not handled that")
            }
            LaunchError::Quota { account, limit_mib } => {
                LimitError::QuotaExceeded { quota: Quota::Memory, limit: limit_mib, resource: account }.into()
            }
            LaunchError::Capacity(full) => LimitError::from(full).into(),
            LaunchError::Store(error) => error.into(),
            LaunchError::Id(error) => Self::internal(error.to_string()),
            LaunchError::Stopping => Self::Stopping,
        }
    }
}

impl From<Throttled> for ServiceError {
    fn from(Throttled { quota, retry_after }: Throttled) -> Self {
        LimitError::Throttled { quota, retry_after }.into()
    }
}

impl From<Busy> for ServiceError {
    fn from(error: Busy) -> Self {
        LimitError::from(error).into()
    }
}

impl From<RequestError> for ServiceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound(id) => MicrovmError::NotFound(id).into(),
            RequestError::Terminated(id) => MicrovmError::Terminated(id).into(),
            RequestError::Conflict { id, state, hint } => MicrovmError::State { id, state, hint }.into(),
            // The API's model of ResumeMicrovm has no InsufficientCapacityException, but none of its exceptions fits
            // better.
            RequestError::Capacity(full) => LimitError::from(full).into(),
            RequestError::Store(error) => error.into(),
            RequestError::Stopping => Self::Stopping,
        }
    }
}
