//! Sources of credentials in the operator's configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credentials::StaticKeys;

/// Source of a role's credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// No source: the role has no credentials.
    #[default]
    None,
    /// From the configuration itself.
    Static(StaticKeys),
    /// From an STS, which issues them for a limited time.
    AssumeRole(AssumeRole),
}

/// Credentials from an STS (Security Token Service): AWS's, or that of an object store or an identity service that speaks
/// its protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssumeRole {
    /// URL of the STS, like `https://sts.eu-west-1.amazonaws.com`.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Keys with which requests are signed: `{ static = … }`, or `"environment"` for those in the daemon's
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub credentials: Source,
    /// Role to request; that of the image or microVM unless given.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// External id, which a role's trust policy may require in addition to the right caller.
    #[serde(default)]
    pub external_id: Option<String>,
    /// Prefix of session names, at most 28 letters, digits and `+=,.@_-`; a UUID follows.
    #[serde(default = "session_name_prefix")]
    pub session_name_prefix: String,
    /// Requested validity of credentials in seconds.
    #[serde(default = "duration_seconds")]
    #[schemars(range(min = 900, max = 43_200))]
    pub duration_seconds: u32,
    /// PEM file with authorities to trust beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// The keys with which requests to an STS are signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// These keys.
    Static(StaticKeys),
    /// The keys in this process's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    Environment,
}

fn session_name_prefix() -> String {
    "Lambda-microvmsExecutor-".to_owned()
}

fn duration_seconds() -> u32 {
    3600
}

impl AssumeRole {
    /// Checks the configuration. The error is what is wrong with it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let in_name = |it: char| it.is_ascii_alphanumeric() || "+=,.@_-".contains(it);
        if !self.endpoint.starts_with("https://") && !self.endpoint.starts_with("http://") {
            return Err("the endpoint must be a URL with https:// or http://");
        }
        if self.region.is_empty() {
            return Err("the region is empty");
        }
        if !(900..=43_200).contains(&self.duration_seconds) {
            return Err("duration_seconds must be 900 to 43200");
        }
        if self.session_name_prefix.len() > 28 || !self.session_name_prefix.chars().all(in_name) {
            return Err("session_name_prefix must be at most 28 letters, digits and +=,.@_-");
        }
        Ok(())
    }
}
