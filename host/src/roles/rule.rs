//! A rule: the credentials of the roles of a pattern, and the accounts that may use them.

use std::borrow::Cow;
use std::fmt;

use hearth_model::account::is_account;
use hearth_model::role::RoleUse;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::credentials::StaticKeys;
use super::provider::{AssumeRole, Provider};

/// The credentials of some roles, and the accounts that may use them.
///
/// In a file, a rule is `"none"`, or a table with `static` or `assume_role`, `accounts`, or both. A table with `accounts` alone
/// is a rule for roles without credentials.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The only accounts that may use these roles, whatever account is in their ARNs. Without a list, a role is for the account
    /// in its ARN.
    pub accounts: Option<Vec<String>>,
    /// Source of the roles' credentials.
    pub provider: Provider,
}

impl Rule {
    /// Whether an account may use a role to which this rule applies.
    #[must_use]
    pub fn allows(&self, role: &RoleUse) -> bool {
        match &self.accounts {
            Some(accounts) => is_account(&role.account) && accounts.contains(&role.account),
            None => role.is_own(),
        }
    }

    /// Checks the list of accounts. The error is what is wrong with it.
    pub(super) fn check_accounts(&self) -> Result<(), String> {
        let Some(accounts) = &self.accounts else { return Ok(()) };
        if accounts.is_empty() {
            return Err(
                "accounts is empty, so nobody could use the role: list accounts, or leave it out for \
                        the account in the ARN"
                    .to_owned(),
            );
        }
        match accounts.iter().find(|account| !is_account(account)) {
            Some(wrong) => Err(format!("accounts: \"{wrong}\" is no account: 12 digits")),
            None => Ok(()),
        }
    }
}

/// Makes a rule without a list of accounts: a role is for the account in its ARN.
impl From<Provider> for Rule {
    fn from(provider: Provider) -> Self {
        Self { accounts: None, provider }
    }
}

/// Either `static` or `assume_role`, or `"none"` in the place of the table. A table with `accounts` alone is `"none"`
/// for these accounts.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename = "rule", deny_unknown_fields)]
struct Table {
    /// Exactly the accounts (12 digits) that may use these roles, whatever account is in the ARNs; that one must be
    /// listed too if it is to use them. The account in the ARN unless given; needed for ARNs without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<String>>,
    /// Keys that are valid until they are changed here.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    keys: Option<StaticKeys>,
    /// An STS, asked for the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    assume_role: Option<AssumeRole>,
}

/// The schema is that of the table; `"none"` is what its description says.
impl JsonSchema for Rule {
    fn schema_name() -> Cow<'static, str> {
        Table::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        Table::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Table::json_schema(generator)
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (keys, assume_role) = match self.provider.clone() {
            Provider::None if self.accounts.is_none() => return serializer.serialize_str("none"),
            Provider::None => (None, None),
            Provider::Static(keys) => (Some(keys), None),
            Provider::AssumeRole(sts) => (None, Some(sts)),
        };
        Table { accounts: self.accounts.clone(), keys, assume_role }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

/// Deserializes both forms of a rule.
struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = Rule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"none\", or a table with static, assume_role or accounts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rule, E> {
        if text == "none" { Ok(Rule::default()) } else { Err(E::unknown_variant(text, &["none"])) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rule, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        let provider = match (table.keys, table.assume_role) {
            (Some(keys), None) => Provider::Static(keys),
            (None, Some(sts)) => Provider::AssumeRole(sts),
            (None, None) if table.accounts.is_some() => Provider::None,
            (None, None) => {
                return Err(A::Error::custom("a rule needs static or assume_role, or is \"none\""));
            }
            (Some(_), Some(_)) => {
                return Err(A::Error::custom("a rule has static or assume_role, not both"));
            }
        };
        Ok(Rule { accounts: table.accounts, provider })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = r#""static": {"access_key_id": "AKIA", "secret_access_key": "hush"}"#;

    fn rule(json: &str) -> Result<Rule, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn allowed(rule: &Rule, account: &str, arn: &str) -> bool {
        rule.allows(&RoleUse::new(account, arn))
    }

    const ONE: &str = "111111111111";
    const OTHER: &str = "222222222222";
    const ARN: &str = "arn:aws:iam::111111111111:role/app";

    #[test]
    fn without_accounts_a_role_is_its_own_accounts() {
        for rule in [rule("\"none\"").unwrap(), rule(&format!("{{{KEYS}}}")).unwrap()] {
            assert!(allowed(&rule, ONE, ARN));
            assert!(!allowed(&rule, OTHER, ARN));
            assert!(!allowed(&rule, ONE, "arn:minio:iam:::role/app"), "nobody knows whose that is");
        }
    }

    #[test]
    fn accounts_are_exactly_those_that_may() {
        let rule = rule(&format!(r#"{{"accounts": ["{OTHER}"], {KEYS}}}"#)).unwrap();
        assert!(allowed(&rule, OTHER, ARN));
        assert!(allowed(&rule, OTHER, "arn:minio:iam:::role/app"));
        assert!(!allowed(&rule, ONE, ARN), "not even the ARN's own, unless listed");
        assert!(matches!(rule.provider, Provider::Static(_)));
    }

    #[test]
    fn a_role_of_other_accounts_may_stand_for_nothing() {
        let rule = rule(&format!(r#"{{"accounts": ["{OTHER}"]}}"#)).unwrap();
        assert_eq!((&rule.provider, allowed(&rule, OTHER, ARN)), (&Provider::None, true));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_a_reason() {
        for (json, word) in [
            ("{}", "needs static or assume_role"),
            (r#""static""#, "none"),
            (r#"{"account": ["111111111111"]}"#, "`account`"),
            (r#"{"accounts": "111111111111"}"#, "sequence"),
            (
                &format!(
                    r#"{{{KEYS}, "assume_role": {{"endpoint": "https://sts", "region": "r", "credentials": "environment"}}}}"#
                ),
                "not both",
            ),
            ("7", "a table with static"),
        ] {
            let error = rule(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
        let listed = |accounts: &[&str]| {
            let accounts = Some(accounts.iter().map(|account| (*account).to_owned()).collect());
            Rule { accounts, ..Rule::default() }.check_accounts()
        };
        listed(&[ONE, OTHER]).unwrap();
        assert!(listed(&[]).unwrap_err().contains("empty"));
        assert!(listed(&[ONE, "12"]).unwrap_err().contains("\"12\""));
        assert!(listed(&["*"]).unwrap_err().contains("12 digits"));
    }

    #[test]
    fn a_rule_is_written_as_it_is_read_but_for_secrets() {
        for json in [r#""none""#, r#"{"accounts":["222222222222"]}"#] {
            assert_eq!(serde_json::to_string(&rule(json).unwrap()).unwrap(), json);
        }
        let shown = serde_json::to_string(&rule(&format!("{{{KEYS}}}")).unwrap()).unwrap();
        assert!(shown.contains("AKIA") && !shown.contains("hush"), "{shown}");
    }
}
