//! A setting that cannot work, as the checks of all sections of the configuration report it.

use std::fmt;

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, like `listen.address`.
    pub key: String,
    /// What is wrong with the value, and what to do.
    pub why: String,
}

impl Problem {
    /// A problem with the value of `key`.
    #[must_use]
    pub fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Errors of other modules may name their key themselves.
        if self.why.starts_with(&self.key) {
            return f.write_str(&self.why);
        }
        write!(f, "{}: {}", self.key, self.why)
    }
}

impl std::error::Error for Problem {}
