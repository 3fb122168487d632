//! Accounting of the host's memory for microVMs, by their baselines.

use std::sync::{Arc, Mutex};

use crate::panics::poisoned;

/// The host's memory for microVMs and how much of it is taken. Clones share the same accounts.
#[derive(Debug, Clone)]
pub struct Capacity {
    total_mib: u64,
    taken_mib: Arc<Mutex<u64>>,
}

/// The part of the host's memory that a microVM holds; dropping the reservation gives it back.
#[derive(Debug)]
pub struct Reservation {
    mib: u64,
    taken_mib: Arc<Mutex<u64>>,
}

/// The error when the host has not enough free memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host has no room for {needed_mib} MiB: {free_mib} MiB of its capacity are free")]
pub struct Full {
    /// Requested memory in MiB.
    pub needed_mib: u64,
    /// Free memory in MiB.
    pub free_mib: u64,
}

impl Capacity {
    /// `total_mib` MiB, of which nothing is taken.
    #[must_use]
    pub fn new(total_mib: u64) -> Self {
        Self { total_mib, taken_mib: Arc::default() }
    }

    /// Reserves `mib` MiB if they are free.
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(&self, mib: u64) -> Result<Reservation, Full> {
        let mut taken = self.taken_mib.lock().unwrap_or_else(poisoned);
        let free_mib = self.total_mib.saturating_sub(*taken);
        if mib > free_mib {
            return Err(Full { needed_mib: mib, free_mib });
        }
        *taken += mib;
        Ok(Reservation { mib, taken_mib: Arc::clone(&self.taken_mib) })
    }

    /// Reserves `mib` MiB whether they are free or not: for microVMs that already run.
    #[must_use]
    pub fn take(&self, mib: u64) -> Reservation {
        *self.taken_mib.lock().unwrap_or_else(poisoned) += mib;
        Reservation { mib, taken_mib: Arc::clone(&self.taken_mib) }
    }

    /// Total and taken memory, in MiB.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        (self.total_mib, *self.taken_mib.lock().unwrap_or_else(poisoned))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.taken_mib.lock().unwrap_or_else(poisoned);
        *taken = taken.saturating_sub(self.mib);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_takes_no_more_until_something_is_given_back() {
        let capacity = Capacity::new(1024);
        let first = capacity.reserve(512).unwrap();
        let _second = capacity.reserve(512).unwrap();
        assert_eq!(capacity.reserve(512).unwrap_err(), Full { needed_mib: 512, free_mib: 0 });
        drop(first);
        assert_eq!(capacity.figures(), (1024, 512));
        drop(capacity.reserve(512).unwrap());
    }

    #[test]
    fn microvms_that_run_already_are_counted_beyond_what_there_is() {
        let capacity = Capacity::new(512);
        let running = [capacity.take(512), capacity.take(512)];
        assert_eq!(capacity.reserve(1).unwrap_err(), Full { needed_mib: 1, free_mib: 0 });
        drop(running);
        assert_eq!(capacity.figures().1, 0);
    }
}
