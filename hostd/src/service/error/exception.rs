//! Representation of errors to clients: what front ends need beside the message.

use std::borrow::Cow;
use std::time::Duration;

use super::{InvalidRequest, ServiceError, Shown, Violation};
use crate::service::quota::Quota;

/// An exception of AWS's API model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Name of the exception.
    pub name: &'static str,
    /// HTTP status.
    pub http_status: u16,
    /// gRPC status code.
    pub grpc: tonic::Code,
}

pub(super) const fn exception(name: &'static str, http_status: u16, grpc: tonic::Code) -> Exception {
    Exception { name, http_status, grpc }
}

/// The classes of errors; each class is one exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Validation,
    Unauthenticated,
    AccessDenied,
    NotFound,
    Conflict,
    Quota,
    Throttling,
    Capacity,
    DataLoss,
    Cancelled,
    Internal,
}

impl Kind {
    fn exception(self) -> Exception {
        use tonic::Code;
        match self {
            Self::Validation => exception("ValidationException", 400, Code::InvalidArgument),
            Self::Unauthenticated => exception("AccessDeniedException", 403, Code::Unauthenticated),
            Self::AccessDenied => exception("AccessDeniedException", 403, Code::PermissionDenied),
            Self::NotFound => exception("ResourceNotFoundException", 404, Code::NotFound),
            Self::Conflict => exception("ConflictException", 409, Code::FailedPrecondition),
            Self::Quota => exception("ServiceQuotaExceededException", 402, Code::ResourceExhausted),
            Self::Throttling => exception("ThrottlingException", 429, Code::ResourceExhausted),
            Self::Capacity => exception("InsufficientCapacityException", 500, Code::ResourceExhausted),
            Self::DataLoss => exception("InternalServerException", 500, Code::DataLoss),
            Self::Cancelled => exception("RequestCancelledException", 499, Code::Cancelled),
            Self::Internal => exception("InternalServerException", 500, Code::Internal),
        }
    }

    /// The exception of this class as the tag operations report it.
    fn exception_of_tags(self) -> Exception {
        let name = match self {
            Self::Validation => "InvalidParameterValueException",
            Self::Conflict => "ResourceConflictException",
            Self::Throttling => "TooManyRequestsException",
            Self::Internal => "ServiceException",
            _ => self.exception().name,
        };
        Exception { name, ..self.exception() }
    }
}

/// A family of errors.
pub(super) trait Family {
    /// The class of the error.
    fn kind(&self) -> Kind;

    /// Path of the member of the request that is invalid, if it is one.
    fn field(&self) -> Option<&str> {
        None
    }

    /// The resource that the error concerns.
    fn resource(&self) -> Option<Resource> {
        None
    }
}

/// The resource that an error concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Type of the resource: `resourceType`.
    pub kind: &'static str,
    /// Id of the resource: `resourceId`.
    pub id: String,
}

/// Retry delay after an internal error, or when the host has no capacity.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl ServiceError {
    fn inner(&self) -> &Self {
        match self {
            Self::OfTags(inner) => inner.inner(),
            other => other,
        }
    }

    fn family(&self) -> Option<&dyn Family> {
        match self.inner() {
            Self::Request(error) => Some(error),
            Self::Name(error) => Some(error),
            Self::Denied(error) => Some(error),
            Self::Limit(error) => Some(error),
            Self::Image(error) => Some(error),
            Self::Configuration(error) => Some(error),
            Self::Microvm(error) => Some(error),
            Self::Host(error) => Some(error),
            Self::Contended { .. }
            | Self::Store(_)
            | Self::Stopping
            | Self::Disconnected
            | Self::Internal { .. }
            | Self::OfTags(_) => None,
        }
    }

    fn kind(&self) -> Kind {
        match (self.family(), self.inner()) {
            (Some(family), _) => family.kind(),
            (None, Self::Contended { .. }) => Kind::Conflict,
            (None, Self::Disconnected) => Kind::Cancelled,
            (None, _) => Kind::Internal,
        }
    }

    /// The exception that represents this error.
    #[must_use]
    pub fn exception(&self) -> Exception {
        match self {
            Self::OfTags(_) => self.kind().exception_of_tags(),
            _ => self.kind().exception(),
        }
    }

    /// Whether the service is at fault. Such errors are logged.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.kind() == Kind::Internal
    }

    /// The description of the failure for the log, where the message hides it.
    #[must_use]
    pub fn cause(&self) -> Option<Cow<'_, str>> {
        match self.inner() {
            Self::Store(error) => Some(Cow::Owned(error.to_string())),
            Self::Internal { what } => Some(Cow::Borrowed(what)),
            _ => None,
        }
    }

    /// The resource that the error concerns: `resourceType` and `resourceId`.
    #[must_use]
    pub fn resource(&self) -> Option<Resource> {
        match self.inner() {
            Self::Contended { kind, id } => Some(Resource { kind, id: id.clone() }),
            _ => self.family()?.resource(),
        }
    }

    /// The quota that is used up.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        match self.inner() {
            Self::Limit(error) => error.quota(),
            _ => None,
        }
    }

    /// Time after which the client should retry.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.inner() {
            Self::Limit(error) => error.retry_after(),
            Self::Store(_) | Self::Stopping | Self::Internal { .. } => Some(RETRY),
            _ => None,
        }
    }

    /// The invalid members of the request, with the reason for each.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        if let Self::Request(InvalidRequest::Constraints(violations)) = self.inner() {
            return violations.clone();
        }
        let field = self.family().and_then(|family| family.field());
        field
            .map(|field| Violation {
                field: field.to_owned(),
                value: Shown::Hidden,
                constraint: self.to_string(),
            })
            .into_iter()
            .collect()
    }
}
