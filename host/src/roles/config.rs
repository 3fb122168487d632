//! The operator's configuration of roles.

use std::collections::BTreeMap;

use hearth_model::role::{RoleUse, account_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::provider::Provider;
use super::rule::Rule;

/// Which credentials role ARNs stand for: those of builds, which fetch artifacts, and those that apps find in their
/// metadata service.
///
/// A role is for the account in its ARN: requests of another account that name it are refused (`iam:PassRole`),
/// whatever the role stands for, and also where there is no rule for it. `accounts` in a rule names others. All is
/// looked at again whenever credentials are fetched – at each launch, resume, refresh and build –, so that a change
/// here takes effect on microVMs and images that are there already: a running microVM whose role is refused loses its
/// credentials, others do not launch, resume or build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// Credentials by ARN, or by pattern with `*` for any characters: `[roles.rules."ARN"]`. The ARN itself goes before
    /// patterns, longer patterns before shorter ones; the first alone decides.
    #[schemars(extend("x-name" = "ROLE"))]
    pub rules: BTreeMap<String, Rule>,
    /// Credentials of all other roles, for the accounts in their ARNs: `"none"`, or a table with `static` or
    /// `assume_role`.
    pub default: Provider,
}

impl RolesConfig {
    /// The provider of a role if the account may use the role; else `None`.
    pub(super) fn provider(&self, role: &RoleUse) -> Option<&Provider> {
        match self.rule(&role.role_arn) {
            Some(rule) => rule.allows(role).then_some(&rule.provider),
            None => role.is_own().then_some(&self.default),
        }
    }

    /// The rule for a role ARN.
    fn rule(&self, role_arn: &str) -> Option<&Rule> {
        if let Some(rule) = self.rules.get(role_arn) {
            return Some(rule);
        }
        self.rules
            .iter()
            .filter(|(pattern, _)| pattern.contains('*') && matches(pattern, role_arn))
            .max_by_key(|(pattern, _)| pattern.len() - pattern.matches('*').count())
            .map(|(_, rule)| rule)
    }

    /// Checks the rules as far as possible without a request. Returns the rule that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        for (pattern, rule) in &self.rules {
            rule.check_accounts().map_err(|why| (pattern.clone(), why))?;
            if rule.accounts.is_none() && !pattern.contains('*') && account_of(pattern).is_none() {
                let why = "nobody can use it: it is no ARN like arn:aws:iam::123456789012:role/NAME, so that \
                           nobody knows whose role it is. Mend it, or list the accounts that may use it in accounts";
                return Err((pattern.clone(), why.to_owned()));
            }
        }
        let rules = self.rules.iter().map(|(pattern, rule)| (pattern.as_str(), &rule.provider));
        for (name, provider) in rules.chain([("default", &self.default)]) {
            if let Provider::AssumeRole(sts) = provider {
                sts.check().map_err(|why| (name.to_owned(), why.to_owned()))?;
            }
        }
        Ok(())
    }
}

/// Whether `text` is the pattern with something in place of each `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // The leftmost match of a part leaves the most for the following parts.
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> RolesConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "arn", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("a**c", "abc", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_arn_itself_goes_before_patterns_and_the_closer_pattern_before_the_wider() {
        let config = config(
            r#"{"rules": {
                "arn:aws:iam::123456789012:role/exact": {"static": {"access_key_id": "exact", "secret_access_key": ""}},
                "arn:aws:iam::123456789012:role/*": {"static": {"access_key_id": "close", "secret_access_key": ""}},
                "arn:aws:iam::*": {"static": {"access_key_id": "wide", "secret_access_key": ""}},
                "arn:aws:iam::123456789012:role/team/*": "none"
            }}"#,
        );
        let id = |arn: &str| {
            let account = account_of(arn).unwrap();
            match config.provider(&RoleUse::new(account, arn)).unwrap() {
                Provider::Static(keys) => keys.access_key_id.clone(),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(id("arn:aws:iam::123456789012:role/exact"), "exact");
        assert_eq!(id("arn:aws:iam::123456789012:role/exacter"), "close");
        assert_eq!(id("arn:aws:iam::123456789012:role/team/x"), "None");
        assert_eq!(id("arn:aws:iam::000000000000:role/x"), "wide");
        assert_eq!(id("arn:aws-cn:iam::000000000000:role/x"), "None");
    }

    #[test]
    fn the_closest_rule_decides_who_may_also_where_a_wider_one_would_let_in() {
        let config = config(
            r#"{"rules": {
                "arn:aws:iam::111111111111:role/*": {"accounts": ["111111111111", "222222222222"]},
                "arn:aws:iam::111111111111:role/admin": "none"
            }}"#,
        );
        let may = |account: &str, arn: &str| config.provider(&RoleUse::new(account, arn)).is_some();
        let (app, admin) = ("arn:aws:iam::111111111111:role/app", "arn:aws:iam::111111111111:role/admin");
        assert!(may("111111111111", app) && may("222222222222", app) && !may("333333333333", app));
        assert!(may("111111111111", admin) && !may("222222222222", admin));
        let without = "arn:aws:iam::222222222222:role/x";
        assert!(
            may("222222222222", without) && !may("111111111111", without),
            "default is for the ARN's own"
        );
    }

    #[test]
    fn a_rule_that_nobody_could_use_is_found() {
        let check = |json: &str| config(json).check();
        let (rule, why) = check(r#"{"rules": {"arn:aws:iam::1:role/app": "none"}}"#).unwrap_err();
        assert!(rule == "arn:aws:iam::1:role/app" && why.contains("nobody can use it"), "{why}");
        check(r#"{"rules": {"builder": {"accounts": ["111111111111"]}, "*": "none"}}"#).unwrap();
        let (_, why) = check(r#"{"rules": {"*": {"accounts": ["1"]}}}"#).unwrap_err();
        assert!(why.contains("12 digits"), "{why}");
    }

    #[test]
    fn what_is_misspelt_or_out_of_range_is_refused() {
        assert!(serde_json::from_str::<RolesConfig>(r#"{"rule": {}}"#).is_err());
        assert!(
            serde_json::from_str::<RolesConfig>(r#"{"default": {"static": {"access_key_id": "x"}}}"#)
                .is_err()
        );
        assert!(serde_json::from_str::<RolesConfig>(r#"{"default": "assume"}"#).is_err());
        let sts = |change: &str| {
            let json = format!(
                r#"{{"default": {{"assume_role": {{"endpoint": "https://sts", "region": "r",
                    "credentials": "environment" {change}}}}}}}"#
            );
            config(&json).check()
        };
        sts("").unwrap();
        assert!(sts(r#", "duration_seconds": 899"#).is_err());
        assert!(sts(r#", "session_name_prefix": "no spaces""#).is_err());
    }
}
