//! Tokens for endpoints: each allows access to ports of one microVM, or to a shell in it, until it expires.
//!
//! A token is a compact JWE (RFC 7516) with `alg: dir` and `enc: A256GCM` (docs/behaviour.md, "Tokens"): only this host
//! can read or make it. The keys are in the store. A key encrypts tokens for a day, and decrypts them for as long as
//! tokens that were encrypted with it can be valid.
//!
//! The same keys protect what other parts of the daemon hand out ([`sealed`]).
//!
//! * [`jwe`] – the compact serialization
//! * [`keys`] – the keys and their rotation
//! * [`sealed`] – contents for other purposes
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod jwe;
pub mod keys;
pub mod sealed;

use std::sync::{Arc, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::panics::poisoned;
use crate::store::{CommitError, Db};
use keys::KeyRing;

/// The header that contains a token. API responses with a token use the same name.
pub const HEADER: &str = "X-aws-proxy-auth";
/// Greatest difference between clocks that is tolerated.
pub const SKEW: Duration = Duration::from_secs(30);
/// Version of the claims.
const VERSION: u32 = 1;

/// The kind of access that a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Requests to ports of the app.
    Http,
    /// A shell.
    Shell,
}

/// The access that a new token is to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Id of the microVM.
    pub microvm_id: String,
    /// Host name of the microVM's endpoint.
    pub endpoint: String,
    /// Kind of access.
    pub kind: Kind,
    /// Ranges of ports, both ends included; none for a shell.
    pub ports: Vec<(u16, u16)>,
    /// Lifetime in minutes.
    pub minutes: u32,
    /// Who makes the token, for the audit log.
    pub maker: Option<String>,
}

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Version of the claims.
    pub v: u32,
    /// Issuer of the token: this host's Region.
    pub iss: String,
    /// Id of the microVM.
    pub sub: String,
    /// Host name of the microVM's endpoint.
    pub aud: String,
    /// Ranges of ports, both ends included.
    pub ports: Vec<(u16, u16)>,
    /// Kind of access.
    pub kind: Kind,
    /// Time at which the token was made, in seconds since 1970.
    pub iat: u64,
    /// Time from which on the token is no longer valid, in seconds since 1970.
    pub exp: u64,
    /// Who made the token; not in those of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Claims {
    /// Whether the token allows requests to a port.
    #[must_use]
    pub fn allows(&self, port: u16) -> bool {
        self.kind == Kind::Http && self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

/// The reason why a token is not accepted. Callers are not informed about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// The text is not a token of this host's format.
    #[error("it is malformed")]
    Malformed,
    /// The token names a key that this host does not have, or no longer has.
    #[error("its key is unknown")]
    UnknownKey,
    /// The token was not encrypted with the key that it names.
    #[error("it was tampered with")]
    Forged,
    /// The token has expired, or its time of issue is in the future.
    #[error("it has expired")]
    Expired,
}

/// The reason why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The keys could not be read or stored.
    #[error("the keys of tokens: {0}")]
    Store(#[from] CommitError),
    /// The system has no random numbers.
    #[error("the system's random number generator failed")]
    NoRandomness,
    /// There is no key yet.
    #[error("there is no key to encrypt tokens with")]
    NoKey,
    /// The header or the claims could not be written as JSON.
    #[error("the content of the token: {0}")]
    Content(#[from] serde_json::Error),
    /// The content could not be encrypted.
    #[error("the token could not be encrypted")]
    Encryption,
}

/// Makes and opens tokens. Clones are cheap and share the keys.
#[derive(Clone)]
pub struct Tokens {
    clock: Clock,
    issuer: Arc<str>,
    keys: Arc<RwLock<KeyRing>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Tokens {
    /// The tokens of this host. The keys are loaded from the store, and a new one is generated if none is recent
    /// enough.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn open(db: &Db, clock: Clock, issuer: &str) -> Result<Self, TokenError> {
        let keys = keys::load(db, clock.now()).await?;
        Ok(Self { clock, issuer: issuer.into(), keys: Arc::new(RwLock::new(keys)) })
    }

    /// Rotates the keys if that is due, and forgets keys with which no valid token can be encrypted. A new key is
    /// durable before it is used.
    ///
    /// # Errors
    /// [`TokenError`]; the keys remain unchanged in this case.
    pub async fn rotate(&self, db: &Db) -> Result<(), TokenError> {
        let keys = keys::load(db, self.clock.now()).await?;
        *self.keys.write().unwrap_or_else(poisoned) = keys;
        Ok(())
    }

    /// Rotates the keys periodically. Never returns.
    pub async fn keep_rotating(self, db: Db) {
        loop {
            tokio::time::sleep(keys::LOOK).await;
            if let Err(error) = self.rotate(&db).await {
                tracing::error!(%error, "rotating the keys of tokens");
            }
        }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn mint(&self, grant: &Grant) -> Result<String, TokenError> {
        let now = self.seconds();
        let claims = Claims {
            v: VERSION,
            iss: self.issuer.to_string(),
            sub: grant.microvm_id.clone(),
            aud: grant.endpoint.clone(),
            ports: grant.ports.clone(),
            kind: grant.kind,
            iat: now,
            exp: now.saturating_add(u64::from(grant.minutes).saturating_mul(60)),
            by: grant.maker.clone(),
        };
        let claims = serde_json::to_vec(&claims)?;
        let keys = self.keys.read().unwrap_or_else(poisoned);
        let (id, key) = keys.newest().ok_or(TokenError::NoKey)?;
        jwe::seal(id, key, &claims)
    }

    /// The content of a token, if this host has made it and it has not expired. The caller has to check the microVM and
    /// the kind of access.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn open_token(&self, token: &str) -> Result<Claims, InvalidToken> {
        let sealed = jwe::Sealed::parse(token)?;
        let keys = self.keys.read().unwrap_or_else(poisoned);
        let key = keys.get(&sealed.key_id).ok_or(InvalidToken::UnknownKey)?;
        let claims: Claims =
            serde_json::from_slice(&sealed.open(key)?).map_err(|_| InvalidToken::Malformed)?;
        if claims.v != VERSION || claims.iss != *self.issuer {
            return Err(InvalidToken::Malformed);
        }
        if self.is_current(&claims) { Ok(claims) } else { Err(InvalidToken::Expired) }
    }

    /// Whether a token that was opened before has not expired.
    #[must_use]
    pub fn is_current(&self, claims: &Claims) -> bool {
        let now = self.seconds();
        now < claims.exp && claims.iat <= now.saturating_add(SKEW.as_secs())
    }

    /// Number of seconds for which a token that was opened remains valid.
    #[must_use]
    pub fn seconds_left(&self, claims: &Claims) -> u64 {
        claims.exp.saturating_sub(self.seconds())
    }

    fn seconds(&self) -> u64 {
        self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::{MemoryStore, Store};

    fn grant(minutes: u32) -> Grant {
        Grant {
            microvm_id: "microvm-1".into(),
            endpoint: "e.example".into(),
            kind: Kind::Http,
            ports: vec![(8080, 8080), (9000, 9100)],
            minutes,
            maker: None,
        }
    }

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    async fn tokens() -> (Tokens, Db) {
        let db = Db::direct(Arc::new(MemoryStore::default()) as Arc<dyn Store>);
        (Tokens::open(&db, Clock::simulated(start()), "us-east-1").await.unwrap(), db)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_says_what_it_was_made_for_until_its_time_is_over() {
        let (tokens, _db) = tokens().await;
        let token = tokens.mint(&grant(60)).unwrap();
        assert_eq!(token.split('.').count(), 5);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
        let claims = tokens.open_token(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.aud.as_str()), ("microvm-1", "e.example"));
        assert!(claims.allows(8080) && claims.allows(9100) && !claims.allows(8081) && !claims.allows(9101));
        tokio::time::sleep(Duration::from_secs(3599)).await;
        tokens.open_token(&token).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(tokens.open_token(&token), Err(InvalidToken::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_names_its_maker_and_those_of_earlier_releases_do_not() {
        let (tokens, _db) = tokens().await;
        let token = tokens.mint(&Grant { maker: Some("HKone".into()), ..grant(60) }).unwrap();
        assert_eq!(tokens.open_token(&token).unwrap().by.as_deref(), Some("HKone"));
        let earlier =
            r#"{"v":1,"iss":"us-east-1","sub":"m","aud":"e","ports":[],"kind":"shell","iat":1,"exp":2}"#;
        assert_eq!(serde_json::from_str::<Claims>(earlier).unwrap().by, None);
        let now =
            serde_json::to_string(&tokens.open_token(&tokens.mint(&grant(60)).unwrap()).unwrap()).unwrap();
        assert!(!now.contains("\"by\""), "{now}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_is_accepted() {
        let (tokens, _db) = tokens().await;
        let token = tokens.mint(&grant(60)).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(tokens.open_token(&changed).is_err(), "{index}");
        }
        let (other, _db) = self::tokens().await;
        assert_eq!(other.open_token(&token), Err(InvalidToken::UnknownKey));
        for wrong in ["", ".", "....", "a.b.c.d.e", "no token", &parts[..4].join("."), &format!("{token}.")] {
            assert_eq!(tokens.open_token(wrong), Err(InvalidToken::Malformed), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_change_and_old_ones_open_for_as_long_as_their_tokens_live() {
        let (tokens, db) = tokens().await;
        let first = tokens.mint(&grant(60)).unwrap();
        tokio::time::sleep(keys::LIFE - Duration::from_secs(60)).await;
        let last = tokens.mint(&grant(60)).unwrap();
        assert_eq!(first.split('.').next(), last.split('.').next(), "the same key");
        tokio::time::sleep(Duration::from_secs(120)).await;
        tokens.rotate(&db).await.unwrap();
        let next = tokens.mint(&grant(60)).unwrap();
        assert_ne!(last.split('.').next(), next.split('.').next(), "another key");
        tokens.open_token(&last).unwrap();
        // A daemon that is restarted has the same keys.
        let again = Tokens::open(&db, tokens.clock, "us-east-1").await.unwrap();
        again.open_token(&last).unwrap();
        again.open_token(&next).unwrap();
        tokio::time::sleep(keys::LONGEST_LIFE + Duration::from_secs(900)).await;
        tokens.rotate(&db).await.unwrap();
        assert_eq!(tokens.open_token(&last), Err(InvalidToken::UnknownKey), "its key is gone");
    }
}
