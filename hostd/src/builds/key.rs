//! The name of an image, and the locks that serialize changes of one.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tokio::sync::{Mutex, MutexGuard};

/// Identifies an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) account: String,
    pub(super) name: String,
}

/// Serializes changes: a task that changes an image holds the image's lock. Some images share a lock.
#[derive(Debug, Default)]
pub(super) struct Locks([Mutex<()>; 32]);

impl Locks {
    /// Waits until no other task changes the image.
    pub(super) async fn lock(&self, key: &Key) -> Option<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let number = usize::try_from(hasher.finish() % 32).unwrap_or_default();
        match self.0.get(number) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}
