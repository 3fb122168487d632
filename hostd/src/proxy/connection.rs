//! Connections of clients: TLS, then HTTP/1.1 or HTTP/2.
//!
//! A connection has limited time for its handshake and its first request with a valid token. After that it may be idle
//! for as long as the settings allow. Everything that a client can make this host keep in memory is bounded: headers,
//! streams, resets, windows.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Inner;
use super::error::ProxyError;
use super::limits::{Connection, Limiter};
use super::threads::Open;
use crate::panics::poisoned;
use crate::tokens::{Claims, Tokens};

/// Timeout of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time from the handshake to the first request with a valid token.
const FIRST: Duration = Duration::from_secs(30);
/// Flow-control windows of HTTP/2, in bytes, for each stream and each connection: more than is sent during a round trip
/// around the world.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);
/// Greatest number of concurrent streams of a connection.
const STREAMS: u32 = 256;
/// Greatest size of headers, in bytes (docs/behaviour.md, "Limits of the endpoint"); tokens alone may have 8,000.
const HEADERS: u32 = 64 << 10;
/// Greatest number of bytes of a response that wait for a slow reader, for each stream.
const SEND_BUFFER: usize = 256 << 10;
/// Greatest number of resets that a client may send for streams that were not accepted yet (CVE-2023-44487).
const RESETS: usize = 32;
/// Interval of keep-alive pings to silent clients of HTTP/2, and timeout of their answers.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// The client at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Network address of the client.
    pub address: SocketAddr,
    /// Host name that the connection was opened for (SNI).
    pub server_name: Option<String>,
    authorised: AtomicBool,
    /// The connection's place in the count of its microVM, once it has sent a valid token.
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
    pub(super) fn new(address: SocketAddr, server_name: Option<String>, place: Option<Open>) -> Self {
        Self {
            address,
            server_name,
            authorised: AtomicBool::new(false),
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

    /// Returns when the connection should be closed: it has not sent a request with a valid token in time, or had no
    /// exchange for `idle`.
    async fn unused(&self, idle: Duration) {
        sleep(FIRST).await;
        if !self.authorised.load(Ordering::Relaxed) {
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

    /// Marks that the client has sent a valid token.
    pub(super) fn authorise(&self) {
        self.authorised.store(true, Ordering::Relaxed);
    }

    /// Counts the connection among those of its microVM.
    ///
    /// # Errors
    /// [`ProxyError::TooMany`].
    pub(super) fn count(&self, limiter: &Arc<Limiter>) -> Result<(), ProxyError> {
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

impl Inner {
    /// Serves a connection until its client disconnects, it is unused for too long, or `end` becomes true.
    pub(super) async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        place: Open,
        acceptor: TlsAcceptor,
        server: &Builder<TokioExecutor>,
        end: watch::Receiver<bool>,
    ) {
        let _ = stream.set_nodelay(true); // failure only makes responses slower
        // A client that does not speak TLS gets no explanation. The handshake is boxed so that its state is freed
        // afterwards.
        let handshake = Box::pin(timeout(HANDSHAKE, acceptor.accept(stream)));
        let (peer, connection) = match handshake.await {
            Ok(Ok(stream)) => self.connect(stream, address, place, server),
            Ok(Err(_)) | Err(_) => return,
        };
        let (mut connection, idle) = (pin!(connection), self.settings.idle_connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = peer.unused(idle) => {}
            () = ended(end) => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    /// Sets up HTTP on a connection; returns its peer and the future that serves it.
    fn connect(
        self: &Arc<Self>,
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        place: Open,
        server: &Builder<TokioExecutor>,
    ) -> (Arc<Peer>, impl GracefulConnection<Error: Send>) {
        let server_name = stream.get_ref().1.server_name().map(str::to_owned);
        let peer = Arc::new(Peer::new(address, server_name, Some(place)));
        let (inner, client) = (Arc::clone(self), Arc::clone(&peer));
        let service = service_fn(move |request| {
            let (inner, client) = (Arc::clone(&inner), Arc::clone(&client));
            // HTTP/1.1 keeps space for this future as long as the connection is open, so the future is boxed.
            Box::pin(async move { Ok::<_, Infallible>(inner.answer(client, request).await) })
        });
        (peer, server.serve_connection_with_upgrades(TokioIo::new(stream), service))
    }

    /// Settings of HTTP, whichever version TLS has negotiated.
    pub(super) fn server(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.idle_connection)
            .max_buf_size(usize::try_from(HEADERS).unwrap_or(usize::MAX))
            .half_close(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(RESETS)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        builder
    }
}

async fn ended(mut end: watch::Receiver<bool>) {
    // An error means that the sender is gone, which ends the connections, too.
    let _ = end.wait_for(|end| *end).await;
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
                .mint(&Grant { microvm_id, endpoint, kind: Kind::Http, ports: vec![(1, 2)], minutes })
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
