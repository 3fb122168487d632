//! Connections of clients: TLS, then HTTP/1.1 or HTTP/2.
//!
//! A connection has limited time for its handshake and its first request with a valid token. After that it may be idle
//! for as long as the settings allow. Everything that a client can make this host keep in memory is bounded: headers,
//! streams, resets, windows, and answers that it does not read ([`shares`](super::shares)).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::headers;
use super::peer::{Peer, Places};
use super::request::Requests;
use super::shares::bytes::WINDOWS;
use super::shares::config::EndpointConnections;
use super::socket;

/// Greatest number of concurrent streams of a connection.
const STREAMS: u32 = 128;
/// Greatest size of headers, in bytes (docs/behaviour.md, "Limits of the endpoint"); tokens alone may have 8,000.
const HEADERS: usize = 64 << 10;
/// Number of bytes of a response from which on HTTP/2 takes no further piece of it, until some are written.
const SEND_BUFFER: usize = 16 << 10;
/// Greatest number of resets that a client may send for streams that were not accepted yet (CVE-2023-44487).
const RESETS: usize = 32;
/// Interval of keep-alive pings to silent clients of HTTP/2, and timeout of their answers.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// Serves the connections of one thread.
pub(super) struct Connections {
    requests: Arc<Requests>,
    acceptor: TlsAcceptor,
    http: Builder<TokioExecutor>,
    limits: EndpointConnections,
    /// Time after which a connection without a request is closed.
    idle: Duration,
    /// Becomes true when the daemon shuts down.
    shutdown: watch::Receiver<bool>,
}

impl Connections {
    pub(super) fn new(
        requests: Requests,
        acceptor: TlsAcceptor,
        limits: EndpointConnections,
        idle: Duration,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { requests: Arc::new(requests), acceptor, http: http(idle), limits, idle, shutdown }
    }

    /// Serves a connection until its client disconnects, it is unused for too long, has to make room for others, or the
    /// daemon shuts down.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr, places: Places) {
        let Ok(failed) = socket::failed(&stream) else { return };
        let mut leave = pin!(places.stranger.told_to_leave());
        // The handshake is boxed so that its state is freed afterwards.
        let stream = tokio::select! {
            stream = Box::pin(secure(&self.acceptor, self.limits.handshake(), stream)) => stream,
            () = leave.as_mut() => None,
        };
        let Some(stream) = stream else { return };
        let (peer, connection) = self.connect(stream, address, places);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = peer.unused(self.limits.first_request(), self.idle) => {}
            () = leave => {}
            () = failed => {}
            () = shut_down(self.shutdown.clone()) => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }

    /// Sets up HTTP on a connection; returns its peer and the future that serves it.
    fn connect(
        &self,
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        places: Places,
    ) -> (Arc<Peer>, impl GracefulConnection<Error: Send>) {
        let server_name = stream.get_ref().1.server_name().map(str::to_owned);
        let peer = Arc::new(Peer::new(address, server_name, Some(places)));
        let (requests, client) = (Arc::clone(&self.requests), Arc::clone(&peer));
        let service = service_fn(move |request| {
            let (requests, client) = (Arc::clone(&requests), Arc::clone(&client));
            // HTTP/1.1 keeps space for this future as long as the connection is open, so the future is boxed.
            Box::pin(async move { Ok::<_, Infallible>(requests.respond(client, request).await) })
        });
        (peer, self.http.serve_connection_with_upgrades(TokioIo::new(stream), service))
    }
}

/// Performs the TLS handshake. A client that does not speak TLS gets no explanation.
async fn secure<S>(acceptor: &TlsAcceptor, longest: Duration, stream: S) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(longest, acceptor.accept(stream)).await.ok()?.ok()
}

/// Settings of HTTP, whichever version TLS has negotiated.
fn http(idle: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(HEADERS)
        .max_headers(headers::MOST)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(headers::list_size(HEADERS))
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    builder
}

async fn shut_down(mut shutdown: watch::Receiver<bool>) {
    // An error means that the sender is gone, which ends the connections, too.
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;
    use tokio_rustls::TlsConnector;

    use super::super::tests::{DOMAIN, certificate};
    use super::*;

    const HANDSHAKE: Duration = Duration::from_secs(10);

    fn acceptor() -> (TlsAcceptor, rustls::RootCertStore) {
        let (roots, config, _) = certificate();
        (TlsAcceptor::from(Arc::new(config)), roots)
    }

    #[tokio::test]
    async fn a_handshake_tells_the_name_that_the_client_has_asked_for() {
        let (acceptor, roots) = acceptor();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = format!("one.{DOMAIN}");
        let (client, server) = duplex(1 << 16);
        let wanted = ServerName::try_from(name.clone()).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(wanted, client);
        let (client, server) = tokio::join!(connecting, secure(&acceptor, HANDSHAKE, server));
        client.unwrap();
        assert_eq!(server.unwrap().get_ref().1.server_name(), Some(name.as_str()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_speak_tls_is_not_waited_for() {
        let (acceptor, _) = acceptor();
        let begun = Instant::now();
        let (mut client, server) = duplex(1 << 16);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
        assert!(secure(&acceptor, HANDSHAKE, server).await.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

        let (_silent, server) = duplex(1 << 16);
        assert!(secure(&acceptor, HANDSHAKE, server).await.is_none());
        assert_eq!(begun.elapsed(), HANDSHAKE);
    }
}
