//! Connections: TLS if it is configured, then HTTP/1.1 or HTTP/2.
//!
//! Whatever a client can make this host wait for or keep in memory is bounded: handshakes, heads and bodies of requests
//! in time, headers, streams and resets in number and size, all connections and those of one address in number, and the
//! time in which a client neither sends a request nor takes a part of a response.

mod activity;
mod peers;
#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::config::{AwsConfig, AwsConfigError};
use super::dispatch::Dispatch;
use super::reply::Body;
pub use super::tls::AwsTlsError;
use super::tls::Tls;
use crate::access::Access;
use crate::clock::Clock;
use crate::panics;
use crate::service::Service;
use activity::{Activity, Sending};
use peers::Peers;

/// Greatest number of connections; others wait until one ends.
const CONNECTIONS: usize = 1024;
/// Greatest number of connections of one address, of IPv6 of one network with a prefix of 64 bits; others are closed at
/// once.
const CONNECTIONS_OF_ONE: usize = 256;
/// Timeout of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, or be idle: to neither wait for an answer, nor send a
/// request, nor take a part of a response.
const IDLE: Duration = Duration::from_secs(60);
/// Greatest size of headers, in bytes: a session token has some thousands.
const HEADERS: u32 = 64 << 10;
/// Greatest number of concurrent streams of a connection.
const STREAMS: u32 = 128;
/// Greatest number of resets that a client may send for streams that were not accepted yet (CVE-2023-44487).
const RESETS: usize = 32;
/// Flow-control windows of HTTP/2, in bytes, for each stream and each connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// Interval of keep-alive pings to silent clients of HTTP/2, and timeout of their answers.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Time that clients have to finish their requests when the daemon shuts down.
const END: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted. The cause may pass, like a lack of file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// The reason why the listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AwsListenError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] AwsConfigError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] AwsTlsError),
    /// The address cannot be listened on.
    #[error("listening at aws.address, {address}: {source}; end what listens there, or name another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// A listener that is bound but not yet served.
#[derive(Debug)]
pub struct AwsListener {
    listener: TcpListener,
    tls: Option<Tls>,
}

impl AwsListener {
    /// Checks the configuration and binds the address; returns none if there is no address. `has_keys`: whether there
    /// are access keys.
    ///
    /// # Errors
    /// [`AwsListenError`]
    pub async fn bind(
        config: &AwsConfig,
        has_keys: bool,
        clock: Clock,
    ) -> Result<Option<Self>, AwsListenError> {
        config.check(has_keys)?;
        let Some(address) = config.address else { return Ok(None) };
        let tls = config.tls().map(|(certificate, key)| Tls::open(certificate, key, clock)).transpose()?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| AwsListenError::Bind { address, source })?;
        Ok(Some(Self { listener, tls }))
    }

    /// The address that is bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `shutdown` becomes true, and then completes the requests in progress, for a limited time.
    pub async fn serve(self, service: Service, access: Arc<Access>, mut shutdown: watch::Receiver<bool>) {
        let dispatch = Arc::new(Dispatch::new(service, access, self.tls.is_some()));
        let acceptor = self.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.config)));
        let (end, mut connections) = (shutdown.clone(), JoinSet::new());
        let renewing = async {
            match &self.tls {
                Some(tls) => tls.keep_current().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = accept(&self.listener, &dispatch, acceptor.as_ref(), &end, &mut connections) => {}
            () = renewing => {}
            // An error means that the sender is gone, which ends the listener, too.
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        drop(self.listener);
        let ended = timeout(END, async { while connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("closing connections of AWS's clients that have not gone by themselves");
        }
    }
}

/// Accepts connections. Never returns.
async fn accept(
    listener: &TcpListener,
    dispatch: &Arc<Dispatch>,
    acceptor: Option<&TlsAcceptor>,
    shutdown: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let (places, http) = (Arc::new(Semaphore::new(CONNECTIONS)), http());
    let peers = Peers::new(CONNECTIONS_OF_ONE);
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(peer_place) = peers.enter(peer.ip()) else {
                    tracing::debug!(%peer, "an AWS client has too many connections");
                    continue;
                };
                let (dispatch, acceptor, http) = (Arc::clone(dispatch), acceptor.cloned(), http.clone());
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    let served =
                        panics::request(connection(stream, peer, dispatch, acceptor, http, shutdown));
                    let _ = served.await; // the panic is logged
                    drop((place, peer_place));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection of an AWS client cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    dispatch: Arc<Dispatch>,
    acceptor: Option<TlsAcceptor>,
    http: Builder<TokioExecutor>,
    shutdown: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true); // failure only makes responses slower
    let answer = move |request| {
        let dispatch = Arc::clone(&dispatch);
        async move { dispatch.answer(peer, request).await }
    };
    match acceptor {
        None => exchange(stream, peer, answer, http, shutdown).await,
        Some(acceptor) => {
            // A client that does not speak TLS gets no explanation.
            let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
            exchange(stream, peer, answer, http, shutdown).await;
        }
    }
}

/// Answers the requests of a connection, until the client goes, the connection is idle for too long, or the daemon shuts
/// down.
async fn exchange<S, A, F>(
    stream: S,
    peer: SocketAddr,
    answer: A,
    http: Builder<TokioExecutor>,
    mut shutdown: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let activity = Activity::new();
    let service = service_fn(|request| {
        let (handled, answered) = (activity.begin(), answer(request));
        async move {
            let response = answered.await;
            let activity = handled.end();
            Ok::<_, Infallible>(response.map(|body| Sending::new(body, activity)))
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        served = connection.as_mut() => {
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "a connection of an AWS client has ended");
            }
            return;
        }
        () = activity.idle(IDLE) => {}
        _ = shutdown.wait_for(|shutdown| *shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(END, connection).await; // a client that does not read its responses is not waited for
}

/// Settings of HTTP, whichever version the client speaks.
fn http() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(usize::try_from(HEADERS).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    builder
}
