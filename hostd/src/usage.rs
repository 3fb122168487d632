//! What accounts take of something that the host has, against the quota of an account: memory of microVMs (in MiB, by their
//! baselines), room on the disk (in bytes).
//!
//! What counts is what is there until it is gone. It is counted as it comes and goes, so that no request reads store or
//! disk for it. The counts follow from what there is and are kept in memory only: a thing is counted before it is stored,
//! its share is given back after its end is stored, and a daemon that starts counts what it finds. So a count is never less
//! than what is there, whatever happens at the same time, and equal to it whenever nothing is being stored or ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::panics::poisoned;

/// What each account uses. Clones share the same counts.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    limit: Option<u64>,
    /// Amounts by account; accounts that use nothing are absent.
    used: Used,
}

type Used = Arc<Mutex<HashMap<String, u64>>>;

/// The part of an account's use that one thing counts for; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    account: String,
    amount: u64,
    usage: Usage,
}

/// The error when an account would use more than it may; contains the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverLimit(pub(crate) u64);

impl Usage {
    /// Counts of nothing; `limit` is what each account may use, unlimited unless given.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self { limit, used: Arc::default() }
    }

    /// Counts something new if the account may use that much.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub(crate) fn reserve(&self, account: &str, amount: u64) -> Result<Share, OverLimit> {
        let mut share = self.nothing(account);
        share.grow(amount)?;
        Ok(share)
    }

    /// Counts something whether the account may use that much or not: for what exists already.
    pub(crate) fn take(&self, account: &str, amount: u64) -> Share {
        let mut share = self.nothing(account);
        share.set(amount);
        share
    }

    /// A share that counts for nothing yet.
    pub(crate) fn nothing(&self, account: &str) -> Share {
        Share { account: account.to_owned(), amount: 0, usage: self.clone() }
    }

    /// Gives back what was [kept](Share::keep).
    pub(crate) fn give_back(&self, account: &str, amount: u64) {
        drop(Share { account: account.to_owned(), amount, usage: self.clone() });
    }

    /// What an account uses.
    pub(crate) fn of(&self, account: &str) -> u64 {
        self.used().get(account).copied().unwrap_or_default()
    }

    /// What all accounts use together.
    pub(crate) fn sum(&self) -> u64 {
        self.used().values().fold(0, |sum, amount| sum.saturating_add(*amount))
    }

    /// The accounts that use something.
    pub(crate) fn accounts(&self) -> Vec<String> {
        self.used().keys().cloned().collect()
    }

    fn used(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.used.lock().unwrap_or_else(poisoned)
    }
}

impl Share {
    /// Counts for more, if the account may use that much.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub(crate) fn grow(&mut self, by: u64) -> Result<(), OverLimit> {
        let mut used = self.usage.used();
        let sum = used.get(&self.account).copied().unwrap_or_default().saturating_add(by);
        if let Some(limit) = self.usage.limit.filter(|limit| by > 0 && sum > *limit) {
            return Err(OverLimit(limit));
        }
        put(&mut used, &self.account, sum);
        drop(used);
        self.amount = self.amount.saturating_add(by);
        Ok(())
    }

    /// What it counts for.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// Counts for another amount, whether the account may use that much or not.
    pub(crate) fn set(&mut self, amount: u64) {
        let mut used = self.usage.used();
        let sum = used.get(&self.account).copied().unwrap_or_default();
        put(&mut used, &self.account, sum.saturating_sub(self.amount).saturating_add(amount));
        drop(used);
        self.amount = amount;
    }

    /// Leaves the amount counted until it is [given back](Usage::give_back).
    pub(crate) fn keep(mut self) {
        self.amount = 0;
    }
}

fn put(used: &mut HashMap<String, u64>, account: &str, sum: u64) {
    match used.get_mut(account) {
        Some(there) if sum > 0 => *there = sum,
        None if sum > 0 => drop(used.insert(account.to_owned(), sum)),
        Some(_) => drop(used.remove(account)),
        None => {}
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.set(0);
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
        assert!(usage.used().is_empty());
        let mut kept = usage.take("1", 100);
        kept.set(300);
        kept.keep();
        let mut growing = usage.reserve("1", 200).unwrap();
        assert_eq!((growing.grow(13), usage.of("1")), (Err(OverLimit(512)), 500));
        growing.grow(12).unwrap();
        usage.give_back("1", 300);
        drop(growing);
        assert!(usage.used().is_empty());
        let unlimited = Usage::new(None);
        let _all = unlimited.reserve("1", u64::MAX).unwrap();
        let _more = unlimited.reserve("1", u64::MAX).unwrap();
    }
}
