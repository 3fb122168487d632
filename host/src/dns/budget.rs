//! How many queries may go to the servers in a time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Queries that may go at once, as a time at the configured rate.
const BURST: Duration = Duration::from_secs(4);

/// A token bucket that gives each query a time to go (the generic cell rate algorithm): one number, however many wait.
#[derive(Debug)]
pub(super) struct Budget {
    interval: Duration,
    /// When all queries so far would have gone, one after the other.
    spent_until: Mutex<Option<Instant>>,
}

impl Budget {
    /// `rate` queries per second, and [`BURST`] seconds' worth at once.
    pub(super) fn new(rate: u32) -> Self {
        Self { interval: Duration::from_secs(1) / rate.max(1), spent_until: Mutex::default() }
    }

    /// When the next query may go; none, and nothing is spent, if that is after `latest`.
    pub(super) fn take(&self, now: Instant, latest: Instant) -> Option<Instant> {
        let mut spent_until = self.spent_until.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = spent_until.map_or(now, |spent| spent.max(now));
        let next = spent + self.interval;
        let goes = next.checked_sub(BURST).unwrap_or(now).max(now);
        if goes > latest {
            return None;
        }
        *spent_until = Some(next);
        Some(goes)
    }

    /// Whether nothing is spent, as if the budget were new.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.spent_until.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|spent| spent <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate_within_a_bound() {
        let (budget, now) = (Budget::new(100), Instant::now());
        let latest = now + Duration::from_secs(2);
        let times = std::iter::from_fn(|| budget.take(now, latest)).collect::<Vec<_>>();
        assert_eq!(times.iter().filter(|time| **time == now).count(), 400);
        assert_eq!(times.len(), 600, "those that go within two seconds");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_millis(10)));
        assert!(budget.take(now, latest).is_none() && !budget.is_full(now));
        let later = now + Duration::from_secs(6);
        assert!(budget.is_full(later));
        assert_eq!(budget.take(later, later), Some(later));
    }
}
