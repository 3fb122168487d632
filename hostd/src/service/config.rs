//! What can be set of the service.

use std::time::Duration;

use super::idempotency;
use super::quota::Limits;

/// Whose behaviour is reproduced where the API reference and what AWS does differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// What the API reference says, and what is more convenient: bare names, `NO_EGRESS`, no limits.
    #[default]
    Default,
    /// What AWS was measured to do.
    AwsStrict,
}

impl Profile {
    /// Its name in the configuration: `default` or `aws-strict`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AwsStrict => "aws-strict",
        }
    }
}

/// What can be set of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// The Region in ARNs and names of endpoints.
    pub region: String,
    /// Whose behaviour is reproduced.
    pub profile: Profile,
    /// What names of endpoints end with, behind `UUID.`.
    pub endpoint_domain: String,
    /// Quotas and rates.
    pub limits: Limits,
    /// How long client tokens are kept.
    pub client_token_retention: Duration,
    /// How long a microVM lives unless its request says, in seconds: 1 to 28800.
    pub default_maximum_duration_seconds: i32,
    /// How long tokens for endpoints are valid at most, in minutes.
    pub max_token_minutes: i32,
}

impl ServiceConfig {
    /// The defaults of a region and a profile.
    #[must_use]
    pub fn new(region: &str, profile: Profile) -> Self {
        Self {
            region: region.to_owned(),
            profile,
            endpoint_domain: format!("lambda-microvm.{region}.localhost"),
            limits: Limits::of(profile),
            client_token_retention: idempotency::RETENTION,
            default_maximum_duration_seconds: 28_800,
            max_token_minutes: 60,
        }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self::new("us-east-1", Profile::Default)
    }
}
