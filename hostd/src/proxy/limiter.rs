//! Limits of one microVM's endpoint (docs/behaviour.md, "Limits of the endpoint"): connections, requests per second and
//! bandwidth, according to its memory class. Requests are counted in `request::limits`, bytes in [`Meter`].
//!
//! Connections and requests above the limits are refused; bytes above the limit are delayed.
//!
//! [`Meter`]: super::body::Meter

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use crate::driver::gate::Gate;
use crate::panics::poisoned;

/// A connection or request is above the limits of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's limit is reached; wait until fewer requests or connections are under way")]
pub struct LimitReached;

/// The limits of a memory class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Bytes per second, both directions together.
    pub bytes: u64,
    /// Greatest number of concurrent connections.
    pub connections: u32,
    /// Requests per second.
    pub requests: u32,
}

impl Class {
    /// The limits for a microVM with this memory in MiB: those of the next larger class if there is no such class.
    #[must_use]
    pub fn of(memory_mib: u32) -> Self {
        let units = memory_mib.div_ceil(512).clamp(1, 16).next_power_of_two();
        Self {
            bytes: u64::from(units).saturating_mul(1_000_000),
            connections: units.saturating_mul(8),
            requests: units.saturating_mul(10),
        }
    }
}

/// Usage of the limits by the endpoint of a microVM.
#[derive(Debug)]
pub struct Limiter {
    class: Class,
    connections: AtomicU32,
    requests: DefaultDirectRateLimiter,
    /// The time at which all bytes that have passed are within the bandwidth.
    paid: Mutex<Instant>,
}

/// Time by which bytes may run ahead of the bandwidth.
const BURST: Duration = Duration::from_millis(250);

impl Limiter {
    fn new(class: Class) -> Self {
        let rate = NonZeroU32::new(class.requests).unwrap_or(NonZeroU32::MIN);
        Self {
            class,
            connections: AtomicU32::new(0),
            requests: RateLimiter::direct(Quota::per_second(rate)),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn request(&self) -> Result<(), LimitReached> {
        self.requests.check().map_err(|_| LimitReached)
    }

    /// Counts a connection until the returned value is dropped.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn connection(self: &Arc<Self>) -> Result<Connection, LimitReached> {
        let more = |count: u32| (count < self.class.connections).then(|| count.saturating_add(1));
        let counted = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(|_| Connection(Arc::clone(self))).map_err(|_| LimitReached)
    }

    /// Counts bytes that have passed. Returns the time at which more may pass, if that is not now.
    pub fn bytes(&self, count: usize) -> Option<Instant> {
        let cost = Duration::from_nanos(
            u64::try_from(count)
                .unwrap_or(u64::MAX)
                .saturating_mul(1_000_000_000)
                .checked_div(self.class.bytes)
                .unwrap_or_default(),
        );
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(poisoned);
        let from = (*paid).max(now);
        *paid = from.checked_add(cost).unwrap_or(from);
        paid.checked_sub(BURST).filter(|next| *next > now)
    }
}

/// A counted connection.
#[derive(Debug)]
pub struct Connection(Arc<Limiter>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The limits of all endpoints.
#[derive(Debug, Default)]
pub struct Limits {
    by_id: Mutex<HashMap<String, Limited>>,
}

/// The gate of a microVM, which is gone when the microVM is, and the limits.
type Limited = (Weak<Gate>, Arc<Limiter>);

impl Limits {
    /// The limits of a microVM.
    #[must_use]
    pub fn of(&self, gate: &Arc<Gate>) -> Arc<Limiter> {
        let mut by_id = self.by_id.lock().unwrap_or_else(poisoned);
        if let Some((_, limiter)) = by_id.get(gate.id()) {
            return Arc::clone(limiter);
        }
        // Entries of past microVMs are removed here, because new microVMs are rare compared to requests.
        by_id.retain(|_, (gate, _)| gate.strong_count() > 0);
        let limiter = Arc::new(Limiter::new(Class::of(gate.memory_mib())));
        by_id.insert(gate.id().to_owned(), (Arc::downgrade(gate), Arc::clone(&limiter)));
        limiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_what_the_table_says() {
        let row = |mib| {
            let Class { bytes, connections, requests } = Class::of(mib);
            (bytes / 1_000_000, connections, requests)
        };
        assert_eq!(
            [512, 1024, 2048, 4096, 8192].map(row),
            [(1, 8, 10), (2, 16, 20), (4, 32, 40), (8, 64, 80), (16, 128, 160)]
        );
        assert_eq!((row(128), row(1025), row(1 << 20)), ((1, 8, 10), (4, 32, 40), (16, 128, 160)));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_until_they_are_paid_for() {
        let limiter = Limiter::new(Class::of(512));
        assert_eq!(limiter.bytes(250_000), None, "a burst");
        let start = Instant::now();
        for _ in 0..100 {
            if let Some(next) = limiter.bytes(50_000) {
                tokio::time::sleep_until(next).await;
            }
        }
        assert_eq!(start.elapsed().as_secs(), 5);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(limiter.bytes(250_000), None, "what was not used is not saved up");
        assert!(limiter.bytes(1).is_some());
    }

    #[test]
    fn connections_and_requests_are_counted() {
        let limiter = Arc::new(Limiter::new(Class::of(512)));
        let open: Vec<_> = (0..8).map(|_| limiter.connection().unwrap()).collect();
        assert_eq!(limiter.connection().unwrap_err(), LimitReached);
        drop(open);
        limiter.connection().unwrap();
        let refused = (0..100).filter(|_| limiter.request().is_err()).count();
        assert!((85..=90).contains(&refused), "{refused}");
    }
}
