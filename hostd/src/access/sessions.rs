//! Sessions of roles: temporary credentials that this host issues (`sts:AssumeRole`).
//!
//! A session is stored nowhere. Its token contains what it is, sealed by this host, and the secret follows from the
//! content ([`crate::tokens::sealed`]), so that sessions outlive a restart and making one writes nothing.
//!
//! What a session may do is decided anew at each call: what both the policies of the access key that made it and those of
//! the role allow at that time. A session ends with its expiry, and as soon as the configuration no longer has the access
//! key, has it in another account, or no longer lets it assume the role.
//!
//! A session stays in the account of its maker, also where a rule (`[roles.rules]`) lets that account use a role of another
//! one: the policies of the maker, which limit the session, are about the maker's account.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_host::roles::{RoleProvider, Secret};
use hearth_model::role::RoleUse;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::policy::Policy;
use super::sigv4::SignatureError;
use super::{PASS_ROLE, hex};
use crate::tokens::{InvalidToken, TokenError, Tokens};

/// What the keys of tokens seal sessions for.
const PURPOSE: &str = "session";
/// Version of the content of tokens.
const VERSION: u32 = 1;
/// Characters of an id behind its prefix.
const ID: usize = 16;

/// The role of a caller that has assumed one.
#[derive(Debug, Clone)]
pub struct AssumedRole {
    /// ARN of the role.
    pub role_arn: String,
    /// Name of the session, which its maker has chosen.
    pub session_name: String,
    /// Id of the session's temporary access key.
    pub access_key_id: String,
    /// Id of the access key that made the session.
    pub maker: String,
    /// What the role's policies allow. The caller's own policies are those of the maker.
    pub policies: Arc<[Policy]>,
}

impl AssumedRole {
    /// ARN of the session of a role in an account.
    #[must_use]
    pub fn arn(account: &str, role_arn: &str, session_name: &str) -> String {
        let name = role_arn.rsplit('/').next().unwrap_or_default();
        format!("arn:aws:sts::{account}:assumed-role/{name}/{session_name}")
    }

    /// The unique id of a session: that of its role, and its name.
    #[must_use]
    pub fn id(role_arn: &str, session_name: &str) -> String {
        let hash = hex(digest(&SHA256, role_arn.as_bytes()).as_ref()).to_uppercase();
        format!("AROA{}:{session_name}", hash.get(..ID).unwrap_or_default())
    }
}

/// Why a role cannot be assumed: the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAssumable {
    /// Only access keys make sessions.
    #[error("only an access key of the configuration can assume a role")]
    NoAccessKey,
    /// A session cannot make another one.
    #[error("a session of a role cannot assume another role")]
    Chained,
    /// No policy of the caller allows it to give the role.
    #[error("no identity-based policy allows the iam:{PASS_ROLE} action for this role with all images")]
    NotPassed,
    /// The role is not for the account of the caller.
    #[error("the role is not for the account of the caller ([roles.rules])")]
    NotForAccount,
    /// The role has no policies.
    #[error("the role has no policies of its own ([access.roles])")]
    NoPolicies,
}

/// The content of a session token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    v: u32,
    /// Region of the host.
    iss: String,
    access_key_id: String,
    account: String,
    /// Id of the access key that made the session.
    maker: String,
    role_arn: String,
    session_name: String,
    /// Time from which on the session is no longer valid, in seconds since 1970.
    exp: u64,
}

/// Temporary credentials.
#[derive(Debug)]
pub struct TemporaryCredentials {
    /// Id of the temporary access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret: Secret,
    /// The session token, which every request has to have.
    pub token: Secret,
    /// End of their validity.
    pub expiration: SystemTime,
}

/// A session token that was opened: this host has made it, and it has not expired.
pub(super) struct Opened {
    pub(super) access_key_id: String,
    pub(super) account: String,
    pub(super) maker: String,
    pub(super) role_arn: String,
    pub(super) session_name: String,
    pub(super) secret: Secret,
}

/// Makes and opens sessions. Clones are cheap and share all state.
#[derive(Clone)]
pub struct Sessions {
    region: Arc<str>,
    tokens: Tokens,
    /// Decides for which accounts roles are.
    accounts: Arc<RoleProvider>,
    policies: Arc<BTreeMap<String, Arc<[Policy]>>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("roles", &self.policies.keys()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// The sessions of a host. `policies` has the roles that can be assumed, by ARN.
    #[must_use]
    pub fn new(
        region: &str,
        tokens: Tokens,
        accounts: Arc<RoleProvider>,
        policies: BTreeMap<String, Arc<[Policy]>>,
    ) -> Self {
        Self { region: region.into(), tokens, accounts, policies: Arc::new(policies) }
    }

    /// The policies of a role, if an access key of the account with these policies may assume it.
    ///
    /// # Errors
    /// [`NotAssumable`]
    pub fn assumable(
        &self,
        account: &str,
        policies: &[Policy],
        role_arn: &str,
    ) -> Result<Arc<[Policy]>, NotAssumable> {
        if !policies.iter().any(|policy| policy.allows_role(None, role_arn)) {
            return Err(NotAssumable::NotPassed);
        }
        if !self.accounts.may_use(&RoleUse::new(account, role_arn)) {
            return Err(NotAssumable::NotForAccount);
        }
        self.policies.get(role_arn).cloned().ok_or(NotAssumable::NoPolicies)
    }

    /// Makes a session of a role that is [assumable](Self::assumable). The expiration is in whole seconds.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn make(
        &self,
        account: &str,
        maker: &str,
        role_arn: &str,
        session_name: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<TemporaryCredentials, TokenError> {
        let id = Uuid::new_v4().simple().to_string().to_uppercase();
        let access_key_id = format!("ASIA{}", id.get(..ID).unwrap_or_default());
        let exp = seconds(now).saturating_add(lifetime.as_secs());
        let content = Content {
            v: VERSION,
            iss: self.region.to_string(),
            access_key_id: access_key_id.clone(),
            account: account.to_owned(),
            maker: maker.to_owned(),
            role_arn: role_arn.to_owned(),
            session_name: session_name.to_owned(),
            exp,
        };
        let content = serde_json::to_vec(&content)?;
        let sealed = self.tokens.seal(PURPOSE, &content)?;
        let expiration = UNIX_EPOCH.checked_add(Duration::from_secs(exp)).unwrap_or(now);
        Ok(TemporaryCredentials { access_key_id, secret: sealed.secret, token: sealed.token, expiration })
    }

    /// Opens a session token.
    ///
    /// # Errors
    /// [`SignatureError::ExpiredToken`], [`SignatureError::UnknownKey`]
    pub(super) fn open(&self, token: &str, now: SystemTime) -> Result<Opened, SignatureError> {
        let opened = self.tokens.unseal(PURPOSE, token);
        let (content, secret) = opened.map_err(|error| match error {
            InvalidToken::Expired => SignatureError::ExpiredToken,
            InvalidToken::Malformed | InvalidToken::UnknownKey | InvalidToken::Forged => {
                SignatureError::UnknownKey
            }
        })?;
        let content: Content = serde_json::from_slice(&content).map_err(|_| SignatureError::UnknownKey)?;
        if content.v != VERSION || content.iss != *self.region {
            return Err(SignatureError::UnknownKey);
        }
        if seconds(now) >= content.exp {
            return Err(SignatureError::ExpiredToken);
        }
        let Content { access_key_id, account, maker, role_arn, session_name, .. } = content;
        Ok(Opened { access_key_id, account, maker, role_arn, session_name, secret })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
