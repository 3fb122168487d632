//! Connections to apps.
//!
//! Each process of a microVM has its own connections, which are reused and end with the process. An app is reached over
//! plain HTTP/1.1. Requests with `X-aws-proxy-force-h2` and gRPC requests use HTTP/2 with prior knowledge. If the port
//! turns out to speak TLS, the connection uses HTTP/1.1 or HTTP/2 over TLS, with any certificate: the app is identified
//! by its microVM.
//!
//! Whether a port speaks TLS is detected with the first request, without disturbing an app that does not: the request
//! is sent in plain text, its body a moment later. A TLS server responds with an alert, an error or the end of the
//! connection, which no plain server does before it has read the request; then, and only then, a TLS handshake is
//! tried.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderMap};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection as ConnectionInfo};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::{Held, Meter, Received, Upload};
use super::error::ProxyError;
use super::limits::Limiter;
use crate::driver::gate::Gate;
use crate::panics::poisoned;
use crate::platform::{ConnectError, Connection, Guest};

/// How long the body of the first request to a port is held back.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a TLS handshake with the app may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long idle connections are kept: shorter than apps keep them (Node and uvicorn 5 s). Otherwise an app could close
/// a connection while a request is being sent on it.
const KEEP: Duration = Duration::from_secs(4);
/// Greatest number of idle connections to one port: as many as there may be concurrent requests. With fewer, each
/// further request would open and close a connection of its own.
const KEEP_MAX: usize = 1024;
/// Flow-control windows of HTTP/2 for data from the app, in bytes, for each stream and each connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// The protocol of a connection to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 over plain TCP; the protocol that the app chooses over TLS.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// The connections to all apps.
#[derive(Debug, Default)]
pub struct Upstreams {
    by_id: Mutex<HashMap<String, Arc<Upstream>>>,
}

impl Upstreams {
    /// The connections to the app of a microVM's process.
    #[must_use]
    pub fn of(&self, id: &str, guest: &Arc<dyn Guest>) -> Arc<Upstream> {
        let mut by_id = self.by_id.lock().unwrap_or_else(poisoned);
        if let Some(upstream) = by_id.get(id).filter(|upstream| upstream.is_of(guest)) {
            return Arc::clone(upstream);
        }
        // Entries of ended processes are removed here, because new processes are rare compared to requests.
        by_id.retain(|_, upstream| upstream.guest.strong_count() > 0);
        let upstream = Arc::new(Upstream::new(guest));
        by_id.insert(id.to_owned(), Arc::clone(&upstream));
        upstream
    }
}

/// Whether a port speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Plain,
    Tls,
}

/// The connections to the app of one process of a microVM.
#[derive(Debug)]
pub struct Upstream {
    guest: Weak<dyn Guest>,
    ports: Mutex<HashMap<u16, Arc<Port>>>,
}

/// The connections to one port.
#[derive(Debug)]
struct Port {
    http1: Client<Dial, Upload>,
    http2: Client<Dial, Upload>,
    speech: Arc<Mutex<Option<Speech>>>,
}

impl Port {
    fn new(guest: &Weak<dyn Guest>, port: u16) -> Self {
        let speech = Arc::default();
        let dial = |protocol| Dial { guest: Weak::clone(guest), port, speech: Arc::clone(&speech), protocol };
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP)
            .pool_max_idle_per_host(KEEP_MAX)
            .set_host(false)
            .http2_initial_stream_window_size(WINDOWS.0)
            .http2_initial_connection_window_size(WINDOWS.1);
        let http1 = builder.build(dial(Protocol::Http1));
        let http2 = builder.http2_only(true).build(dial(Protocol::Http2));
        Self { http1, http2, speech }
    }

    fn client(&self, protocol: Protocol) -> &Client<Dial, Upload> {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }

    fn speech(&self) -> Option<Speech> {
        *self.speech.lock().unwrap_or_else(poisoned)
    }

    fn set(&self, speech: Option<Speech>) {
        *self.speech.lock().unwrap_or_else(poisoned) = speech;
    }
}

impl Upstream {
    fn new(guest: &Arc<dyn Guest>) -> Self {
        Self { guest: Arc::downgrade(guest), ports: Mutex::default() }
    }

    fn is_of(&self, guest: &Arc<dyn Guest>) -> bool {
        std::ptr::addr_eq(self.guest.as_ptr(), Arc::as_ptr(guest))
    }

    fn port(&self, port: u16) -> Arc<Port> {
        let mut ports = self.ports.lock().unwrap_or_else(poisoned);
        Arc::clone(ports.entry(port).or_insert_with(|| Arc::new(Port::new(&self.guest, port))))
    }

    /// Sends a request to a port of the app. Target and headers are already those that the app is to receive.
    ///
    /// # Errors
    /// The error for the client when the app does not respond.
    pub async fn send(
        &self,
        gate: &Arc<Gate>,
        limiter: Option<&Arc<Limiter>>,
        port: u16,
        protocol: Protocol,
        request: Request<Received>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let meter = || Meter::new(gate, limiter);
        let way = self.port(port);
        let answer = match way.speech() {
            Some(_) => {
                let (head, body) = request.into_parts();
                way.client(protocol).request(Request::from_parts(head, upload(meter(), body))).await
            }
            None => self.send_first(&way, &meter, port, protocol, request).await,
        };
        answer.map_err(|error| {
            if error.is_connect() {
                // Another app may listen at this port next, or none.
                way.set(None);
                self.ports.lock().unwrap_or_else(poisoned).remove(&port);
            }
            tracing::debug!(
                microvm = gate.id(),
                port,
                error = &error as &dyn Error,
                "the app did not answer"
            );
            unanswered(&error)
        })
    }

    /// Sends a request to a port of which it is not known yet whether it speaks TLS.
    async fn send_first(
        &self,
        way: &Port,
        meter: &(impl Fn() -> Meter + Sync),
        port: u16,
        protocol: Protocol,
        request: Request<Received>,
    ) -> Result<Response<Incoming>, ClientError> {
        let (head, body) = request.into_parts();
        let (again, held) = (head.clone(), Held::new(body));
        let first = match held.is_empty() {
            true => Upload::nothing(meter()),
            false => Upload::held(meter(), &held, PAUSE),
        };
        let answer = way.client(protocol).request(Request::from_parts(head, first)).await;
        let may_be_tls = match &answer {
            Ok(response) => response.status() == StatusCode::BAD_REQUEST && closes(response.headers()),
            Err(error) => !error.is_connect(),
        };
        if may_be_tls
            && let Some(body) = held.take_back()
            && self.is_tls(port).await
        {
            way.set(Some(Speech::Tls));
            return way.client(protocol).request(Request::from_parts(again, upload(meter(), body))).await;
        }
        if answer.is_ok() {
            way.set(Some(Speech::Plain));
        }
        answer
    }

    /// Whether a port accepts a TLS handshake.
    async fn is_tls(&self, port: u16) -> bool {
        let Some(guest) = self.guest.upgrade() else { return false };
        match guest.connect(port).await {
            Ok(connection) => handshake(connection, Protocol::Http1).await.is_ok(),
            Err(_) => false,
        }
    }
}

fn upload(meter: Meter, body: Received) -> Upload {
    if body.is_end_stream() { Upload::nothing(meter) } else { Upload::body(meter, body) }
}

fn closes(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// The error for the client.
fn unanswered(error: &ClientError) -> ProxyError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<ConnectError>() {
            return refused.clone().into();
        }
        cause = error.source();
    }
    ProxyError::App
}

/// Opens connections to a port of the app.
#[derive(Clone, Debug)]
struct Dial {
    guest: Weak<dyn Guest>,
    port: u16,
    speech: Arc<Mutex<Option<Speech>>>,
    protocol: Protocol,
}

impl tower::Service<Uri> for Dial {
    type Response = Wire;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let gone = || ConnectError::Guest("the microVM's process has ended".to_owned());
            let connection = this.guest.upgrade().ok_or_else(gone)?.connect(this.port).await?;
            let speech = *this.speech.lock().unwrap_or_else(poisoned);
            match speech {
                Some(Speech::Tls) => handshake(connection, this.protocol).await,
                Some(Speech::Plain) | None => Ok(Wire::new(connection, false)),
            }
        })
    }
}

/// A connection to the app.
///
/// An app may respond and close the connection before it has read the whole request. Writing then fails although the
/// response can still be read. So after a failed write nothing more is written, and only reading determines the result.
struct Wire {
    stream: TokioIo<Box<dyn Connection>>,
    http2: bool,
    /// Whether writing has failed because the app does not read any more.
    broken: bool,
}

impl Wire {
    fn new(stream: Box<dyn Connection>, http2: bool) -> Self {
        Self { stream: TokioIo::new(stream), http2, broken: false }
    }

    /// Writes, until writing has failed once. A task that waits for a write after that is woken by the end of the data
    /// that is read.
    fn write<T>(
        &mut self,
        write: impl FnOnce(Pin<&mut TokioIo<Box<dyn Connection>>>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if self.broken {
            return Poll::Pending;
        }
        match write(Pin::new(&mut self.stream)) {
            Poll::Ready(Err(error)) if is_broken(&error) => {
                self.broken = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

fn is_broken(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
}

impl ConnectionInfo for Wire {
    fn connected(&self) -> Connected {
        if self.http2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.write(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.write(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(context, slices))
    }
}

/// TLS settings for apps: the app chooses the protocol, or HTTP/2 only.
static TLS: LazyLock<Result<[Arc<ClientConfig>; 2], rustls::Error>> = LazyLock::new(|| {
    let config = |protocols: &[&[u8]]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok::<_, rustls::Error>(Arc::new(config))
    };
    Ok([config(&[b"h2", b"http/1.1"])?, config(&[b"h2"])?])
});

/// Performs the TLS handshake with the app.
async fn handshake(connection: Box<dyn Connection>, protocol: Protocol) -> Result<Wire, ConnectError> {
    let failed = |why: &dyn std::fmt::Display| ConnectError::App(format!("TLS with the app: {why}"));
    let [any, http2] = TLS.as_ref().map_err(|error| failed(error))?;
    let config = match protocol {
        Protocol::Http1 => any,
        Protocol::Http2 => http2,
    };
    let name = ServerName::try_from("localhost").map_err(|error| failed(&error))?;
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, connection);
    let stream = timeout(HANDSHAKE, connecting).await.map_err(|_| failed(&"no answer"))?;
    let stream = stream.map_err(|error| failed(&error))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Wire::new(Box::new(stream), http2))
}

/// Accepts any certificate: the connection does not leave the host, and apps may use self-signed certificates.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
