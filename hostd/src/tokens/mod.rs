//! Tokens for endpoints: who may reach which ports of one microVM, and until when.
//!
//! A token is a compact JWE (RFC 7516) with `alg: dir` and `enc: A256GCM` (docs/behaviour.md, "Tokens"): only this host can read
//! it, and only this host can have made it. The keys are in the store; one is used for a day, and opened with for as long as tokens
//! that were sealed with it can be valid.
//!
//! * [`jwe`] – the compact serialization
//! * [`keys`] – the keys, and how they follow one another
// What clients send is reckoned with here: nothing may overflow, and no index be out of range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod jwe;
pub mod keys;

use std::sync::{Arc, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::panics::poisoned;
use crate::store::{CommitError, Db};
use keys::KeyRing;

/// The header that carries a token, and its name in answers.
pub const HEADER: &str = "X-aws-proxy-auth";
/// What clocks may differ by.
pub const SKEW: Duration = Duration::from_secs(30);
/// Version of the claims.
const VERSION: u32 = 1;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Requests to ports of the app.
    Http,
    /// A shell.
    Shell,
}

/// What a token shall allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of which microVM.
    pub microvm_id: String,
    /// Host name of its endpoint.
    pub endpoint: String,
    /// For what.
    pub kind: Kind,
    /// Ranges of ports, both ends included; none for a shell.
    pub ports: Vec<(u16, u16)>,
    /// For how many minutes.
    pub minutes: u32,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Version of the claims.
    pub v: u32,
    /// Who has made it: this host's Region.
    pub iss: String,
    /// The microVM.
    pub sub: String,
    /// Host name of its endpoint.
    pub aud: String,
    /// Ranges of ports, both ends included.
    pub ports: Vec<(u16, u16)>,
    /// For what.
    pub kind: Kind,
    /// When it was made: seconds since 1970.
    pub iat: u64,
    /// From when on it is no longer valid: seconds since 1970.
    pub exp: u64,
}

impl Claims {
    /// Whether it allows requests to a port.
    #[must_use]
    pub fn allows(&self, port: u16) -> bool {
        self.kind == Kind::Http && self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

/// Why a token is not accepted. Callers are told no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is not a token of this kind at all.
    #[error("it is malformed")]
    Malformed,
    /// It was sealed with a key that this host does not have, or no longer.
    #[error("its key is unknown")]
    UnknownKey,
    /// It was not sealed with the key that it names.
    #[error("it was tampered with")]
    Forged,
    /// Its time is over, or has not begun.
    #[error("it has expired")]
    Expired,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The keys could not be read or stored.
    #[error("the keys of tokens: {0}")]
    Store(#[from] CommitError),
    /// The system has no randomness.
    #[error("the system's random number generator failed")]
    Random,
}

/// Makes and opens tokens. Copies are cheap and reach the same keys.
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
    /// The tokens of this host: with the keys of the store, and a new one where there is none that is young enough.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn open(db: &Db, clock: Clock, issuer: &str) -> Result<Self, TokenError> {
        let keys = keys::load(db, clock.now()).await?;
        Ok(Self { clock, issuer: issuer.into(), keys: Arc::new(RwLock::new(keys)) })
    }

    /// Goes on to a new key where it is time, and forgets those that nothing valid was sealed with. The new key is durable
    /// before it is used.
    ///
    /// # Errors
    /// [`TokenError`]; the keys stay as they are.
    pub async fn rotate(&self, db: &Db) -> Result<(), TokenError> {
        let keys = keys::load(db, self.clock.now()).await?;
        *self.keys.write().unwrap_or_else(poisoned) = keys;
        Ok(())
    }

    /// Rotates the keys, again and again.
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
    /// [`TokenError::Random`].
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
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| TokenError::Random)?; // numbers and strings: never fails
        let keys = self.keys.read().unwrap_or_else(poisoned);
        let (id, key) = keys.newest().ok_or(TokenError::Random)?;
        jwe::seal(id, key, &claims).ok_or(TokenError::Random)
    }

    /// What a token says, if this host has made it and its time is not over. For whom and for what it is, the caller compares.
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

    /// Whether the time of a token that was opened is not over.
    #[must_use]
    pub fn is_current(&self, claims: &Claims) -> bool {
        let now = self.seconds();
        now < claims.exp && claims.iat <= now.saturating_add(SKEW.as_secs())
    }

    /// For how many seconds what was opened is still valid.
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
        // A daemon that starts anew has the same keys.
        let again = Tokens::open(&db, tokens.clock, "us-east-1").await.unwrap();
        again.open_token(&last).unwrap();
        again.open_token(&next).unwrap();
        tokio::time::sleep(Duration::from_secs(4500)).await;
        tokens.rotate(&db).await.unwrap();
        assert_eq!(tokens.open_token(&last), Err(InvalidToken::UnknownKey), "its key is gone");
    }
}
