//! Connections of clients, for every listener of the API: TLS if there is a certificate, then HTTP/1.1 or HTTP/2.
//!
//! Whatever a client can make this host wait for or keep in memory is bounded: handshakes, greetings, heads of requests
//! and idleness in time, headers, streams and resets in number and size, all connections and those of one client in
//! number, and the time in which a client neither sends a request nor takes a part of a response.
//!
//! * [`config`] – what operators can set; `peers` – how many connections each client has; `unknown` – those of clients of whom nobody
//!   knows who they are, which make room
//! * `greeting` – whether a client has said anything; `activity` – what it does with its connection

mod activity;
pub mod config;
mod greeting;
pub(crate) mod peers;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod unknown;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::tls::Tls;
use crate::access::fingerprint;
use crate::panics;
use activity::{Activity, Sending};
use config::ConnectionLimits;
use greeting::Heard;
use peers::Peers;
use unknown::{Known, Told, Unknown};

/// Greatest size of headers, in bytes: a session token has some thousands.
const HEADERS: u32 = 64 << 10;
/// Greatest number of resets that a client may send for streams that were not accepted yet (CVE-2023-44487).
const RESETS: usize = 32;
/// Flow-control windows of HTTP/2, in bytes, for each stream and each connection.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// Greatest number of bytes of a response that HTTP/2 keeps for a stream whose client does not read.
const SENDING: usize = 64 << 10;
/// Interval of keep-alive pings to silent clients of HTTP/2, and timeout of their answers.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// Time that clients have to finish their requests when the daemon shuts down.
pub(super) const END: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted. The cause may pass, like a lack of file descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An address of the network.
    Network(SocketAddr),
    /// A user of this host, at a Unix socket; none if the system does not know whose process it is.
    User(Option<u32>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::User(Some(user)) => write!(f, "user {user}"),
            Self::User(None) => f.write_str("an unknown user"),
        }
    }
}

/// A client that has opened a connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Where it is.
    pub(super) peer: Peer,
    /// SHA-256 of its certificate, if it has shown one that a configured authority has signed.
    pub(super) certificate: Option<[u8; 32]>,
    /// Whoever finds out that a caller is known says it here.
    pub(super) known: Known,
}

/// Where connections come from.
pub(super) trait Listens: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    ///
    /// # Errors
    /// It cannot be accepted; others may be later.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listens for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        let _ = stream.set_nodelay(true); // failure only makes responses slower
        Ok((stream, Peer::Network(address)))
    }
}

impl Listens for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let user = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Ok((stream, Peer::User(user)))
    }
}

/// How a listener serves its connections.
#[derive(Debug)]
pub(super) struct Connections {
    /// Who the clients are, for the log.
    pub(super) clients: &'static str,
    /// What connections may take up.
    pub(super) limits: ConnectionLimits,
    /// Whether clients speak HTTP/2 only.
    pub(super) http2_only: bool,
    /// TLS, if there is a certificate.
    pub(super) tls: Option<Tls>,
}

impl Connections {
    /// Accepts connections and answers their requests until `shutdown` becomes true, and then completes the requests in
    /// progress, for a limited time.
    pub(super) async fn serve<L, A, F, B>(&self, listener: L, answer: A, mut shutdown: watch::Receiver<bool>)
    where
        L: Listens,
        A: Fn(&Client, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (end, mut connections) = (shutdown.clone(), JoinSet::new());
        let renewing = async {
            match &self.tls {
                Some(tls) => tls.keep_current().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.accept(&listener, answer, &end, &mut connections) => {}
            () = renewing => {}
            // An error means that the sender is gone, which ends the listener, too.
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        drop(listener);
        let ended = timeout(END, async { while connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(
                clients = self.clients,
                "closing connections of clients that have not gone by themselves"
            );
        }
    }

    /// Accepts connections. Never returns.
    async fn accept<L, A, F, B>(
        &self,
        listener: &L,
        answer: A,
        shutdown: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) where
        L: Listens,
        A: Fn(&Client, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let places = Arc::new(Semaphore::new(self.limits.total));
        let peers = Peers::new(self.limits.per_client);
        let unknown = Unknown::default();
        let mut evictions = Told::default();
        let acceptor = self.tls.as_ref().map(Tls::acceptor);
        let exchange = Exchange::new(&self.limits, self.http2_only);
        loop {
            while connections.try_join_next().is_some() {}
            match listener.next().await {
                Ok((stream, peer)) => {
                    let Some(peer_place) = peers.enter(peer) else {
                        tracing::debug!(clients = self.clients, %peer, "a client has too many connections");
                        continue;
                    };
                    let told = || {
                        if let Some(count) = evictions.another() {
                            tracing::warn!(
                                clients = self.clients,
                                count,
                                "all connections are taken: the oldest ones of clients that are not known are closed"
                            );
                        }
                    };
                    let Some(place) = unknown.place(&places, told).await else { return };
                    let known = match peer {
                        Peer::Network(_) => Known::not_yet(&unknown, self.limits.of_account()),
                        // Who is at a Unix socket, the system says.
                        Peer::User(_) => Known::local(),
                    };
                    let leaves = known.told_to_leave();
                    let (acceptor, answer, exchange) = (acceptor.clone(), answer.clone(), exchange.clone());
                    let shutdown = shutdown.clone();
                    connections.spawn(async move {
                        let client = Client { peer, certificate: None, known };
                        let served =
                            panics::request(exchange.begin(stream, client, acceptor, answer, shutdown));
                        tokio::select! {
                            _ = served => {} // a panic is logged
                            () = leaves => {}
                        }
                        drop((place, peer_place));
                    });
                }
                Err(error) => {
                    tracing::warn!(clients = self.clients, %error, "a connection cannot be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// How the requests of a connection are answered.
#[derive(Clone)]
struct Exchange {
    http: Builder<TokioExecutor>,
    handshake: Duration,
    idle: Duration,
}

impl Exchange {
    fn new(limits: &ConnectionLimits, http2_only: bool) -> Self {
        let (handshake, idle) = (limits.handshake(), limits.idle());
        let builder = Builder::new(TokioExecutor::new());
        let mut http = if http2_only { builder.http2_only() } else { builder };
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(idle)
            .max_buf_size(usize::try_from(HEADERS).unwrap_or(usize::MAX));
        http.http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_send_buf_size(SENDING)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(HEADERS)
            .max_pending_accept_reset_streams(RESETS)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        Self { http, handshake, idle }
    }

    /// Opens a connection, and answers its requests.
    async fn begin<S, A, F, B>(
        self,
        stream: S,
        mut client: Client,
        acceptor: Option<TlsAcceptor>,
        answer: A,
        shutdown: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(&Client, Request<Incoming>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match acceptor {
            None => self.run(stream, &client, answer, shutdown).await,
            Some(acceptor) => {
                // A client that does not speak TLS gets no explanation.
                let Ok(Ok(stream)) = timeout(self.handshake, acceptor.accept(stream)).await else { return };
                let chain = stream.get_ref().1.peer_certificates();
                client.certificate = chain.and_then(|chain| chain.first()).map(|first| fingerprint(first));
                self.run(stream, &client, answer, shutdown).await;
            }
        }
    }

    /// Answers the requests of a connection, until the client goes, the connection is idle for too long, or the daemon
    /// shuts down.
    async fn run<S, A, F, B>(self, stream: S, client: &Client, answer: A, mut shutdown: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Fn(&Client, Request<Incoming>) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let activity = Activity::new();
        let service = service_fn(|request| {
            let (handled, answered) = (activity.begin(), answer(client, request));
            async move {
                let response = answered.await;
                let activity = handled.end();
                Ok::<_, Infallible>(response.map(|body| Sending::new(body, activity)))
            }
        });
        let stream = TokioIo::new(Heard::new(stream, activity.clone()));
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let peer = client.peer;
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%peer, %error, "a connection has ended");
                }
                return;
            }
            () = activity.silent(self.handshake) => {
                tracing::debug!(%peer, "a client has said nothing");
                return;
            }
            () = activity.idle(self.idle) => {}
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(END, connection).await; // a client that does not read its responses is not waited for
    }
}
