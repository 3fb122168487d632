//! Policies: actions × names of images × ARNs of roles.
//!
//! Actions are the operations, and PassRole, which allows a caller to give a role to a microVM or a build, which then
//! has the role's credentials, and to assume the role (`sts:AssumeRole`). A role can be worth more than everything else here, so PassRole is never granted
//! implicitly: a policy grants it for the roles that it lists, or by allowing everything – `actions = ["*"]` with all
//! images, and no list of roles. Policies do not decide for which accounts a role may be used: [`hearth_host::roles`]
//! refuses roles of other accounts.
//!
//! Operations of the host ([`Operation::is_of_host`]) concern all accounts. No pattern matches them: a policy grants those that
//! it names in full.

use hearth_model::role::account_of;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::operation::Operation;

/// The action of giving a role to a microVM or a build. No operation has this name.
pub const PASS_ROLE: &str = "PassRole";
/// The pattern that matches everything.
const EVERYTHING: &str = "*";

/// A policy is a table: `{ actions = ["RunMicrovm", "Get*"], images = ["web-*"] }`. What no policy of a list allows is
/// denied. In all patterns `*` stands for any characters and `?` for one.
///
/// A caller that names a role for a microVM (`executionRoleArn`) or for builds (`buildRoleArn`, which every image needs) gives
/// away its credentials, and needs `PassRole` for it: from a policy whose `actions` have `PassRole`, whose `images` have
/// the image and whose `roles` have the ARN, or from one with `actions = ["*"]`, all images and no `roles`. No other
/// policy grants it: neither `{ actions = ["*"], images = ["web-*"] }` nor `{ actions = ["Create*"] }` lets anybody use a
/// role. Whoever assumes a role (`sts:AssumeRole`) needs `PassRole` for it with all images. With `roles = []`, a policy of everything
/// grants all but `PassRole`. Whatever policies say, a role is refused to
/// accounts that may not use it (`[roles]`).
///
/// Operations of the whole host – `BackUpStore`, and `GetHostStatus` with all that it tells – are for those who come through the
/// Unix socket without a key, and for policies that name them in full, with all images:
/// `{ actions = ["GetHostStatus", "BackUpStore"] }`. No pattern stands for them, not even `*`. Every known caller may call
/// `GetHostStatus`; without the grant the answer has the Region, the caller's account with its limits, the profile and the
/// address, domain and authority of endpoints, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-heading" = "Policies"))]
pub struct Policy {
    /// Names of operations, and `PassRole`. Names of AWS may have their prefix: `lambda:RunMicrovm`, `iam:PassRole`.
    /// Patterns do not match operations of the host.
    pub actions: Vec<String>,
    /// Names of images. Lists, and what is about the host, need `*`.
    #[serde(default = "every")]
    pub images: Vec<String>,
    /// ARNs of the roles that `PassRole` is about. Unless given: all roles with `actions = ["*"]` and all images,
    /// otherwise none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
}

fn every() -> Vec<String> {
    vec![EVERYTHING.to_owned()]
}

/// An error in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No operation has this name, or matches this pattern.
    #[error("names the action \"{0}\", which no operation has")]
    Action(String),
    /// The pattern matches operations of the host, and no other.
    #[error(
        "names the action \"{0}\", but operations of the whole host have to be named in full: GetHostStatus, BackUpStore"
    )]
    HostPattern(String),
    /// The policy allows PassRole but lists no roles.
    #[error(
        "names the action \"{0}\" but no roles: add roles = [\"arn:aws:iam::ACCOUNT:role/NAME\"], in which * stands for any characters"
    )]
    NoRoles(String),
    /// The policy lists roles but does not allow PassRole.
    #[error(
        "lists roles, but none of its actions is PassRole: add \"PassRole\" to actions, or leave roles out"
    )]
    NoPassRole,
    /// The pattern cannot match the ARN of a role.
    #[error("lists the role \"{0}\", which is no ARN like arn:aws:iam::123456789012:role/NAME")]
    Role(String),
}

impl Policy {
    /// A policy that allows everything in the account.
    #[must_use]
    pub fn everything() -> Self {
        Self { actions: every(), images: every(), roles: None }
    }

    /// A policy that allows the operations of the host.
    #[must_use]
    pub fn host() -> Self {
        let names = Operation::ALL.into_iter().filter(|operation| operation.is_of_host());
        Self {
            actions: names.map(|operation| operation.name().to_owned()).collect(),
            images: every(),
            roles: None,
        }
    }

    /// Whether the policy allows an operation on an image, or, without an image, on everything.
    #[must_use]
    pub fn allows(&self, operation: Operation, image: Option<&str>) -> bool {
        self.actions.iter().any(|action| is_operation(action, operation)) && self.has_image(image)
    }

    /// Whether the policy allows giving a role to a microVM or a build of an image, or, without an image, assuming it.
    #[must_use]
    pub fn allows_role(&self, image: Option<&str>, role_arn: &str) -> bool {
        if !self.has_image(image) {
            return false;
        }
        match &self.roles {
            Some(roles) => {
                self.actions.iter().any(|action| is_pass_role(action))
                    && roles.iter().any(|pattern| matches(pattern, role_arn))
            }
            None => [&self.actions, &self.images].iter().all(|list| list.iter().any(|it| it == EVERYTHING)),
        }
    }

    fn has_image(&self, image: Option<&str>) -> bool {
        self.images.iter().any(|pattern| match image {
            Some(image) => matches(pattern, image),
            None => pattern == EVERYTHING,
        })
    }

    /// Checks the policy.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn check(&self) -> Result<(), PolicyError> {
        let is_any = |action: &str| Operation::ALL.iter().any(|operation| is_operation(action, *operation));
        for action in &self.actions {
            if is_any(action) {
                continue; // if the pattern also matches PassRole, `roles` decides about that
            }
            if !is_pass_role(action) {
                let of_host = |operation: &Operation| matches(without_prefix(action), operation.name());
                let error = if Operation::ALL.iter().any(of_host) {
                    PolicyError::HostPattern
                } else {
                    PolicyError::Action
                };
                return Err(error(action.clone()));
            }
            if self.roles.as_ref().is_none_or(Vec::is_empty) {
                return Err(PolicyError::NoRoles(action.clone()));
            }
        }
        let roles = self.roles.iter().flatten();
        // An empty list of roles allows everything but PassRole.
        if roles.clone().next().is_some() && !self.actions.iter().any(|action| is_pass_role(action)) {
            return Err(PolicyError::NoPassRole);
        }
        match roles.into_iter().find(|pattern| !could_be_role(pattern)) {
            Some(wrong) => Err(PolicyError::Role(wrong.clone())),
            None => Ok(()),
        }
    }
}

/// Whether a pattern of actions matches an operation. Those of the host have to be named.
fn is_operation(action: &str, operation: Operation) -> bool {
    let action = without_prefix(action);
    if operation.is_of_host() { action == operation.name() } else { matches(action, operation.name()) }
}

/// An action without the prefix of AWS.
fn without_prefix(action: &str) -> &str {
    action.strip_prefix("lambda:").unwrap_or(action)
}

/// Whether a pattern of actions matches PassRole, which in AWS is an action of IAM.
fn is_pass_role(action: &str) -> bool {
    matches(action.strip_prefix("iam:").unwrap_or(action), PASS_ROLE)
}

/// Whether a pattern could match ARNs of roles.
fn could_be_role(pattern: &str) -> bool {
    match pattern.find(['*', '?']) {
        Some(first) => first == 0 || pattern.starts_with("arn:"),
        None => account_of(pattern).is_some(),
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one. The time is
/// linear, except that each mismatch retries the last `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at = at.saturating_add(1);
            }
            Some(&byte) if byte == b'?' || text.get(seen) == Some(&byte) => {
                (at, seen) = (at.saturating_add(1), seen.saturating_add(1));
            }
            _ => {
                let Some((of_star, from)) = star else { return false };
                seen = from.saturating_add(1);
                star = Some((of_star, seen));
                at = of_star.saturating_add(1);
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(actions: &[&str], images: &[&str]) -> Policy {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Policy { actions: owned(actions), images: owned(images), roles: None }
    }

    fn passing(actions: &[&str], images: &[&str], roles: &[&str]) -> Policy {
        let roles = roles.iter().map(|text| (*text).to_owned()).collect();
        Policy { roles: Some(roles), ..policy(actions, images) }
    }

    const APP: &str = "arn:aws:iam::111122223333:role/app";
    const ADMIN: &str = "arn:aws:iam::111122223333:role/admin";

    #[test]
    fn a_policy_allows_its_actions_with_its_images() {
        let web = policy(&["RunMicrovm", "lambda:Get*"], &["web-*", "demo"]);
        assert!(web.allows(Operation::RunMicrovm, Some("web-shop")));
        assert!(web.allows(Operation::GetMicrovm, Some("demo")));
        assert!(!web.allows(Operation::RunMicrovm, Some("web")));
        assert!(!web.allows(Operation::TerminateMicrovm, Some("demo")));
        assert!(!web.allows(Operation::GetHostStatus, None), "that is about everything");
        assert!(policy(&["*"], &["*"]).allows(Operation::ListMicrovms, None));
        assert!(!policy(&[], &["*"]).allows(Operation::ListMicrovms, None));
    }

    #[test]
    fn operations_of_the_host_are_granted_by_name_alone() {
        let of_host = [Operation::GetHostStatus, Operation::BackUpStore];
        for pattern in ["*", "**", "Get*", "lambda:*", "BackUp*", "GetHostStatu?", "?????????????"] {
            let policy = policy(&[pattern], &["*"]);
            assert!(of_host.iter().all(|operation| !policy.allows(*operation, None)), "{pattern}");
        }
        let named = policy(&["*", "BackUpStore"], &["*"]);
        assert_eq!(of_host.map(|operation| named.allows(operation, None)), [false, true]);
        assert_eq!(of_host.map(|operation| Policy::host().allows(operation, None)), [true, true]);
        assert!(
            !policy(&["BackUpStore"], &["web-*"]).allows(Operation::BackUpStore, None),
            "it is about everything"
        );
        let others = Operation::ALL.into_iter().filter(|operation| !operation.is_of_host());
        assert!(others.into_iter().all(|operation| !Policy::host().allows(operation, Some("web"))));
        assert!(!Policy::host().allows_role(None, APP));
        assert_eq!(Policy::host().check(), Ok(()));
        let error = policy(&["BackUp*"], &["*"]).check().unwrap_err();
        assert_eq!(error, PolicyError::HostPattern("BackUp*".to_owned()));
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxbxaxb", true),
            ("", "", true),
            ("", "a", false),
            ("a", "ab", false),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn actions_that_nobody_knows_are_found() {
        assert_eq!(policy(&["*", "List*", "RunMicrovm"], &[]).check(), Ok(()));
        for action in ["RunMicroVM", "iam:RunMicrovm", "lambda:PassRole", "iam:List*", ""] {
            let error = policy(&[action], &["*"]).check().unwrap_err();
            assert_eq!(error, PolicyError::Action(action.to_owned()));
        }
    }

    #[test]
    fn a_role_is_passed_by_a_policy_that_lists_it_or_allows_everything() {
        for (policy, image, app, admin) in [
            (Policy::everything(), "web", true, true),
            (policy(&["RunMicrovm", "*"], &["web", "*"]), "web", true, true),
            // Roles are not granted implicitly.
            (policy(&["RunMicrovm", "CreateMicrovmImage"], &["*"]), "web", false, false),
            (policy(&["*"], &["web-*"]), "web-1", false, false),
            (policy(&["P*", "lambda:*", "iam:*", "**"], &["*"]), "web", false, false),
            (policy(&["*"], &["**"]), "web", false, false),
            (passing(&["*"], &["*"], &[]), "web", false, false),
            (passing(&["RunMicrovm"], &["*"], &["*"]), "web", false, false),
            (passing(&["lambda:*"], &["*"], &["*"]), "web", false, false),
            // Listed roles are granted.
            (passing(&["PassRole"], &["*"], &[APP]), "web", true, false),
            (passing(&["iam:PassRole"], &["*"], &["arn:aws:iam::*:role/a?p"]), "web", true, false),
            (passing(&["Pass*"], &["web-*"], &["*"]), "web-1", true, true),
            (passing(&["*"], &["web-*"], &["arn:aws:iam::111122223333:role/app"]), "web-1", true, false),
            // The roles of a policy are granted for the images of the same policy only.
            (passing(&["PassRole"], &["web-*"], &["*"]), "db", false, false),
        ] {
            let all_images = policy.images.iter().any(|image| image == EVERYTHING);
            assert_eq!(policy.allows_role(None, APP), app && all_images, "{policy:?}");
            assert_eq!(policy.allows_role(Some(image), APP), app, "{policy:?}");
            assert_eq!(policy.allows_role(Some(image), ADMIN), admin, "{policy:?}");
        }
    }

    #[test]
    fn passing_a_role_allows_no_operation() {
        let policy = passing(&["PassRole", "iam:*"], &["*"], &["*"]);
        assert!(Operation::ALL.iter().all(|operation| !policy.allows(*operation, Some("web"))));
        assert_eq!(Operation::named(PASS_ROLE), None);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused() {
        for good in [
            passing(&["PassRole"], &["*"], &[APP, "*", "arn:aws:iam::*:role/web-*", "*/web"]),
            passing(&["*"], &["web"], &[APP]),
            passing(&["*"], &["*"], &[]),
            passing(&["Get*"], &["*"], &[]),
            policy(&["P*"], &["*"]),
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for (bad, word) in [
            (policy(&["RunMicrovm", "PassRole"], &["*"]), "add roles"),
            (policy(&["iam:*"], &["*"]), "\"iam:*\""),
            (passing(&["PassRole"], &["*"], &[]), "no roles"),
            (passing(&["RunMicrovm"], &["*"], &[APP]), "add \"PassRole\""),
            (passing(&["lambda:*"], &["*"], &[APP]), "add \"PassRole\""),
            (passing(&["PassRole"], &["*"], &["app"]), "\"app\""),
            (passing(&["PassRole"], &["*"], &["role/*"]), "\"role/*\""),
            (passing(&["PassRole"], &["*"], &["arn:aws:iam::1:role/app"]), "\"arn:aws:iam::1:role/app\""),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
