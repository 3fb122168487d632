//! Memory of each account's microVMs, by their baselines, against the quota of an account.
//!
//! The microVMs that count are those that have not terminated. They are counted as they come and go, so that no launch
//! reads the store for it. The counts follow from the store and are kept in memory only: a launch is counted before its
//! record is stored, a microVM's share is given back after its end is stored, and a daemon that starts counts what it
//! finds. So a count is never less than what the store holds, whatever happens at the same time, and equal to it
//! whenever no launch and no end is being stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::panics::poisoned;

/// The memory of each account's microVMs. Clones share the same counts.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    limit_mib: Option<u64>,
    /// MiB by account; accounts without microVMs are absent.
    used_mib: Arc<Mutex<HashMap<String, u64>>>,
}

/// The part of an account's memory that one microVM counts for; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    account: String,
    mib: u64,
    used_mib: Arc<Mutex<HashMap<String, u64>>>,
}

/// The error when an account would use more than it may; contains the limit in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverLimit(pub(super) u64);

impl Usage {
    /// Counts of no microVMs; `limit_mib` is what each account may use, unlimited unless given.
    pub(super) fn new(limit_mib: Option<u64>) -> Self {
        Self { limit_mib, used_mib: Arc::default() }
    }

    /// Counts a new microVM if the account may use that much.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub(super) fn reserve(&self, account: &str, mib: u64) -> Result<Share, OverLimit> {
        let mut used = self.used_mib.lock().unwrap_or_else(poisoned);
        let sum = used.get(account).copied().unwrap_or_default().saturating_add(mib);
        match self.limit_mib {
            Some(limit) if sum > limit => return Err(OverLimit(limit)),
            _ => used.insert(account.to_owned(), sum),
        };
        drop(used);
        Ok(self.share(account, mib))
    }

    /// Counts a microVM whether the account may use that much or not: for microVMs that exist already.
    pub(super) fn take(&self, account: &str, mib: u64) -> Share {
        let mut used = self.used_mib.lock().unwrap_or_else(poisoned);
        let sum = used.entry(account.to_owned()).or_default();
        *sum = sum.saturating_add(mib);
        drop(used);
        self.share(account, mib)
    }

    /// What an account uses, in MiB.
    pub(super) fn of(&self, account: &str) -> u64 {
        self.used_mib.lock().unwrap_or_else(poisoned).get(account).copied().unwrap_or_default()
    }

    fn share(&self, account: &str, mib: u64) -> Share {
        Share { account: account.to_owned(), mib, used_mib: Arc::clone(&self.used_mib) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.used_mib.lock().unwrap_or_else(poisoned);
        let Some(sum) = used.get_mut(&self.account) else { return };
        *sum = sum.saturating_sub(self.mib);
        if *sum == 0 {
            used.remove(&self.account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_uses_what_its_microvms_have_and_no_more_than_it_may() {
        let usage = Usage::new(Some(4096));
        let one = usage.reserve("1", 2048).unwrap();
        let _two = usage.reserve("1", 2048).unwrap();
        assert_eq!(usage.reserve("1", 1).unwrap_err(), OverLimit(4096));
        let _other = usage.reserve("2", 4096).unwrap();
        drop(one);
        assert_eq!(usage.of("1"), 2048);
        drop(usage.reserve("1", 2048).unwrap());
        assert_eq!(usage.of("1"), 2048);
    }

    #[test]
    fn microvms_that_exist_are_counted_beyond_the_limit_and_nothing_is_limited_without_one() {
        let usage = Usage::new(Some(512));
        let found = [usage.take("1", 512), usage.take("1", 512)];
        assert_eq!(usage.reserve("1", 1).unwrap_err(), OverLimit(512));
        drop(found);
        assert!(usage.used_mib.lock().unwrap().is_empty());
        let unlimited = Usage::new(None);
        let _all = unlimited.reserve("1", u64::MAX).unwrap();
        let _more = unlimited.reserve("1", u64::MAX).unwrap();
    }
}
