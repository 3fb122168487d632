//! How much memory microVMs may have on this host, by their baselines.

use std::sync::{Arc, Mutex};

use crate::panics::poisoned;

/// What the host has for microVMs, and what of it is taken. Copies share it.
#[derive(Debug, Clone)]
pub struct Capacity {
    total_mib: u64,
    taken_mib: Arc<Mutex<u64>>,
}

/// A microVM's part of the host's memory; dropping it gives it back.
#[derive(Debug)]
pub struct Reservation {
    mib: u64,
    taken_mib: Arc<Mutex<u64>>,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// What was wanted, in MiB.
    pub needed_mib: u64,
    /// What is free, in MiB.
    pub free_mib: u64,
}

impl Capacity {
    /// `total_mib` MiB, of which nothing is taken.
    #[must_use]
    pub fn new(total_mib: u64) -> Self {
        Self { total_mib, taken_mib: Arc::default() }
    }

    /// Takes `mib`, if they are free.
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

    /// Takes `mib` whether they are free or not: for microVMs that run already.
    #[must_use]
    pub fn take(&self, mib: u64) -> Reservation {
        *self.taken_mib.lock().unwrap_or_else(poisoned) += mib;
        Reservation { mib, taken_mib: Arc::clone(&self.taken_mib) }
    }

    /// All of it, and what is taken.
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
