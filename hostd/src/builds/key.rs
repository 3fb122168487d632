//! The name of an image, and the locks that serialize changes of one.

use crate::turns::{Limits, Turn, Turns};

/// Identifies an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) account: String,
    pub(super) name: String,
}

/// Serializes changes: a task that changes an image holds the image's lock, for which no other image waits.
#[derive(Debug)]
pub(super) struct Locks(Turns);

impl Default for Locks {
    fn default() -> Self {
        Self(Turns::new(Limits::ONE_EACH))
    }
}

impl Locks {
    /// Waits until no other task changes the image.
    pub(super) async fn lock(&self, key: &Key) -> Turn {
        self.0.queue(&format!("{}/{}", key.account, key.name)).await
    }
}
