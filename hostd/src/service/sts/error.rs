//! Errors of STS.

use std::time::Duration;

use crate::access::sessions::NotAssumable;

/// The reason why a call of STS has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StsError {
    /// The caller is unknown.
    #[error("The security token included in the request is invalid.")]
    Unauthenticated,
    /// The request has no `Action`.
    #[error("The request must contain the parameter Action.")]
    NoAction,
    /// There is no such operation here.
    #[error("Could not find operation {action} for version {version}")]
    Action {
        /// The operation.
        action: String,
        /// The version of the API.
        version: String,
    },
    /// A parameter is there more than once.
    #[error("The parameter {0} is in the request more than once.")]
    Twice(String),
    /// A parameter is not of its type.
    #[error("The parameter {0} is no whole number.")]
    Malformed(&'static str),
    /// Parameters violate constraints.
    #[error("{} validation error{} detected: {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join("; "))]
    Constraints(Vec<String>),
    /// The text is not the ARN of a role.
    #[error("{0} is invalid")]
    Role(String),
    /// This host has no such parameter.
    #[error("The parameter {0} of AssumeRole is not supported by this host. Leave it out.")]
    Unsupported(&'static str),
    /// The caller may not assume the role.
    #[error(
        "User: {principal} is not authorized to perform: sts:AssumeRole on resource: {role_arn} because {why}"
    )]
    NotAuthorized {
        /// The caller.
        principal: String,
        /// ARN of the role.
        role_arn: String,
        /// The reason.
        why: NotAssumable,
    },
    /// The account has called too often.
    #[error("Rate exceeded")]
    Throttled(Duration),
    /// The host has failed. Clients do not see why; it is logged.
    #[error("An internal server error occurred. Retry the request later.")]
    Internal(String),
}

impl StsError {
    /// The code, and the HTTP status.
    pub(crate) fn code(&self) -> (&'static str, u16) {
        match self {
            Self::Unauthenticated => ("InvalidClientTokenId", 403),
            Self::NoAction => ("MissingAction", 400),
            Self::Action { .. } => ("InvalidAction", 400),
            Self::Twice(_) => ("MalformedQueryString", 400),
            Self::Malformed(_) => ("MalformedInput", 400),
            Self::Constraints(_) | Self::Role(_) | Self::Unsupported(_) => ("ValidationError", 400),
            Self::NotAuthorized { .. } => ("AccessDenied", 403),
            Self::Throttled(_) => ("Throttling", 400),
            Self::Internal(_) => ("InternalFailure", 500),
        }
    }

    /// When the client should try again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(after) => Some(*after),
            Self::Internal(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}
