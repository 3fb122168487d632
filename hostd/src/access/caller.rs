//! Somebody known.

use std::sync::Arc;

use hearth_host::roles::RoleUse;

use super::policy::Policy;
use crate::operation::Operation;

/// Who calls, and in which call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Account: 12 digits.
    pub account: String,
    /// Who, for messages and the audit log: an access key's id, or `uid:0`.
    pub principal: String,
    /// What it may.
    pub policies: Arc<[Policy]>,
    /// Id of the call: a UUID.
    pub request_id: String,
}

impl Caller {
    /// Whether a policy allows an operation with an image, or, without one, with everything there is.
    #[must_use]
    pub fn may(&self, operation: Operation, image: Option<&str>) -> bool {
        self.policies.iter().any(|policy| policy.allows(operation, image))
    }

    /// Whether a policy allows to give a role to a microVM or a build of an image. Whose role that may be is up to
    /// [`hearth_host::roles::RoleProvider`].
    #[must_use]
    pub fn may_pass(&self, image: &str, role_arn: &str) -> bool {
        self.policies.iter().any(|policy| policy.allows_role(image, role_arn))
    }

    /// A role, asked for by the caller's account.
    #[must_use]
    pub fn role(&self, role_arn: &str) -> RoleUse {
        RoleUse::new(&self.account, role_arn)
    }
}
