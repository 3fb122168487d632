//! Representation of errors to clients: what front ends need beside the message.

use std::borrow::Cow;
use std::time::Duration;

use super::{ServiceError, Violation};
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
enum Kind {
    Validation,
    Unauthenticated,
    AccessDenied,
    NotFound,
    Conflict,
    Quota,
    Throttling,
    Capacity,
    DataLoss,
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

    fn kind(&self) -> Kind {
        match self.inner() {
            Self::Constraints(_)
            | Self::NotAnArn
            | Self::InvalidArn(_)
            | Self::OtherRegion { .. }
            | Self::ClientTokenReused
            | Self::NextToken
            | Self::ImageExists(_)
            | Self::CodeArtifactUri
            | Self::NoManagedVersion { .. }
            | Self::ReservedVariable(_)
            | Self::MemorySize { .. }
            | Self::ReadyHookNeeded
            | Self::HooksPortNeeded
            | Self::CannotDeleteImage(_)
            | Self::LastVersion
            | Self::RunHookDisabled
            | Self::ConnectorMalformed { .. }
            | Self::ConnectorUnknown { .. }
            | Self::ConnectorKind { .. }
            | Self::ConnectorRepeated { .. }
            | Self::ConnectorsTooMany { .. }
            | Self::AllIngressCombined
            | Self::ShellIngressNeeded
            | Self::HttpIngressNeeded
            | Self::ExpirationTooLong { .. }
            | Self::PortRange { .. }
            | Self::Terminated(_)
            | Self::TooManyTags { .. }
            | Self::NotTaggable(_)
            | Self::Invalid { .. } => Kind::Validation,
            Self::Unauthenticated(_) => Kind::Unauthenticated,
            Self::AccessDenied { .. } | Self::PassRole { .. } => Kind::AccessDenied,
            Self::ImageNotFound(_)
            | Self::VersionNotFound { .. }
            | Self::BuildNotFound { .. }
            | Self::ManagedImageNotFound(_)
            | Self::NoActiveVersion { .. }
            | Self::MicrovmNotFound(_)
            | Self::NotFound { .. } => Kind::NotFound,
            Self::ImageBusy { .. } | Self::MicrovmState { .. } | Self::Contended { .. } => Kind::Conflict,
            Self::QuotaExceeded { .. } => Kind::Quota,
            Self::Throttled { .. } => Kind::Throttling,
            Self::Capacity { .. } => Kind::Capacity,
            Self::EventsMissed(_) => Kind::DataLoss,
            Self::Store(_) | Self::Stopping | Self::Internal { .. } | Self::OfTags(_) => Kind::Internal,
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
        const IMAGE: &str = "MicrovmImage";
        const VERSION: &str = "MicrovmImageVersion";
        const MICROVM: &str = "Microvm";
        let (kind, id) = match self.inner() {
            Self::ImageNotFound(arn) | Self::ImageBusy { arn, .. } | Self::ManagedImageNotFound(arn) => {
                (IMAGE, arn)
            }
            Self::NoActiveVersion { arn, version: None } => (IMAGE, arn),
            Self::NoActiveVersion { arn, version: Some(version) }
            | Self::VersionNotFound { arn, version } => {
                return Some(Resource { kind: VERSION, id: format!("{arn}:{version}") });
            }
            Self::BuildNotFound { build_id, .. } => ("MicrovmImageBuild", build_id),
            Self::MicrovmNotFound(id) | Self::MicrovmState { id, .. } => (MICROVM, id),
            Self::NotFound { kind, id } | Self::Contended { kind, id } => (*kind, id),
            Self::QuotaExceeded { quota, resource, .. } => (quota.resource_type(), resource),
            _ => return None,
        };
        Some(Resource { kind, id: id.clone() })
    }

    /// The quota that is used up.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        match self.inner() {
            Self::QuotaExceeded { quota, .. } | Self::Throttled { quota, .. } => Some(*quota),
            _ => None,
        }
    }

    /// Time after which the client should retry.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.inner() {
            Self::Throttled { retry_after, .. } => Some(*retry_after),
            Self::Capacity { .. } | Self::Store(_) | Self::Stopping | Self::Internal { .. } => Some(RETRY),
            _ => None,
        }
    }

    /// The invalid members of the request, with the reason for each.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let error = self.inner();
        let field = match error {
            Self::Constraints(violations) => return violations.clone(),
            _ if error.kind() != Kind::Validation => return Vec::new(),
            Self::NotAnArn | Self::InvalidArn(_) | Self::OtherRegion { .. } => "imageIdentifier",
            Self::CannotDeleteImage(_) => "imageIdentifier",
            Self::LastVersion => "imageVersion",
            Self::ClientTokenReused => "clientToken",
            Self::NextToken => "nextToken",
            Self::ImageExists(_) => "name",
            Self::CodeArtifactUri => "codeArtifact.uri",
            Self::NoManagedVersion { .. } => "baseImageVersion",
            Self::ReservedVariable(_) => "environmentVariables",
            Self::MemorySize { .. } => "resources.1.member.minimumMemoryInMiB",
            Self::ReadyHookNeeded => "hooks.microvmImageHooks.ready",
            Self::HooksPortNeeded => "hooks.port",
            Self::RunHookDisabled => "runHookPayload",
            Self::ConnectorMalformed { field }
            | Self::ConnectorUnknown { field, .. }
            | Self::ConnectorKind { field, .. }
            | Self::ConnectorRepeated { field, .. }
            | Self::ConnectorsTooMany { field }
            | Self::Invalid { field, .. } => field,
            Self::ExpirationTooLong { .. } => "expirationInMinutes",
            Self::PortRange { .. } => "allowedPorts",
            Self::TooManyTags { .. } => "Tags",
            Self::NotTaggable(_) => "Resource",
            _ => "microvmIdentifier",
        };
        vec![Violation { field: field.to_owned(), constraint: error.to_string() }]
    }
}
