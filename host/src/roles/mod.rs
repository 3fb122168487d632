//! Which credentials a role ARN stands for.
//!
//! Users name roles (`buildRoleArn`, `executionRoleArn`), and an operator says what these stand for: keys, credentials of an
//! STS, or nothing. [`RoleProvider`] answers from its memory until five minutes before credentials expire, and asks once
//! however many ask it at a time.
//!
//! * [`config`] – the operator's rules
//! * [`credentials`] – credentials, and strings that are not printed
//! * [`sts`] – asking an STS

mod config;
mod credentials;
mod sts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use config::{AssumeRole, Provider, RolesConfig, Source};
pub use credentials::{Credentials, Secret, StaticKeys, VALIDITY};

/// How long credentials are at least valid when they are handed out, unless there are none that are.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// Most roles that are remembered. Users choose ARNs, and a pattern takes many.
const MAX_REMEMBERED: usize = 4096;

/// Why there are no credentials for a role that should have some.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The STS refuses.
    #[error("the role {role_arn} cannot be assumed: {code}: {message}")]
    Refused {
        /// The role that was asked for.
        role_arn: String,
        /// The STS's code, like `AccessDenied`.
        code: String,
        /// Its message.
        message: String,
    },
    /// The STS cannot be reached, or has failed.
    #[error("the STS at {endpoint} cannot be asked: {why}")]
    Unreachable {
        /// Its URL.
        endpoint: String,
        /// What happened.
        why: String,
    },
    /// The STS answered with what cannot be understood.
    #[error("the answer of the STS at {endpoint} is malformed: {why}")]
    Answer {
        /// Its URL.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The keys to ask with should be in the environment.
    #[error(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and a rule asks with the environment's credentials"
    )]
    NoEnvironment,
    /// A rule that cannot work.
    #[error("the rule for roles \"{rule}\": {why}")]
    Config {
        /// Its pattern, or the STS's URL.
        rule: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Says which credentials a role ARN stands for.
#[derive(Debug)]
pub struct RoleProvider {
    config: RolesConfig,
    remembered: Mutex<HashMap<String, Remembered>>,
}

/// What a role stood for when it was last asked for. Locked while somebody asks.
type Remembered = Arc<tokio::sync::Mutex<Option<Credentials>>>;

impl RoleProvider {
    /// A provider with these rules.
    ///
    /// # Errors
    ///
    /// A rule that cannot work.
    pub fn new(config: RolesConfig) -> Result<Self, RoleError> {
        config.check().map_err(|(rule, why)| RoleError::Config { rule, why: why.to_owned() })?;
        Ok(Self { config, remembered: Mutex::default() })
    }

    /// The credentials that a role stands for: none where the rules say so.
    ///
    /// # Errors
    ///
    /// Why there are none although the rules have some.
    pub async fn credentials(&self, role_arn: &str) -> Result<Option<Credentials>, RoleError> {
        let provider = self.config.provider(role_arn);
        if matches!(provider, Provider::None) {
            return Ok(None);
        }
        let remembered = self.remembered(role_arn);
        let mut remembered = remembered.lock().await;
        let now = SystemTime::now();
        if let Some(credentials) = &*remembered
            && credentials.expiration > now + MARGIN
        {
            return Ok(Some(credentials.clone()));
        }
        let fetched = match provider {
            Provider::None => return Ok(None),
            Provider::Static(keys) => Ok(keys.at(now)),
            Provider::AssumeRole(config) => sts::assume_role(config, role_arn).await,
        };
        match (fetched, &*remembered) {
            (Ok(credentials), _) => {
                *remembered = Some(credentials.clone());
                Ok(Some(credentials))
            }
            // An STS that is away for a while takes nothing away that is still valid. One that refuses does.
            (Err(RoleError::Unreachable { .. }), Some(credentials)) if credentials.expiration > now => {
                Ok(Some(credentials.clone()))
            }
            (Err(error), _) => {
                *remembered = None;
                Err(error)
            }
        }
    }

    fn remembered(&self, role_arn: &str) -> Remembered {
        let mut all = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REMEMBERED && !all.contains_key(role_arn) {
            all.clear();
        }
        Arc::clone(all.entry(role_arn.to_owned()).or_default())
    }
}
