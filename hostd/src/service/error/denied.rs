//! Errors about callers, and about what they may do.

use super::exception::{Family, Kind};
use crate::access::UnknownCaller;

/// Errors about callers, and about what they may do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Denied {
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
}

impl Family for Denied {
    fn kind(&self) -> Kind {
        match self {
            Self::Unauthenticated(_) => Kind::Unauthenticated,
            Self::AccessDenied { .. } | Self::PassRole { .. } => Kind::AccessDenied,
        }
    }
}
