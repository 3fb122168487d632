//! Settings of the service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::idempotency;
use super::quota::Limits;
use crate::access::Policy;

/// The behaviour that is reproduced where the API reference and the measured behaviour of AWS differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// The behaviour that the API reference documents, with conveniences: bare names, `NO_EGRESS`, no limits.
    #[default]
    Default,
    /// The behaviour that was measured at AWS.
    AwsStrict,
}

impl Profile {
    /// Name of the profile in the configuration: `default` or `aws-strict`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AwsStrict => "aws-strict",
        }
    }
}

/// Settings of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// The Region in ARNs and names of endpoints.
    pub region: String,
    /// The profile.
    pub profile: Profile,
    /// The domain of endpoints, which follows `UUID.` in their names.
    pub endpoint_domain: String,
    /// Quotas and rates.
    pub limits: Limits,
    /// How long client tokens are kept.
    pub client_token_retention: Duration,
    /// Lifetime of a microVM whose request specifies none, in seconds: 1 to 28800.
    pub default_maximum_duration_seconds: i32,
    /// Longest validity of tokens for endpoints, in minutes.
    pub max_token_minutes: i32,
    /// The roles that callers can assume, by ARN, and what their sessions may do.
    pub role_policies: BTreeMap<String, Arc<[Policy]>>,
}

impl ServiceConfig {
    /// The default settings of a Region and a profile.
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
            role_policies: BTreeMap::new(),
        }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self::new("us-east-1", Profile::Default)
    }
}
