//! What an ACME authority asks for: texts at `_acme-challenge.DOMAIN`, while it looks at them.

use std::sync::{Arc, RwLock};

use crate::panics::poisoned;

/// The texts that are there now. Copies are the same.
#[derive(Debug, Clone, Default)]
pub struct Challenges(Arc<RwLock<Vec<String>>>);

impl Challenges {
    /// Puts these there, in the place of others, until what is returned is dropped.
    #[must_use]
    pub fn post(&self, values: Vec<String>) -> Posted {
        self.set(values);
        Posted(self.clone())
    }

    /// What is there.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(poisoned).clone()
    }

    fn set(&self, values: Vec<String>) {
        *self.0.write().unwrap_or_else(poisoned) = values;
    }
}

/// Texts are there while this is.
#[derive(Debug)]
pub struct Posted(Challenges);

impl Drop for Posted {
    fn drop(&mut self) {
        self.0.set(Vec::new());
    }
}
