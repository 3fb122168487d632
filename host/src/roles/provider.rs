//! Where credentials come from, as an operator writes it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::credentials::StaticKeys;

/// Where credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Nowhere: the role stands for no credentials.
    #[default]
    None,
    /// From the configuration itself.
    Static(StaticKeys),
    /// From an STS, which gives them for some time.
    AssumeRole(AssumeRole),
}

/// Credentials from an STS (Security Token Service): AWS's, or that of an object store or an identity service that speaks
/// its protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssumeRole {
    /// URL of the STS, like `https://sts.eu-west-1.amazonaws.com`.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Who asks.
    pub credentials: Source,
    /// Role to ask for; that of the image or microVM when not given.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// What the role's trust policy may ask for beside the right caller.
    #[serde(default)]
    pub external_id: Option<String>,
    /// What the name of a session begins with, at most 28 letters, digits and `+=,.@_-`; a UUID follows. Default
    /// `Lambda-microvmsExecutor-`.
    #[serde(default = "session_name_prefix")]
    pub session_name_prefix: String,
    /// How many seconds credentials are asked for, 900 to 43200. Default 3600.
    #[serde(default = "duration_seconds")]
    pub duration_seconds: u32,
    /// A PEM file with certificates of authorities to trust beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Who asks an STS for credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Who has these keys.
    Static(StaticKeys),
    /// Who has the keys in this process's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    Environment,
}

fn session_name_prefix() -> String {
    "Lambda-microvmsExecutor-".to_owned()
}

fn duration_seconds() -> u32 {
    3600
}

impl AssumeRole {
    /// What is wrong with it.
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
