//! An authenticated caller.

use std::sync::Arc;

use hearth_model::role::RoleUse;

use super::policy::Policy;
use super::sessions::AssumedRole;
use crate::operation::Operation;

/// The caller of an operation, and the call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Account of the caller: 12 digits.
    pub account: String,
    /// Name of the caller for messages and the audit log: an access key's id, `uid:0`, or the ARN of a role's session.
    pub principal: String,
    /// Policies that state what the caller may do.
    pub policies: Arc<[Policy]>,
    /// The role that the caller has assumed, whose policies have to allow everything, too.
    pub role: Option<Arc<AssumedRole>>,
    /// Id of the call: a UUID.
    pub request_id: String,
}

impl Caller {
    /// Whether a policy allows an operation on an image, or, without an image, on everything.
    #[must_use]
    pub fn may(&self, operation: Operation, image: Option<&str>) -> bool {
        self.allow(|policy| policy.allows(operation, image))
    }

    /// Whether a policy allows the caller to give a role to a microVM or a build of an image.
    /// [`hearth_host::roles::RoleProvider`] decides for which accounts the role may be used.
    #[must_use]
    pub fn may_pass(&self, image: &str, role_arn: &str) -> bool {
        self.allow(|policy| policy.allows_role(Some(image), role_arn))
    }

    /// Whether one of the caller's policies allows something, and one of the role's that it has assumed.
    fn allow(&self, allows: impl Fn(&Policy) -> bool) -> bool {
        let assumed = self.role.as_ref().map(|role| &role.policies);
        [Some(&self.policies), assumed].into_iter().flatten().all(|policies| policies.iter().any(&allows))
    }

    /// The use of a role by the caller's account.
    #[must_use]
    pub fn use_of_role(&self, role_arn: &str) -> RoleUse {
        RoleUse::new(&self.account, role_arn)
    }
}
