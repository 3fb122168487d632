//! Contents that this host hands out and gets back: sealed like tokens of endpoints, each purpose with keys of its own.
//!
//! A sealed content has a secret, which follows from the content and the key and is stored nowhere: whoever gets the
//! content sealed gets the secret once, and the host computes it again when it opens the content.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_host::roles::Secret;
use ring::hmac;
use zeroize::Zeroizing;

use super::jwe::{self, Key};
use super::{InvalidToken, TokenError, Tokens};
use crate::panics::poisoned;

/// Bytes of a secret. Its text is base64: 40 characters, like the secret of an access key of AWS.
const SECRET_BYTES: usize = 30;

/// A content, its seal and its secret.
#[derive(Debug)]
pub struct Sealed {
    /// The sealed content: a token that only this host can read.
    pub token: Secret,
    /// The secret of the content.
    pub secret: Secret,
}

impl Tokens {
    /// Seals a content for a purpose.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn seal(&self, purpose: &str, content: &[u8]) -> Result<Sealed, TokenError> {
        let keys = self.keys.read().unwrap_or_else(poisoned);
        let (id, key) = keys.newest().ok_or(TokenError::NoKey)?;
        let token = jwe::seal(id, &derived(key, purpose, "seal"), content)?;
        Ok(Sealed { token: Secret::new(token), secret: secret(key, purpose, content) })
    }

    /// The content that was sealed for a purpose, and its secret. Whether it has expired is not the seal's to know.
    ///
    /// # Errors
    /// [`InvalidToken`]
    pub fn unseal(&self, purpose: &str, token: &str) -> Result<(Vec<u8>, Secret), InvalidToken> {
        let sealed = jwe::Sealed::parse(token)?;
        let keys = self.keys.read().unwrap_or_else(poisoned);
        let key = keys.get(&sealed.key_id).ok_or(InvalidToken::UnknownKey)?;
        let content = sealed.open(&derived(key, purpose, "seal"))?;
        let secret = secret(key, purpose, &content);
        Ok((content, secret))
    }
}

/// A key that follows from a key of the ring, for one use of one purpose.
fn derived(key: &Key, purpose: &str, usage: &str) -> Zeroizing<Key> {
    let tag =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), format!("hearth {purpose} {usage}").as_bytes());
    let mut derived = Zeroizing::new([0; 32]);
    derived.copy_from_slice(tag.as_ref());
    derived
}

fn secret(key: &Key, purpose: &str, content: &[u8]) -> Secret {
    let key = derived(key, purpose, "secret");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), content);
    Secret::new(STANDARD.encode(tag.as_ref().get(..SECRET_BYTES).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::clock::Clock;
    use crate::store::{Db, MemoryStore, Store};
    use crate::tokens::{Grant, Kind};

    async fn tokens() -> (Tokens, Db) {
        let db = Db::direct(Arc::new(MemoryStore::default()) as Arc<dyn Store>);
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        (Tokens::open(&db, clock, "us-east-1").await.unwrap(), db)
    }

    #[tokio::test(start_paused = true)]
    async fn a_content_and_its_secret_come_back_also_after_a_restart() {
        let (tokens, db) = tokens().await;
        let sealed = tokens.seal("session", b"content").unwrap();
        assert_eq!(sealed.secret.expose().len(), 40);
        let again = Tokens::open(&db, tokens.clock, "us-east-1").await.unwrap();
        let opened = again.unseal("session", sealed.token.expose()).unwrap();
        assert_eq!(opened, (b"content".to_vec(), sealed.secret.clone()));
        assert!(!format!("{sealed:?}").contains(sealed.secret.expose()));
        let other = tokens.seal("session", b"Content").unwrap();
        assert_ne!(other.secret, sealed.secret);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_was_sealed_for_another_purpose_is_accepted() {
        let (tokens, _db) = tokens().await;
        let sealed = tokens.seal("session", b"content").unwrap();
        assert_eq!(tokens.unseal("other", sealed.token.expose()).unwrap_err(), InvalidToken::Forged);
        assert_eq!(tokens.open_token(sealed.token.expose()), Err(InvalidToken::Forged));
        let grant = Grant {
            microvm_id: "m".into(),
            endpoint: "e".into(),
            kind: Kind::Shell,
            ports: Vec::new(),
            minutes: 1,
            maker: None,
        };
        let endpoint = tokens.mint(&grant).unwrap();
        assert_eq!(tokens.unseal("session", &endpoint).unwrap_err(), InvalidToken::Forged);
        let (other, _db) = self::tokens().await;
        assert_eq!(other.unseal("session", sealed.token.expose()).unwrap_err(), InvalidToken::UnknownKey);
        assert_ne!(tokens.seal("other", b"content").unwrap().secret, sealed.secret);
    }
}
