//! Maps role ARNs to credentials.
//!
//! Users name roles (`buildRoleArn`, `executionRoleArn`), and an operator configures what these stand for: keys, credentials of an
//! STS, or nothing. A role is for the account in its ARN, or for those that its rule lists ([`Rule::accounts`]): every request
//! contains the account that it is for ([`RoleUse`]), and other accounts are refused before anything else happens, whatever the role
//! stands for. [`RoleProvider`] answers from its cache until five minutes before credentials expire, and makes one request at a time
//! for a role, however many callers wait.
//!
//! * [`config`] – the operator's rules; [`rule`] – one of them
//! * [`credentials`] – credentials, and strings that are not printed
//! * [`cache`] – the cache, by account and ARN
//! * [`sts`] – requests to an STS

mod cache;
mod config;
mod credentials;
mod provider;
mod rule;
mod sts;

use std::time::{Duration, SystemTime};

pub use config::RolesConfig;
pub use credentials::{Credentials, Secret, StaticKeys, VALIDITY};
pub use provider::{AssumeRole, Provider, Source};
pub use rule::Rule;

use cache::Cache;
use hearth_model::role::RoleUse;

/// How long handed-out credentials are valid at least, unless the STS is unreachable and older ones are still valid.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// Why there are no credentials for a role that should have some.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The role is not for this account. The message does not reveal whether there is a rule, and for which accounts.
    #[error(
        "the account {account} may not use the role {role_arn}: name a role of this account, or have the operator list the account in `accounts` of the role's rule ([roles.rules])"
    )]
    NotForAccount {
        /// The account that requested the role.
        account: String,
        /// The requested role.
        role_arn: String,
    },
    /// The STS refused.
    #[error("the role {role_arn} cannot be assumed: {code}: {message}")]
    Refused {
        /// The requested role.
        role_arn: String,
        /// The STS's code, like `AccessDenied`.
        code: String,
        /// The STS's message.
        message: String,
    },
    /// The STS cannot be reached, or has failed.
    #[error("the STS at {endpoint} cannot be asked: {why}")]
    Unreachable {
        /// URL of the STS.
        endpoint: String,
        /// Description of the error.
        why: String,
    },
    /// The STS's response cannot be parsed.
    #[error("the answer of the STS at {endpoint} is malformed: {why}")]
    InvalidResponse {
        /// URL of the STS.
        endpoint: String,
        /// What is wrong with the response.
        why: String,
    },
    /// A rule uses keys of the environment, which has none.
    #[error(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and a rule asks with the environment's credentials"
    )]
    NoEnvironment,
    /// A rule is invalid.
    #[error("the rule for roles \"{rule}\": {why}")]
    Config {
        /// Pattern of the rule, or URL of its STS.
        rule: String,
        /// What is wrong with it.
        why: String,
    },
}

impl RoleError {
    /// Whether this is a refusal, so that credentials which were given before have to be revoked. Other errors may be temporary.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotForAccount { .. } | Self::Refused { .. })
    }
}

/// Provides the credentials of roles.
#[derive(Debug)]
pub struct RoleProvider {
    config: RolesConfig,
    cache: Cache,
}

impl RoleProvider {
    /// A provider with these rules.
    ///
    /// # Errors
    ///
    /// A rule is invalid.
    pub fn new(config: RolesConfig) -> Result<Self, RoleError> {
        config.check().map_err(|(rule, why)| RoleError::Config { rule, why })?;
        Ok(Self { config, cache: Cache::default() })
    }

    /// Whether an account may use a role, whatever the role stands for.
    #[must_use]
    pub fn may_use(&self, role: &RoleUse) -> bool {
        self.config.provider(role).is_some()
    }

    /// The credentials of a role; none if the rules map it to none.
    ///
    /// # Errors
    ///
    /// [`RoleError::NotForAccount`] if the account may not use the role, whatever it stands for; otherwise why there are no
    /// credentials although the rules have some.
    pub async fn credentials(&self, role: &RoleUse) -> Result<Option<Credentials>, RoleError> {
        let provider = self.config.provider(role).ok_or_else(|| RoleError::NotForAccount {
            account: role.account.clone(),
            role_arn: role.role_arn.clone(),
        })?;
        if matches!(provider, Provider::None) {
            return Ok(None);
        }
        let cached = self.cache.of(role);
        let mut cached = cached.lock().await;
        let now = SystemTime::now();
        if let Some(credentials) = &*cached
            && credentials.expiration > now + MARGIN
        {
            return Ok(Some(credentials.clone()));
        }
        let fetched = match provider {
            Provider::None => return Ok(None),
            Provider::Static(keys) => Ok(keys.at(now)),
            Provider::AssumeRole(config) => sts::assume_role(config, &role.role_arn).await,
        };
        match (fetched, &*cached) {
            (Ok(credentials), _) => {
                *cached = Some(credentials.clone());
                Ok(Some(credentials))
            }
            // While an STS is unreachable, credentials stay usable as long as they are valid. A refusal revokes them.
            (Err(RoleError::Unreachable { .. }), Some(credentials)) if credentials.expiration > now => {
                Ok(Some(credentials.clone()))
            }
            (Err(error), _) => {
                *cached = None;
                Err(error)
            }
        }
    }
}
