//! Attempts to find a microVM, make it or remove it, of which some may have been given up.
//!
//! Whoever waits for one may stop waiting, since a monitor keeps its answer back, say. The thread that was at it finds out
//! when the monitor is killed, and what it has half made must not get into the way of a later attempt: threads are at the files of a
//! microVM one after another, and one that was given up touches nothing any more where another attempt was begun since.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::panics::poisoned;

/// Which attempt is the newest, by the microVM's id.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    next: AtomicU64,
    newest: Mutex<HashMap<String, u64>>,
}

/// An attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    id: String,
    number: u64,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.newest.lock().unwrap_or_else(poisoned)
    }

    /// Begins an attempt; it is the newest.
    pub(super) fn begin(&self, id: &str) -> Attempt {
        let attempt = Attempt { id: id.to_owned(), number: self.next.fetch_add(1, Ordering::Relaxed) };
        self.lock().insert(attempt.id.clone(), attempt.number);
        attempt
    }

    /// Whether nothing was attempted since.
    pub(super) fn is_newest(&self, attempt: &Attempt) -> bool {
        self.lock().get(&attempt.id) == Some(&attempt.number)
    }

    /// Nothing is left of the microVM, and of earlier attempts.
    pub(super) fn forget(&self, attempt: &Attempt) {
        let mut newest = self.lock();
        if newest.get(&attempt.id) == Some(&attempt.number) {
            newest.remove(&attempt.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_the_newest_until_there_is_another_one() {
        let attempts = Attempts::default();
        let (first, other) = (attempts.begin("one"), attempts.begin("other"));
        assert!(attempts.is_newest(&first) && attempts.is_newest(&other));
        let second = attempts.begin("one");
        assert!(!attempts.is_newest(&first) && attempts.is_newest(&second));
        attempts.forget(&first);
        assert!(attempts.is_newest(&second), "another one's end is not its");
        attempts.forget(&second);
        assert!(!attempts.is_newest(&first) && !attempts.is_newest(&second));
        assert_eq!(attempts.lock().len(), 1);
    }
}
