//! What is known to be damaged, for launches: one look-up in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use hearth_model::build::ImageBuild;

use crate::panics::poisoned;

/// Builds whose files are damaged. Clones are cheap and share the same knowledge.
#[derive(Debug, Clone, Default)]
pub struct Damaged {
    builds: Arc<Mutex<HashMap<ImageBuild, String>>>,
}

impl Damaged {
    /// What is damaged of a build's files, by file and place; none if nothing is known to be.
    #[must_use]
    pub fn of(&self, build: &ImageBuild) -> Option<String> {
        self.builds.lock().unwrap_or_else(poisoned).get(build).cloned()
    }

    /// Sets what is damaged of a build's files.
    pub(crate) fn set(&self, build: &ImageBuild, damage: Option<String>) {
        let mut builds = self.builds.lock().unwrap_or_else(poisoned);
        match damage {
            Some(damage) => builds.insert(build.clone(), damage),
            None => builds.remove(build),
        };
    }
}
