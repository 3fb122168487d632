//! Attempts to find a microVM, make it or remove it. Some of them may have been given up.
//!
//! A caller may stop waiting for an attempt, for example since a monitor withholds its response. The thread of that
//! attempt notices when the monitor is killed, and its half-made results must not disturb a later attempt. So threads
//! work on the files of a microVM one after another, and the thread of an attempt that was given up changes nothing
//! once another attempt has begun.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use hearth_model::id::MicrovmId;

use crate::panics::poisoned;

/// The newest attempt for each microVM, by id.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    next: AtomicU64,
    newest: Mutex<HashMap<MicrovmId, u64>>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    id: MicrovmId,
    number: u64,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<MicrovmId, u64>> {
        self.newest.lock().unwrap_or_else(poisoned)
    }

    /// Begins an attempt, which becomes the newest.
    pub(super) fn begin(&self, id: &MicrovmId) -> Attempt {
        let attempt = Attempt { id: id.clone(), number: self.next.fetch_add(1, Ordering::Relaxed) };
        self.lock().insert(attempt.id.clone(), attempt.number);
        attempt
    }

    /// Whether no other attempt has begun since.
    pub(super) fn is_newest(&self, attempt: &Attempt) -> bool {
        self.lock().get(&attempt.id) == Some(&attempt.number)
    }

    /// Forgets a microVM of which nothing is left, unless a later attempt has begun.
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
        let (one, other) = ("microvm-1".parse().unwrap(), "microvm-2".parse().unwrap());
        let (first, other) = (attempts.begin(&one), attempts.begin(&other));
        assert!(attempts.is_newest(&first) && attempts.is_newest(&other));
        let second = attempts.begin(&one);
        assert!(!attempts.is_newest(&first) && attempts.is_newest(&second));
        attempts.forget(&first);
        assert!(attempts.is_newest(&second), "another one's end is not its");
        attempts.forget(&second);
        assert!(!attempts.is_newest(&first) && !attempts.is_newest(&second));
        assert_eq!(attempts.lock().len(), 1);
    }
}
