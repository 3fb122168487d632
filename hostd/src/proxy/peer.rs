//! The client at the other end of a connection: what is known of it, and when its connection is of no use any more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::limiter::{Connection, LimitReached, Limiter};
use super::shares::{Seat, ShareTaken, Shares};
use crate::api::connections::unknown::Stranger;
use crate::driver::gate::Gate;
use crate::metrics::Metrics;
use crate::panics::poisoned;
use crate::tokens::{Claims, Tokens};

/// The places of a connection that was accepted.
#[derive(Debug)]
pub(super) struct Places {
    /// Among all connections.
    pub(super) open: Open,
    /// Among those of unknown clients, until it has sent a valid token.
    pub(super) stranger: Stranger,
}

/// The place of a connection among all connections, which is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    metrics: Metrics,
    /// Number of connections of the thread.
    count: Arc<AtomicUsize>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    pub(super) fn new(metrics: &Metrics, count: &Arc<AtomicUsize>, place: OwnedSemaphorePermit) -> Self {
        metrics.endpoint_connections(1);
        count.fetch_add(1, Ordering::Relaxed);
        Self { metrics: metrics.clone(), count: Arc::clone(count), _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.endpoint_connections(-1);
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Network address of the client.
    pub address: SocketAddr,
    /// Host name that the connection was opened for (SNI).
    pub server_name: Option<String>,
    authorised: AtomicBool,
    /// The connection's place among those of its microVM and account, once it has sent a valid token.
    seat: OnceLock<Arc<Seat>>,
    /// Its place among those of unknown clients until then.
    stranger: Mutex<Option<Stranger>>,
    /// The connection's place in the limits of its microVM's memory class.
    counted: OnceLock<Connection>,
    /// The last valid token and its claims. Most connections use a single token.
    token: Mutex<Option<(String, Arc<Claims>)>>,
    /// Number of exchanges in progress, and when the last one ended.
    exchanges: Mutex<(usize, Instant)>,
    /// The connection's place among all connections. WebSockets and shells keep it longer than HTTP does.
    _place: Option<Open>,
}

impl Peer {
    /// Creates the state of a new connection.
    #[must_use]
    pub(super) fn new(address: SocketAddr, server_name: Option<String>, places: Option<Places>) -> Self {
        let (place, stranger) = places.map(|places| (places.open, places.stranger)).unzip();
        Self {
            address,
            server_name,
            authorised: AtomicBool::new(false),
            seat: OnceLock::new(),
            stranger: Mutex::new(stranger),
            counted: OnceLock::new(),
            token: Mutex::default(),
            exchanges: Mutex::new((0, Instant::now())),
            _place: place,
        }
    }

    /// The claims of a token, if it is valid now.
    pub(super) fn claims(&self, tokens: &Tokens, token: &str) -> Option<Arc<Claims>> {
        let mut last = self.token.lock().unwrap_or_else(poisoned);
        if let Some((known, claims)) = &*last
            && bool::from(known.as_bytes().ct_eq(token.as_bytes()))
        {
            return tokens.is_current(claims).then(|| Arc::clone(claims));
        }
        let claims = Arc::new(tokens.open_token(token).ok()?);
        *last = Some((token.to_owned(), Arc::clone(&claims)));
        Some(claims)
    }

    /// Begins an exchange, which lasts until the returned value is dropped.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchange {
        let mut exchanges = self.exchanges.lock().unwrap_or_else(poisoned);
        exchanges.0 = exchanges.0.saturating_add(1);
        drop(exchanges);
        Exchange(Arc::clone(self))
    }

    /// Since when no exchange has been in progress; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        let (count, ended) = *self.exchanges.lock().unwrap_or_else(poisoned);
        (count == 0).then_some(ended)
    }

    /// Returns when the connection should be closed: it has not sent a request with a valid token in the `first` time, or
    /// had no exchange for `idle`.
    pub(super) async fn unused(&self, first: Duration, idle: Duration) {
        sleep(first).await;
        if !self.is_authorised() {
            return;
        }
        loop {
            let since = self.idle_since().unwrap_or_else(Instant::now);
            let Some(end) = since.checked_add(idle) else { return std::future::pending().await };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Whether the client has sent a valid token, and there was a place for its connection.
    pub(super) fn is_authorised(&self) -> bool {
        self.authorised.load(Ordering::Relaxed)
    }

    /// Marks that the client has sent a valid token, and that there was a place for its connection. It is no unknown
    /// client any more.
    pub(super) fn authorise(&self) {
        if !self.is_authorised() && !self.authorised.swap(true, Ordering::Relaxed) {
            *self.stranger.lock().unwrap_or_else(poisoned) = None;
        }
    }

    /// The connection's place among those of its microVM and account.
    ///
    /// # Errors
    /// [`ShareTaken`].
    pub(super) fn seat(&self, shares: &Shares, gate: &Gate) -> Result<Arc<Seat>, ShareTaken> {
        if let Some(seat) = self.seat.get().filter(|seat| seat.is_for(gate)) {
            return Ok(Arc::clone(seat));
        }
        let seat = shares.enter(gate)?;
        // A concurrent request may have taken a place already; the second one ends with its request.
        let _ = self.seat.set(Arc::clone(&seat));
        Ok(seat)
    }

    /// Counts the connection in the limits of its microVM's memory class.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub(super) fn count(&self, limiter: &Arc<Limiter>) -> Result<(), LimitReached> {
        if self.counted.get().is_none() {
            // A concurrent request may have counted it already; the second count is dropped.
            let _ = self.counted.set(limiter.connection()?);
        }
        Ok(())
    }
}

/// An exchange on a connection.
#[derive(Debug)]
pub struct Exchange(Arc<Peer>);

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut exchanges = self.0.exchanges.lock().unwrap_or_else(poisoned);
        *exchanges = (exchanges.0.saturating_sub(1), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::Clock;
    use crate::store::{Db, MemoryStore, Store};
    use crate::tokens::{Grant, Kind};

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_known_to_a_connection_expires_all_the_same() {
        let db = Db::direct(Arc::new(MemoryStore::default()) as Arc<dyn Store>);
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let tokens = Tokens::open(&db, clock, "us-east-1").await.unwrap();
        let mint = |id: &str, minutes| {
            let (microvm_id, endpoint) = (id.to_owned(), "e.example".to_owned());
            tokens
                .mint(&Grant {
                    microvm_id,
                    endpoint,
                    kind: Kind::Http,
                    ports: vec![(1, 2)],
                    minutes,
                    maker: None,
                })
                .unwrap()
        };
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), None, None);
        let (one, two) = (mint("one", 1), mint("two", 2));
        for _ in 0..2 {
            assert_eq!(peer.claims(&tokens, &one).unwrap().sub, "one");
            assert_eq!(peer.claims(&tokens, &two).unwrap().sub, "two");
            assert_eq!(peer.claims(&tokens, "no token"), None);
            assert_eq!(peer.claims(&tokens, &two).unwrap().sub, "two", "it is still known");
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(peer.claims(&tokens, &one), None);
        assert_eq!(peer.claims(&tokens, &two).unwrap().sub, "two");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(peer.claims(&tokens, &two), None);
    }
}
