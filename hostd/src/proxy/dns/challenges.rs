//! Values that an ACME authority queries: TXT records at `_acme-challenge.DOMAIN`, while a challenge is pending.

use std::sync::{Arc, RwLock};

use crate::panics::poisoned;

/// The values that are published now. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Challenges(Arc<RwLock<Vec<String>>>);

impl Challenges {
    /// Publishes these values, in place of others, until the returned value is dropped.
    #[must_use]
    pub fn post(&self, values: Vec<String>) -> Posted {
        self.set(values);
        Posted(self.clone())
    }

    /// The published values.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(poisoned).clone()
    }

    fn set(&self, values: Vec<String>) {
        *self.0.write().unwrap_or_else(poisoned) = values;
    }
}

/// Keeps values published until it is dropped.
#[derive(Debug)]
pub struct Posted(Challenges);

impl Drop for Posted {
    fn drop(&mut self) {
        self.0.set(Vec::new());
    }
}
