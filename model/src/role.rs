//! Roles: their ARNs, and the accounts that use them.

use crate::account::is_account;

/// A role, and the account that wants its credentials. Both are always needed to request credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoleUse {
    /// The account that runs or builds with the role: 12 digits.
    pub account: String,
    /// The role's ARN, like `arn:aws:iam::123456789012:role/app`.
    pub role_arn: String,
}

impl RoleUse {
    /// A role for an account. Neither is checked here: who gets credentials for roles refuses malformed ones.
    #[must_use]
    pub fn new(account: impl Into<String>, role_arn: impl Into<String>) -> Self {
        Self { account: account.into(), role_arn: role_arn.into() }
    }

    /// Whether the role is the account's own, by its ARN.
    #[must_use]
    pub fn is_own(&self) -> bool {
        account_of(&self.role_arn) == Some(self.account.as_str())
    }
}

/// The account in a role's ARN: `123456789012` of `arn:aws:iam::123456789012:role/app`, in any partition of AWS. `None` if the
/// text is no ARN of a role, by the pattern in the API.
#[must_use]
pub fn account_of(role_arn: &str) -> Option<&str> {
    let parts: Vec<&str> = role_arn.split(':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else { return None };
    let partition = partition.strip_prefix("aws")?;
    let name = resource.strip_prefix("role")?;
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
    let is_role = partition.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        && is_account(account)
        && !name.trim_start_matches('/').is_empty()
        && name.bytes().all(in_name);
    is_role.then_some(*account)
}

/// The ARN of a role.
#[must_use]
pub fn role_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:role/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_role_is_in_its_arn() {
        for (arn, account) in [
            ("arn:aws:iam::123456789012:role/app", Some("123456789012")),
            ("arn:aws-us-gov:iam::123456789012:role/team/app+=,.@_-", Some("123456789012")),
            ("arn:aws:iam::123456789012:roleapp", Some("123456789012")), // the API's pattern accepts it
            ("arn:aws:iam::12345678901:role/app", None),
            ("arn:aws:iam::1234567890123:role/app", None),
            ("arn:aws:iam::12345678901x:role/app", None),
            ("arn:aws:iam:us-east-1:123456789012:role/app", None),
            ("arn:aws:sts::123456789012:assumed-role/app", None),
            ("arn:aws:iam::123456789012:user/app", None),
            ("arn:aws:iam::123456789012:role/", None),
            ("arn:aws:iam::123456789012:role/*", None),
            ("arn:aws:iam::123456789012:role/app:999999999999", None),
            ("arn:minio:iam::123456789012:role/app", None),
            ("arn:aws:iam:::role/app", None),
            ("app", None),
            ("", None),
        ] {
            assert_eq!(account_of(arn), account, "{arn}");
        }
    }

    #[test]
    fn an_arn_is_made_of_account_and_name() {
        assert_eq!(account_of(&role_arn("123456789012", "app")), Some("123456789012"));
    }

    #[test]
    fn a_role_is_its_own_accounts() {
        let own = |account: &str, arn: &str| RoleUse::new(account, arn).is_own();
        assert!(own("123456789012", "arn:aws:iam::123456789012:role/app"));
        assert!(!own("999999999999", "arn:aws:iam::123456789012:role/app"));
        assert!(!own("", "arn:aws:iam:::role/app"), "nobody's role is nobody's own");
        assert!(!own("", "app"));
    }
}
