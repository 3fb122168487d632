//! The keys of tokens, and their rotation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jwe::Key;
use super::{SKEW, TokenError};
use crate::records::TOKEN_KEYS;
use crate::store::{Batch, CommitError, Db, Table};

/// How long a key is used to encrypt tokens.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Greatest lifetime of what is encrypted: that of sessions ([`crate::access::sessions`]), which live longer than tokens of
/// endpoints. A key is kept for this time after it was last used to encrypt.
pub const LONGEST_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Interval of checks whether a rotation is due.
pub const LOOK: Duration = Duration::from_secs(600);

/// A key with its id.
#[derive(Clone, Serialize, Deserialize)]
struct Named {
    id: String,
    key: Key,
    /// Time from which on the key is used, in seconds since 1970.
    since: u64,
}

/// All keys, the newest last.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct KeyRing {
    keys: Vec<Named>,
}

impl KeyRing {
    /// The key with which tokens are encrypted.
    #[must_use]
    pub fn newest(&self) -> Option<(&str, &Key)> {
        self.keys.last().map(|named| (named.id.as_str(), &named.key))
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|named| named.id == id).map(|named| &named.key)
    }

    /// The keys after rotation at the time `now`; `None` if nothing changes.
    fn next(&self, now: u64) -> Result<Option<Self>, TokenError> {
        let kept = LIFE.saturating_add(LOOK).saturating_add(LONGEST_LIFE).saturating_add(SKEW);
        let mut keys: Vec<Named> = self
            .keys
            .iter()
            .filter(|named| now < named.since.saturating_add(kept.as_secs()))
            .cloned()
            .collect();
        if keys.last().is_none_or(|newest| now >= newest.since.saturating_add(LIFE.as_secs())) {
            keys.push(new_key(now)?);
        } else if keys.len() == self.keys.len() {
            return Ok(None);
        }
        Ok(Some(Self { keys }))
    }
}

fn new_key(since: u64) -> Result<Named, TokenError> {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| TokenError::NoRandomness)?;
    Ok(Named { id: Uuid::new_v4().to_string(), key, since })
}

/// Loads the keys from the store, and rotates them if that is due at the time `now`.
pub(super) async fn load(db: &Db, now: SystemTime) -> Result<KeyRing, TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    loop {
        let stored = db.get_bytes(Table::Meta, TOKEN_KEYS).map_err(CommitError::Store)?;
        let ring = match &stored {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|error| CommitError::Store(db.damaged(Table::Meta, TOKEN_KEYS, &error)))?,
            None => KeyRing::default(),
        };
        let Some(next) = ring.next(now)? else { return Ok(ring) };
        let bytes = serde_json::to_vec(&next)?;
        let batch = match stored {
            Some(stored) => Batch::new().expect_value(Table::Meta, TOKEN_KEYS.to_vec(), stored),
            None => Batch::new().expect_absent(Table::Meta, TOKEN_KEYS.to_vec()),
        };
        match db.commit(batch.put(Table::Meta, TOKEN_KEYS.to_vec(), bytes)).await {
            Ok(()) => return Ok(next),
            Err(CommitError::Conflict) => {} // the keys were changed meanwhile
            Err(error) => return Err(error.into()),
        }
    }
}
