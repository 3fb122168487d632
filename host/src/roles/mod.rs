//! Which credentials a role ARN stands for.
//!
//! Users name roles (`buildRoleArn`, `executionRoleArn`), and an operator says what these stand for: keys, credentials of an
//! STS, or nothing. A role is for the account in its ARN, or for those that its rule lists ([`Rule::accounts`]): every request
//! says for which account it is ([`RoleUse`]), and others are refused before anything else happens, whatever the role stands
//! for. [`RoleProvider`] answers from its memory until five minutes before credentials expire, and asks once however many ask
//! it at a time.
//!
//! * [`arn`] – a role and the account that asks for it
//! * [`config`] – the operator's rules; [`rule`] – one of them
//! * [`credentials`] – credentials, and strings that are not printed
//! * [`memory`] – what is remembered, by account and ARN
//! * [`sts`] – asking an STS

mod arn;
mod config;
mod credentials;
mod memory;
mod provider;
mod rule;
mod sts;

use std::time::{Duration, SystemTime};

pub use arn::{RoleUse, account_of, is_account};
pub use config::RolesConfig;
pub use credentials::{Credentials, Secret, StaticKeys, VALIDITY};
pub use provider::{AssumeRole, Provider, Source};
pub use rule::Rule;

use memory::Memory;

/// How long credentials are at least valid when they are handed out, unless there are none that are.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// Why there are no credentials for a role that should have some.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The role is not for this account. It does not tell whether there is a rule, and for whom.
    #[error(
        "the account {account} may not use the role {role_arn}: name a role of this account, or have the operator list the account in `accounts` of the role's rule ([roles.rules])"
    )]
    NotForAccount {
        /// The account that asked.
        account: String,
        /// The role that it asked for.
        role_arn: String,
    },
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

impl RoleError {
    /// Whether somebody has said no, so that credentials which were given before are to be taken away. All else may pass.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NotForAccount { .. } | Self::Refused { .. })
    }
}

/// Says which credentials roles stand for.
#[derive(Debug)]
pub struct RoleProvider {
    config: RolesConfig,
    memory: Memory,
}

impl RoleProvider {
    /// A provider with these rules.
    ///
    /// # Errors
    ///
    /// A rule that cannot work.
    pub fn new(config: RolesConfig) -> Result<Self, RoleError> {
        config.check().map_err(|(rule, why)| RoleError::Config { rule, why })?;
        Ok(Self { config, memory: Memory::default() })
    }

    /// The credentials that a role stands for: none where the rules say so.
    ///
    /// # Errors
    ///
    /// [`RoleError::NotForAccount`] where the account may not use the role, whatever that stands for; else why there are no
    /// credentials although the rules have some.
    pub async fn credentials(&self, role: &RoleUse) -> Result<Option<Credentials>, RoleError> {
        let provider = self.config.provider(role).ok_or_else(|| RoleError::NotForAccount {
            account: role.account.clone(),
            role_arn: role.role_arn.clone(),
        })?;
        if matches!(provider, Provider::None) {
            return Ok(None);
        }
        let remembered = self.memory.of(role);
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
            Provider::AssumeRole(config) => sts::assume_role(config, &role.role_arn).await,
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
}
