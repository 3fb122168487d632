//! Why an operation was not done: one enum for all of them.
//!
//! The messages are those that clients of AWS know, word for word. What a front end needs beside the message – the exception's
//! name, its HTTP status and gRPC code, resource, quota, fields, when to come back – is asked for with the accessors, so that no
//! front end knows the variants.

use std::borrow::Cow;
use std::time::Duration;

use crate::driver::{LaunchError, RequestError};
use crate::lifecycle::image::NoActiveVersion;
use crate::store::{CommitError, StoreError};

use super::quota::Quota;

/// What is wrong with a member of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the member, like `idlePolicy.maxIdleDurationSeconds` or `resources.1.member.minimumMemoryInMiB`.
    pub field: String,
    /// What it should be, like `Member must have value greater than or equal to 60`.
    pub constraint: String,
}

impl Violation {
    fn message(&self) -> String {
        format!("Value at '{}' failed to satisfy constraint: {}", self.field, self.constraint)
    }
}

/// Why an operation was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    // ---- ValidationException ----
    /// Members of the request are not as the table of constraints says.
    #[error("{}", constraint_message(.0))]
    Constraints(Vec<Violation>),
    /// RunMicrovm got something that is no ARN, in the profile `aws-strict`.
    #[error("Malformed ARN - doesn't start with 'arn:'")]
    NotAnArn,
    /// An identifier of an image that is neither an ARN of one nor a name.
    #[error("Invalid ARN format: {0}")]
    InvalidArn(String),
    /// An ARN of another region.
    #[error("The resource {arn} is not in {region}, the Region of this host")]
    OtherRegion {
        /// The ARN.
        arn: String,
        /// This host's Region.
        region: String,
    },
    /// A token that was used for another request.
    #[error("The provided clientToken was used with different request parameters.")]
    ClientTokenReused,
    /// A cursor that this host has not made, or for another list.
    #[error("The nextToken is invalid: use the one of the page before, with the same parameters")]
    NextToken,
    /// There is such an image.
    #[error("A MicroVM image with the name '{0}' already exists in this account")]
    ImageExists(String),
    /// Something else than an S3 URI, where only these are taken.
    #[error("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")]
    CodeArtifactUri,
    /// There is no such base image.
    #[error("No managed MicroVM Image with arn {arn} and version {version} is available")]
    NoManagedVersion {
        /// The ARN that was given.
        arn: String,
        /// The version that was given, or `latest`.
        version: String,
    },
    /// A name that the platform uses.
    #[error("Environment variable key '{0}' is reserved")]
    ReservedVariable(String),
    /// There is no such memory class.
    #[error(
        "The requested memory size of {mib} MiB is not supported by base MicroVM image {base_arn}. Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )]
    MemorySize {
        /// What was asked for.
        mib: i32,
        /// The base image.
        base_arn: String,
    },
    /// A runtime hook without `ready`.
    #[error(
        "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook (run, resume, suspend, or terminate) is enabled. The ready hook signals when the application has finished initializing so the snapshot is taken in a ready state."
    )]
    ReadyHookNeeded,
    /// Hooks without a port.
    #[error("The hooks port must be specified when any hook is enabled.")]
    HooksPortNeeded,
    /// The image is in a state in which it cannot be deleted.
    #[error("Cannot delete MicroVM image in its current state: {0}")]
    CannotDeleteImage(String),
    /// The only version of an image.
    #[error("This is the last version. Please delete the entire image")]
    LastVersion,
    /// A payload for an image without the hook that takes it.
    #[error("The run hook must be enabled in the MicroVM image to pass the run hook payload")]
    RunHookDisabled,
    /// A connector that is no ARN of one.
    #[error("Malformed network connector ARN")]
    ConnectorMalformed {
        /// The member that has it.
        field: &'static str,
    },
    /// There is no such connector.
    #[error("Unrecognized managed network connector ARN: {arn}")]
    ConnectorUnknown {
        /// The member that has it.
        field: &'static str,
        /// What was given.
        arn: String,
    },
    /// An egress connector among those for ingress, or the other way round.
    #[error("The network connector {arn} cannot be used in {field}")]
    ConnectorKind {
        /// The member that has it.
        field: &'static str,
        /// What was given.
        arn: String,
    },
    /// The same connector twice.
    #[error("The network connector {arn} is given more than once in {field}")]
    ConnectorRepeated {
        /// The member that has it.
        field: &'static str,
        /// What was given.
        arn: String,
    },
    /// Several egress connectors.
    #[error("Only one network connector can be given in {field}")]
    ConnectorsTooMany {
        /// The member that has them.
        field: &'static str,
    },
    /// ALL_INGRESS beside others: found when a token is asked for.
    #[error(
        "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS instead"
    )]
    AllIngressCombined,
    /// A shell token for a microVM without the connector.
    #[error("Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.")]
    ShellIngressNeeded,
    /// A token for the ports of a microVM that has none open.
    #[error("Endpoint access requires HTTP_INGRESS network connector to be configured on the MicroVM.")]
    HttpIngressNeeded,
    /// A token that would be valid for too long.
    #[error("ExpirationMinutes {minutes} exceeded max allowed of {max}.")]
    ExpirationTooLong {
        /// What was asked for.
        minutes: i32,
        /// What is allowed.
        max: i32,
    },
    /// A range of ports that ends before it begins.
    #[error("The start port {start} of a range must not be greater than its end port {end}")]
    PortRange {
        /// First port.
        start: i32,
        /// Last port.
        end: i32,
    },
    /// A microVM that has ended, or is ending.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// More tags than a resource may have.
    #[error("The resource {arn} cannot have more than {max} tags")]
    TooManyTags {
        /// The resource.
        arn: String,
        /// How many it may have.
        max: usize,
    },
    /// A resource that cannot have tags.
    #[error("The resource {0} cannot be tagged: only MicroVM images can")]
    NotTaggable(String),
    /// Anything else that is wrong with one member of a request.
    #[error("{message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What, as a sentence.
        message: String,
    },

    // ---- AccessDeniedException ----
    /// Nobody, or nobody known here.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// No policy of the caller allows this.
    #[error(
        "User: {principal} is not authorized to perform: lambda:{action} on resource: {resource} because no identity-based policy allows the lambda:{action} action"
    )]
    AccessDenied {
        /// Who.
        principal: String,
        /// What.
        action: &'static str,
        /// With what: an ARN or `*`.
        resource: String,
    },
    /// A role that the caller may not give to a microVM, or that cannot be assumed.
    #[error("User: {principal} is not authorized to perform: iam:PassRole on resource: {role_arn}: {why}")]
    PassRole {
        /// Who.
        principal: String,
        /// Which role.
        role_arn: String,
        /// Why not.
        why: String,
    },

    // ---- ResourceNotFoundException ----
    /// No such image.
    #[error("MicroVMImage not found for MicroVMImageID: {0}")]
    ImageNotFound(String),
    /// No such version.
    #[error("MicroVMImageVersion not found for MicroVMImageID: {arn} and version: {version}")]
    VersionNotFound {
        /// The image.
        arn: String,
        /// The version that was given.
        version: String,
    },
    /// No such build.
    #[error(
        "MicroVMImageBuild not found for MicroVMImageID: {arn}, version: {version} and build: {build_id}"
    )]
    BuildNotFound {
        /// The image.
        arn: String,
        /// The version that was given.
        version: String,
        /// The build that was given.
        build_id: String,
    },
    /// No such base image.
    #[error("Managed MicroVM image not found: {0}")]
    ManagedImageNotFound(String),
    /// Nothing that RunMicrovm could run.
    #[error("No active version found for MicroVM image {arn}{}", and_version(.version))]
    NoActiveVersion {
        /// The image.
        arn: String,
        /// The version that was asked for.
        version: Option<String>,
    },
    /// No such microVM.
    #[error("Unable to find microvmIdentifier {0}")]
    MicrovmNotFound(String),
    /// No such log group or stream, or anything else of this host.
    #[error("{kind} not found: {id}")]
    NotFound {
        /// What, like `Log group`.
        kind: &'static str,
        /// Which.
        id: String,
    },

    // ---- ConflictException ----
    /// The image is being changed.
    #[error("MicroVM Image is already in state: {state}")]
    ImageBusy {
        /// The image.
        arn: String,
        /// Its state, like `UPDATING`.
        state: &'static str,
    },
    /// The microVM is in a state in which this cannot be done.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    MicrovmState {
        /// Which.
        id: String,
        /// Its state.
        state: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Something else was changing the resource all the time.
    #[error("The {kind} {id} is being changed by another request. Try again.")]
    Contended {
        /// What.
        kind: &'static str,
        /// Which.
        id: String,
    },

    // ---- limits ----
    /// A count or an amount is used up.
    #[error("{}", .quota.exceeded(*.limit))]
    QuotaExceeded {
        /// Which.
        quota: Quota,
        /// How much there may be.
        limit: u64,
        /// The account, or the image.
        resource: String,
    },
    /// Too many requests.
    #[error("Rate exceeded")]
    Throttled {
        /// Which rate.
        quota: Quota,
        /// When to try again.
        retry_after: Duration,
    },
    /// The host is full.
    #[error(
        "There is not enough capacity: the host has {free_mib} MiB free of the {needed_mib} MiB that this takes. Retry the request later."
    )]
    Capacity {
        /// What it takes.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },

    // ---- InternalServerException ----
    /// The store failed.
    #[error("An internal server error occurred. Retry the request later.")]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("The service is stopping. Retry the request later.")]
    Stopping,
    /// Anything else that is not the caller's doing. `what` is for the log.
    #[error("An internal server error occurred. Retry the request later.")]
    Internal {
        /// What happened.
        what: String,
    },

    /// An error of a tag operation: these have exceptions of their own.
    #[error(transparent)]
    OfTags(Box<ServiceError>),
}

/// An exception of AWS's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Its name.
    pub name: &'static str,
    /// Its status in HTTP.
    pub http_status: u16,
    /// Its code in gRPC.
    pub grpc: tonic::Code,
}

const fn exception(name: &'static str, http_status: u16, grpc: tonic::Code) -> Exception {
    Exception { name, http_status, grpc }
}

/// How an error is told.
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
            Self::Internal => exception("InternalServerException", 500, Code::Internal),
        }
    }

    /// The same for the tag operations.
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

/// A resource that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `resourceType`
    pub kind: &'static str,
    /// `resourceId`
    pub id: String,
}

/// How soon to come back after an internal error or when the host is full.
const RETRY: Duration = Duration::from_secs(1);

impl ServiceError {
    /// What is wrong with one member, in a sentence.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// An internal error; `what` is logged and not told.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }

    /// The same error, told as the tag operations do.
    pub(crate) fn of_tags(self) -> Self {
        match self {
            Self::OfTags(_) => self,
            other => Self::OfTags(Box::new(other)),
        }
    }

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
            Self::Store(_) | Self::Stopping | Self::Internal { .. } | Self::OfTags(_) => Kind::Internal,
        }
    }

    /// The exception that it is.
    #[must_use]
    pub fn exception(&self) -> Exception {
        match self {
            Self::OfTags(_) => self.kind().exception_of_tags(),
            _ => self.kind().exception(),
        }
    }

    /// Whether it is the service's fault: such errors are logged.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.kind() == Kind::Internal
    }

    /// For the log: what happened, where the message hides it.
    #[must_use]
    pub fn cause(&self) -> Option<Cow<'_, str>> {
        match self.inner() {
            Self::Store(error) => Some(Cow::Owned(error.to_string())),
            Self::Internal { what } => Some(Cow::Borrowed(what)),
            _ => None,
        }
    }

    /// The resource it is about: `resourceType` and `resourceId`.
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

    /// The quota that is used up, and what is told about it.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        match self.inner() {
            Self::QuotaExceeded { quota, .. } | Self::Throttled { quota, .. } => Some(*quota),
            _ => None,
        }
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.inner() {
            Self::Throttled { retry_after, .. } => Some(*retry_after),
            Self::Capacity { .. } | Self::Store(_) | Self::Stopping | Self::Internal { .. } => Some(RETRY),
            _ => None,
        }
    }

    /// Members of the request that are wrong, and what is wrong with each.
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

fn constraint_message(violations: &[Violation]) -> String {
    let each: Vec<String> = violations.iter().map(Violation::message).collect();
    let plural = if violations.len() == 1 { "" } else { "s" };
    format!("{} validation error{plural} detected: {}", violations.len(), each.join("; "))
}

fn and_version(version: &Option<String>) -> String {
    version.as_ref().map(|version| format!(" and version {version}")).unwrap_or_default()
}

impl From<NoActiveVersion> for ServiceError {
    fn from(error: NoActiveVersion) -> Self {
        Self::NoActiveVersion { arn: error.arn, version: error.requested }
    }
}

impl From<CommitError> for ServiceError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => {
                Self::internal("a batch did not apply that nothing could have come before")
            }
            CommitError::Store(error) => Self::Store(error),
        }
    }
}

impl From<LaunchError> for ServiceError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Conflict => Self::internal("a launch conflicts, and nobody has looked why"),
            LaunchError::Capacity { needed_mib, free_mib } => Self::Capacity { needed_mib, free_mib },
            LaunchError::Store(error) => Self::Store(error),
            LaunchError::Stopping => Self::Stopping,
        }
    }
}

impl From<RequestError> for ServiceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound(id) => Self::MicrovmNotFound(id),
            RequestError::Terminated(id) => Self::Terminated(id),
            RequestError::Conflict { id, state, hint } => Self::MicrovmState { id, state, hint },
            // ResumeMicrovm knows no InsufficientCapacityException, but nothing that it knows says this.
            RequestError::Capacity { needed_mib, free_mib } => Self::Capacity { needed_mib, free_mib },
            RequestError::Store(error) => Self::Store(error),
            RequestError::Stopping => Self::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_violations_are_one_message() {
        let violation =
            |field: &str, constraint: &str| Violation { field: field.into(), constraint: constraint.into() };
        let one = ServiceError::Constraints(vec![violation("name", "Member must not be null")]);
        assert_eq!(
            one.to_string(),
            "1 validation error detected: Value at 'name' failed to satisfy constraint: Member must not be null"
        );
        let two = ServiceError::Constraints(vec![
            violation("name", "Member must not be null"),
            violation("hooks.port", "Member must have value greater than or equal to 1"),
        ]);
        assert_eq!(
            two.to_string(),
            "2 validation errors detected: Value at 'name' failed to satisfy constraint: Member must not be null; \
             Value at 'hooks.port' failed to satisfy constraint: Member must have value greater than or equal to 1"
        );
        assert_eq!(two.violations().len(), 2);
    }

    #[test]
    fn tag_operations_have_exceptions_of_their_own() {
        let arn = "arn:aws:lambda:us-east-1:111122223333:microvm-image:gone";
        let error = ServiceError::ImageNotFound(arn.into());
        assert_eq!(error.exception().name, "ResourceNotFoundException");
        assert_eq!(error.clone().of_tags().exception().name, "ResourceNotFoundException");
        assert_eq!(error.of_tags().to_string(), format!("MicroVMImage not found for MicroVMImageID: {arn}"));
        let error = ServiceError::Stopping.of_tags();
        assert_eq!(error.exception(), exception("ServiceException", 500, tonic::Code::Internal));
        assert_eq!(error.retry_after(), Some(RETRY));
        let error = ServiceError::NotTaggable("x".into()).of_tags();
        assert_eq!(
            (error.exception().name, error.exception().http_status),
            ("InvalidParameterValueException", 400)
        );
        assert_eq!(error.violations()[0].field, "Resource");
    }

    #[test]
    fn quotas_are_402_and_rates_429() {
        let error =
            ServiceError::QuotaExceeded { quota: Quota::Images, limit: 100, resource: "111122223333".into() };
        assert_eq!(
            (error.exception().name, error.exception().http_status),
            ("ServiceQuotaExceededException", 402)
        );
        let error = ServiceError::Throttled { quota: Quota::Images, retry_after: Duration::from_millis(200) };
        assert_eq!((error.exception().name, error.exception().http_status), ("ThrottlingException", 429));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(200)));
    }

    #[test]
    fn what_is_not_the_callers_doing_is_not_told() {
        let error = ServiceError::internal("disk sda is on fire");
        assert!(!error.to_string().contains("sda"));
        assert_eq!(error.cause().as_deref(), Some("disk sda is on fire"));
        assert!(error.is_internal());
    }

    #[test]
    fn no_active_version_names_the_version_that_was_asked_for() {
        let error = ServiceError::NoActiveVersion { arn: "arn:x".into(), version: Some("1.0".into()) };
        assert_eq!(error.to_string(), "No active version found for MicroVM image arn:x and version 1.0");
        let error = ServiceError::NoActiveVersion { arn: "arn:x".into(), version: None };
        assert_eq!(error.to_string(), "No active version found for MicroVM image arn:x");
    }
}
