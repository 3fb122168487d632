//! The request of `AssumeRole`, and its constraints.

use std::collections::BTreeMap;

use hearth_model::role::account_of;
use serde_json::Value;

use super::error::StsError;

/// Lifetime of a session whose request specifies none, in seconds.
const DEFAULT_SECONDS: u64 = 3600;
/// Shortest lifetime of a session, in seconds.
const MIN_SECONDS: u64 = 900;
/// Longest lifetime of a session, in seconds; keys of tokens are kept for as long ([`crate::tokens::keys::LONGEST_LIFE`]).
const MAX_SECONDS: u64 = 43_200;
/// Greatest length of a value in a message, in characters.
const SHOWN: usize = 256;

/// Parameters that AWS looks at in ways that this host does not: taking and ignoring them would grant more than was asked for,
/// or pretend that something was verified. `ExternalId` is not among them: a role that does not ask for one takes any, in AWS as
/// well.
const UNSUPPORTED: [&str; 9] = [
    "Policy",
    "PolicyArns",
    "Tags",
    "TransitiveTagKeys",
    "SourceIdentity",
    "SerialNumber",
    "TokenCode",
    "ProvidedContexts",
    "MinimumSessionTokenSize",
];

/// A pattern as the model of the API has it, and the function that says whether a text fits.
type Pattern = (&'static str, fn(&str) -> bool);

/// The parameters of a request, by name: `RoleArn`, `DurationSeconds`. Nothing is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssumeRole(pub(crate) BTreeMap<String, String>);

/// A request that satisfies the constraints.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked<'a> {
    pub(super) role_arn: &'a str,
    pub(super) session_name: &'a str,
    pub(super) seconds: u64,
}

impl AssumeRole {
    /// The request for the audit log.
    pub(super) fn json(&self) -> Value {
        let members = [
            ("RoleArn", "roleArn"),
            ("RoleSessionName", "roleSessionName"),
            ("DurationSeconds", "durationSeconds"),
        ];
        let given = members
            .into_iter()
            .filter_map(|(theirs, name)| Some((name.to_owned(), self.0.get(theirs)?.as_str().into())));
        Value::Object(given.collect())
    }

    /// Checks the constraints.
    ///
    /// # Errors
    /// [`StsError::Constraints`], [`StsError::Malformed`], [`StsError::Role`], [`StsError::Unsupported`]
    pub(super) fn checked(&self) -> Result<Checked<'_>, StsError> {
        let mut violations = Vec::new();
        let role_arn = self.text("RoleArn", "roleArn", 20..=2048, None, &mut violations);
        let pattern: Option<Pattern> = Some(("[\\w+=,.@-]*", is_session_name));
        let session_name = self.text("RoleSessionName", "roleSessionName", 2..=64, pattern, &mut violations);
        let mut seconds = DEFAULT_SECONDS;
        if let Some(text) = self.0.get("DurationSeconds") {
            let given: i64 = text.parse().map_err(|_| StsError::Malformed("DurationSeconds"))?;
            let mut violates = |bound: &str, limit: u64| {
                let bound = format!("Member must have value {bound} than or equal to {limit}");
                violations.push(violation(&given.to_string(), "durationSeconds", &bound));
            };
            match u64::try_from(given) {
                Ok(given) if given > MAX_SECONDS => violates("less", MAX_SECONDS),
                Ok(given) if given >= MIN_SECONDS => seconds = given,
                _ => violates("greater", MIN_SECONDS),
            }
        }
        if !violations.is_empty() {
            return Err(StsError::Constraints(violations));
        }
        // A list or a map has members like `Tags.member.1.Key`.
        let is = |name: &str, unsupported: &str| {
            name.strip_prefix(unsupported).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut unsupported =
            UNSUPPORTED.into_iter().filter(|parameter| self.0.keys().any(|name| is(name, parameter)));
        if let Some(parameter) = unsupported.next() {
            return Err(StsError::Unsupported(parameter));
        }
        if account_of(role_arn).is_none() {
            return Err(StsError::Role(shown(role_arn)));
        }
        Ok(Checked { role_arn, session_name, seconds })
    }

    /// A text, checked against its length in characters and its pattern.
    fn text(
        &self,
        name: &str,
        field: &str,
        length: std::ops::RangeInclusive<usize>,
        pattern: Option<Pattern>,
        violations: &mut Vec<String>,
    ) -> &str {
        let Some(text) = self.0.get(name) else {
            violations.push(format!(
                "Value null at '{field}' failed to satisfy constraint: Member must not be null"
            ));
            return "";
        };
        let characters = text.chars().count();
        if characters < *length.start() {
            let bound = format!("Member must have length greater than or equal to {}", length.start());
            violations.push(violation(text, field, &bound));
        }
        if characters > *length.end() {
            let bound = format!("Member must have length less than or equal to {}", length.end());
            violations.push(violation(text, field, &bound));
        }
        if let Some((pattern, fits)) = pattern
            && !fits(text)
        {
            let bound = format!("Member must satisfy regular expression pattern: {pattern}");
            violations.push(violation(text, field, &bound));
        }
        text
    }
}

fn is_session_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}

fn violation(value: &str, field: &str, constraint: &str) -> String {
    format!("Value '{}' at '{field}' failed to satisfy constraint: {constraint}", shown(value))
}

/// A value of the client for a message.
fn shown(value: &str) -> String {
    value.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}
