//! Accounting of the host's memory for microVMs, by their baselines, and for builds of large images.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::panics::poisoned;

/// The host's memory for microVMs and how much of it is taken. Clones share the same accounts.
#[derive(Debug, Clone)]
pub struct Capacity {
    total_mib: u64,
    taken: Arc<Taken>,
}

/// The part of the host's memory that a microVM or a build holds; dropping the reservation gives it back.
#[derive(Debug)]
pub struct Reservation {
    mib: u64,
    taken: Arc<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    mib: Mutex<u64>,
    /// Told when memory is given back.
    less: Notify,
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
        Self { total_mib, taken: Arc::default() }
    }

    /// Reserves `mib` MiB if they are free.
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve(&self, mib: u64) -> Result<Reservation, Full> {
        let mut taken = self.taken.lock();
        let free_mib = self.total_mib.saturating_sub(*taken);
        if mib > free_mib {
            return Err(Full { needed_mib: mib, free_mib });
        }
        *taken += mib;
        Ok(Reservation { mib, taken: Arc::clone(&self.taken) })
    }

    /// Reserves `mib` MiB, or all that there is if that is less, if they are free.
    ///
    /// # Errors
    /// [`Full`].
    pub fn reserve_most(&self, mib: u64) -> Result<Reservation, Full> {
        self.reserve(mib.min(self.total_mib))
    }

    /// [`Self::reserve_most`], as soon as they are free, within `limit`. Who waits delays nobody: [`Self::reserve`] may take what is
    /// free meanwhile.
    ///
    /// # Errors
    /// [`Full`], with what is free at the end.
    pub async fn wait(&self, mib: u64, limit: Duration) -> Result<Reservation, Full> {
        let end = Instant::now() + limit;
        loop {
            // What is given back from here on is noticed.
            let mut less = pin!(self.taken.less.notified());
            less.as_mut().enable();
            match self.reserve_most(mib) {
                Ok(reservation) => return Ok(reservation),
                Err(full) => timeout_at(end, less).await.map_err(|_| full)?,
            }
        }
    }

    /// Reserves `mib` MiB whether they are free or not: for microVMs that already run.
    #[must_use]
    pub fn take(&self, mib: u64) -> Reservation {
        *self.taken.lock() += mib;
        Reservation { mib, taken: Arc::clone(&self.taken) }
    }

    /// Total and taken memory, in MiB.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        (self.total_mib, *self.taken.lock())
    }
}

impl Taken {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.mib.lock().unwrap_or_else(poisoned)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        *taken = taken.saturating_sub(self.mib);
        drop(taken);
        self.taken.less.notify_waiters();
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

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_memory_when_it_is_given_back_and_is_told_at_the_deadline() {
        let capacity = Capacity::new(1024);
        let minute = Duration::from_secs(60);
        let held = capacity.reserve(768).unwrap();
        assert_eq!(capacity.wait(512, minute).await.unwrap_err(), Full { needed_mib: 512, free_mib: 256 });
        let waiting = tokio::spawn({
            let capacity = capacity.clone();
            async move { capacity.wait(512, minute).await }
        });
        tokio::task::yield_now().await;
        drop(capacity.reserve(1).unwrap());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "too little was given back");
        drop(held);
        drop(waiting.await.unwrap().unwrap());
        let all = capacity.wait(4096, minute).await.unwrap();
        assert_eq!(capacity.figures(), (1024, 1024), "more than there is is all that there is");
        drop(all);
        assert_eq!(capacity.figures(), (1024, 0));
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
