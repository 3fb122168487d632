//! The errors of all operations, in one enum.
//!
//! The messages are, word for word, those that clients of AWS know. What a front end needs beside the message – name of
//! the exception, HTTP status, gRPC code, resource, quota, invalid members, retry delay – it gets from the accessors,
//! so that no front end depends on the variants ([`told`]).

mod told;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::access::UnknownCaller;
use crate::driver::{LaunchError, RequestError};
use crate::lifecycle::image::NoActiveVersion;
use crate::store::{CommitError, StoreError};

use super::quota::{Quota, Throttled};

pub use told::{Exception, Resource};

/// A member of a request that violates a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the member, like `idlePolicy.maxIdleDurationSeconds` or `resources.1.member.minimumMemoryInMiB`.
    pub field: String,
    /// The constraint, like `Member must have value greater than or equal to 60`.
    pub constraint: String,
}

impl Violation {
    fn message(&self) -> String {
        format!("Value at '{}' failed to satisfy constraint: {}", self.field, self.constraint)
    }
}

/// The reason why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    // ---- ValidationException ----
    /// Members of the request violate the table of constraints.
    #[error("{}", constraint_message(.0))]
    Constraints(Vec<Violation>),
    /// RunMicrovm received an identifier that is no ARN, in the profile `aws-strict`.
    #[error("Malformed ARN - doesn't start with 'arn:'")]
    NotAnArn,
    /// The identifier of an image is neither the ARN of one nor a valid name.
    #[error("Invalid ARN format: {0}")]
    InvalidArn(String),
    /// The ARN is one of another Region.
    #[error("The resource {arn} is not in {region}, the Region of this host")]
    OtherRegion {
        /// The ARN.
        arn: String,
        /// This host's Region.
        region: String,
    },
    /// The client token was used for another request.
    #[error("The provided clientToken was used with different request parameters.")]
    ClientTokenReused,
    /// The cursor was not made by this host, or belongs to another list.
    #[error("The nextToken is invalid: use the one of the page before, with the same parameters")]
    NextToken,
    /// An image with this name exists already.
    #[error("A MicroVM image with the name '{0}' already exists in this account")]
    ImageExists(String),
    /// The artifact's URI is no S3 URI, where only S3 is allowed.
    #[error("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")]
    CodeArtifactUri,
    /// The base image, or this version of it, does not exist.
    #[error("No managed MicroVM Image with arn {arn} and version {version} is available")]
    NoManagedVersion {
        /// The ARN that was given.
        arn: String,
        /// The version that was given, or `latest`.
        version: String,
    },
    /// The name of the environment variable is reserved for the platform.
    #[error("Environment variable key '{0}' is reserved")]
    ReservedVariable(String),
    /// No memory class has this size.
    #[error(
        "The requested memory size of {mib} MiB is not supported by base MicroVM image {base_arn}. Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )]
    MemorySize {
        /// The requested size, in MiB.
        mib: i32,
        /// The base image.
        base_arn: String,
    },
    /// A runtime hook is enabled without the `ready` hook.
    #[error(
        "The ready (/ready) MicroVM image hook must be enabled when any MicroVM lifecycle hook (run, resume, suspend, or terminate) is enabled. The ready hook signals when the application has finished initializing so the snapshot is taken in a ready state."
    )]
    ReadyHookNeeded,
    /// Hooks are enabled without a port.
    #[error("The hooks port must be specified when any hook is enabled.")]
    HooksPortNeeded,
    /// The image is in a state in which it cannot be deleted.
    #[error("Cannot delete MicroVM image in its current state: {0}")]
    CannotDeleteImage(String),
    /// The version is the only one of its image and cannot be deleted alone.
    #[error("This is the last version. Please delete the entire image")]
    LastVersion,
    /// The request has a payload for the run hook, but the image does not enable that hook.
    #[error("The run hook must be enabled in the MicroVM image to pass the run hook payload")]
    RunHookDisabled,
    /// The connector is not the ARN of a network connector.
    #[error("Malformed network connector ARN")]
    ConnectorMalformed {
        /// The member of the request that contains the connector.
        field: &'static str,
    },
    /// No connector has this ARN.
    #[error("Unrecognized managed network connector ARN: {arn}")]
    ConnectorUnknown {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// An egress connector among the ingress connectors, or the other way round.
    #[error("The network connector {arn} cannot be used in {field}")]
    ConnectorKind {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// The connector is given twice.
    #[error("The network connector {arn} is given more than once in {field}")]
    ConnectorRepeated {
        /// The member of the request that contains the connector.
        field: &'static str,
        /// The ARN from the request.
        arn: String,
    },
    /// More than one egress connector is given.
    #[error("Only one network connector can be given in {field}")]
    ConnectorsTooMany {
        /// The member of the request that contains the connectors.
        field: &'static str,
    },
    /// The microVM has ALL_INGRESS beside other connectors; this is only detected when a token is requested.
    #[error(
        "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS instead"
    )]
    AllIngressCombined,
    /// A shell token was requested for a microVM without the shell connector.
    #[error("Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.")]
    ShellIngressNeeded,
    /// A token for ports was requested for a microVM without an HTTP connector.
    #[error("Endpoint access requires HTTP_INGRESS network connector to be configured on the MicroVM.")]
    HttpIngressNeeded,
    /// The requested lifetime of a token is too long.
    #[error("ExpirationMinutes {minutes} exceeded max allowed of {max}.")]
    ExpirationTooLong {
        /// The requested lifetime, in minutes.
        minutes: i32,
        /// The longest lifetime allowed, in minutes.
        max: i32,
    },
    /// The start port of a range is greater than its end port.
    #[error("The start port {start} of a range must not be greater than its end port {end}")]
    PortRange {
        /// First port.
        start: i32,
        /// Last port.
        end: i32,
    },
    /// The microVM has terminated, or is terminating.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// More tags than a resource may have.
    #[error("The resource {arn} cannot have more than {max} tags")]
    TooManyTags {
        /// The resource.
        arn: String,
        /// The number of tags allowed.
        max: usize,
    },
    /// A resource that cannot have tags.
    #[error("The resource {0} cannot be tagged: only MicroVM images can")]
    NotTaggable(String),
    /// Any other error in one member of a request.
    #[error("{message}")]
    Invalid {
        /// The member.
        field: &'static str,
        /// What is wrong with the member, as a sentence.
        message: String,
    },

    // ---- AccessDeniedException ----
    /// The request has no credentials, or unknown ones.
    #[error(transparent)]
    Unauthenticated(#[from] UnknownCaller),
    /// No policy of the caller allows this.
    #[error(
        "User: {principal} is not authorized to perform: lambda:{action} on resource: {resource} because no identity-based policy allows the lambda:{action} action"
    )]
    AccessDenied {
        /// The caller.
        principal: String,
        /// The action, which is the name of the operation.
        action: &'static str,
        /// The resource: an ARN or `*`.
        resource: String,
    },
    /// The caller may not give this role to a microVM or a build, the role is not for its account, or the role cannot
    /// be assumed.
    #[error(
        "User: {principal} is not authorized to perform: iam:PassRole on resource: {role_arn} because {why}"
    )]
    PassRole {
        /// The caller.
        principal: String,
        /// ARN of the role.
        role_arn: String,
        /// The reason, as the end of a sentence.
        why: String,
    },

    // ---- ResourceNotFoundException ----
    /// The image does not exist.
    #[error("MicroVMImage not found for MicroVMImageID: {0}")]
    ImageNotFound(String),
    /// The version does not exist.
    #[error("MicroVMImageVersion not found for MicroVMImageID: {arn} and version: {version}")]
    VersionNotFound {
        /// The image.
        arn: String,
        /// The version as the request spells it.
        version: String,
    },
    /// The build does not exist.
    #[error(
        "MicroVMImageBuild not found for MicroVMImageID: {arn}, version: {version} and build: {build_id}"
    )]
    BuildNotFound {
        /// The image.
        arn: String,
        /// The version as the request spells it.
        version: String,
        /// The build id from the request.
        build_id: String,
    },
    /// The base image does not exist.
    #[error("Managed MicroVM image not found: {0}")]
    ManagedImageNotFound(String),
    /// The image has no active version that RunMicrovm could run, or the requested one is not active.
    #[error("No active version found for MicroVM image {arn}{}", and_version(.version))]
    NoActiveVersion {
        /// The image.
        arn: String,
        /// The requested version, if the request names one.
        version: Option<String>,
    },
    /// The microVM does not exist.
    #[error("Unable to find microvmIdentifier {0}")]
    MicrovmNotFound(String),
    /// A log group, a log stream or another resource of this host does not exist.
    #[error("{kind} not found: {id}")]
    NotFound {
        /// Kind of the resource, like `Log group`.
        kind: &'static str,
        /// Id of the resource.
        id: String,
    },

    // ---- ConflictException ----
    /// The image is being changed.
    #[error("MicroVM Image is already in state: {state}")]
    ImageBusy {
        /// The image.
        arn: String,
        /// State of the image, like `UPDATING`.
        state: &'static str,
    },
    /// The state of the microVM does not allow this operation.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    MicrovmState {
        /// Id of the microVM.
        id: String,
        /// State of the microVM.
        state: &'static str,
        /// Advice to the client.
        hint: &'static str,
    },
    /// Other requests kept changing the resource, so that all attempts conflicted.
    #[error("The {kind} {id} is being changed by another request. Try again.")]
    Contended {
        /// Kind of the resource.
        kind: &'static str,
        /// Id of the resource.
        id: String,
    },

    // ---- limits ----
    /// A quota on a number or an amount is used up.
    #[error("{}", .quota.exceeded(*.limit))]
    QuotaExceeded {
        /// The quota.
        quota: Quota,
        /// The limit of the quota.
        limit: u64,
        /// The account or the image that the quota belongs to.
        resource: String,
    },
    /// The rate limit of the operation is exceeded.
    #[error("Rate exceeded")]
    Throttled {
        /// The quota of the rate.
        quota: Quota,
        /// Time after which the call may be repeated.
        retry_after: Duration,
    },
    /// The host has not enough free memory.
    #[error(
        "There is not enough capacity: the host has {free_mib} MiB free of the {needed_mib} MiB that this takes. Retry the request later."
    )]
    Capacity {
        /// Memory that the operation needs.
        needed_mib: u64,
        /// Memory that is free.
        free_mib: u64,
    },

    // ---- InternalServerException ----
    /// The client reads events too slowly.
    #[error("{0} events were missed: the client reads too slowly")]
    EventsMissed(u64),
    /// The store has failed.
    #[error("An internal server error occurred. Retry the request later.")]
    Store(#[from] StoreError),
    /// The daemon is shutting down.
    #[error("The service is stopping. Retry the request later.")]
    Stopping,
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
        Self::Invalid { field, message: message.into() }
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
            LaunchError::Quota { account, limit_mib } => {
                Self::QuotaExceeded { quota: Quota::Memory, limit: limit_mib, resource: account }
            }
            LaunchError::Capacity { needed_mib, free_mib } => Self::Capacity { needed_mib, free_mib },
            LaunchError::Store(error) => Self::Store(error),
            LaunchError::Stopping => Self::Stopping,
        }
    }
}

impl From<Throttled> for ServiceError {
    fn from(Throttled { quota, retry_after }: Throttled) -> Self {
        Self::Throttled { quota, retry_after }
    }
}

impl From<RequestError> for ServiceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound(id) => Self::MicrovmNotFound(id),
            RequestError::Terminated(id) => Self::Terminated(id),
            RequestError::Conflict { id, state, hint } => Self::MicrovmState { id, state, hint },
            // The API's model of ResumeMicrovm has no InsufficientCapacityException, but none of its exceptions fits
            // better.
            RequestError::Capacity { needed_mib, free_mib } => Self::Capacity { needed_mib, free_mib },
            RequestError::Store(error) => Self::Store(error),
            RequestError::Stopping => Self::Stopping,
        }
    }
}
