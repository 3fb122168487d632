//! The keys, and how they follow one another.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jwe::Key;
use super::{SKEW, TokenError};
use crate::store::{Batch, CommitError, Db, StoreError, Table};

/// How long tokens are sealed with a key.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a token lives at most. A key is kept for so long after it was last sealed with.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// How often the keys are looked at.
pub const LOOK: Duration = Duration::from_secs(600);
/// Where the keys are, in the table `meta`.
const PLACE: &[u8] = b"token-keys";

/// A key with its name.
#[derive(Clone, Serialize, Deserialize)]
struct Named {
    id: String,
    key: Key,
    /// Seconds since 1970.
    since: u64,
}

/// All keys, the newest last.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct KeyRing {
    keys: Vec<Named>,
}

impl KeyRing {
    /// What tokens are sealed with.
    #[must_use]
    pub fn newest(&self) -> Option<(&str, &Key)> {
        self.keys.last().map(|named| (named.id.as_str(), &named.key))
    }

    /// The key of that name.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|named| named.id == id).map(|named| &named.key)
    }

    /// The keys that there are to be at `now`; none where these are.
    fn next(&self, now: u64) -> Result<Option<Self>, TokenError> {
        let kept = LIFE.saturating_add(LOOK).saturating_add(TOKEN_LIFE).saturating_add(SKEW);
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
    SystemRandom::new().fill(&mut key).map_err(|_| TokenError::Random)?;
    Ok(Named { id: Uuid::new_v4().to_string(), key, since })
}

/// The keys in the store, brought up to date at `now`.
pub(super) async fn load(db: &Db, now: SystemTime) -> Result<KeyRing, TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    loop {
        let stored = db.get_bytes(Table::Meta, PLACE).map_err(CommitError::Store)?;
        let ring = match &stored {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| damaged(&error))?,
            None => KeyRing::default(),
        };
        let Some(next) = ring.next(now)? else { return Ok(ring) };
        let bytes = serde_json::to_vec(&next).map_err(|error| damaged(&error))?;
        let batch = match stored {
            Some(stored) => Batch::new().expect_value(Table::Meta, PLACE.to_vec(), stored),
            None => Batch::new().expect_absent(Table::Meta, PLACE.to_vec()),
        };
        match db.commit(batch.put(Table::Meta, PLACE.to_vec(), bytes)).await {
            Ok(()) => return Ok(next),
            Err(CommitError::Conflict) => {} // somebody else was quicker
            Err(error) => return Err(error.into()),
        }
    }
}

fn damaged(error: &serde_json::Error) -> CommitError {
    let what = "reading the keys of tokens from";
    CommitError::Store(StoreError::Failed { what, why: error.to_string() })
}
