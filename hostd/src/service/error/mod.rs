//! Why an operation was not done: one enum for all of them.
//!
//! The messages are those that clients of AWS know, word for word. What a front end needs beside the message – the exception's
//! name, its HTTP status and gRPC code, resource, quota, fields, when to come back – is asked for with the accessors, so that no
//! front end knows the variants ([`told`]).

mod told;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::access::UnknownCaller;
use crate::driver::{LaunchError, RequestError};
use crate::lifecycle::image::NoActiveVersion;
use crate::store::{CommitError, StoreError};

use super::quota::Quota;

pub use told::{Exception, Resource};

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
    #[error(transparent)]
    Unauthenticated(#[from] UnknownCaller),
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
    /// A role that the caller may not give to a microVM or a build, that is not for its account, or that cannot be assumed.
    #[error(
        "User: {principal} is not authorized to perform: iam:PassRole on resource: {role_arn} because {why}"
    )]
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

impl ServiceError {
    /// What is wrong with one member, in a sentence.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    /// An internal error; `what` is logged and not told.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }

    /// What handled the call has panicked: [`crate::panics`] has logged why.
    pub(crate) fn panicked() -> Self {
        Self::internal("its handler has panicked")
    }

    /// The same error, told as the tag operations do.
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
