//! The endpoint of a microVM with scripted responses, behind TLS with an authority of its own.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_proto::host::v1::EndpointStatus;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::daemon::NAME;
use crate::piped;
use crate::support::Host;

/// A duration that is longer than any request.
const LONG: Duration = Duration::from_secs(60);

/// A running endpoint, which stops with the test.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    pub(crate) authority_pem: String,
    seen: Arc<Mutex<Vec<Received>>>,
    refusals: Arc<AtomicUsize>,
    /// Whether its shells have pipes, which those of earlier releases have not.
    pub(crate) pipes: Arc<AtomicBool>,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Body = Either<Incoming, Full<Bytes>>;

impl Endpoint {
    /// Starts to listen, and has the daemon report this endpoint.
    pub(crate) async fn start(host: &Host) -> Self {
        let (config, authority_pem) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Self {
            port,
            authority_pem,
            seen: Arc::default(),
            refusals: Arc::default(),
            pipes: Arc::new(AtomicBool::new(true)),
        };
        *host.daemon.endpoint.lock().unwrap() = Some(EndpointStatus {
            address: format!("127.0.0.1:{port}"),
            domain: "lambda-microvm.eu-test-1.example".into(),
            certificate_authority_pem: endpoint.authority_pem.clone(),
        });
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(acceptor.clone(), stream));
            }
        });
        endpoint
    }

    /// The host part of URLs.
    pub(crate) fn host(&self) -> String {
        format!("{NAME}:{}", self.port)
    }

    /// Refuses the next request as if its token had expired.
    pub(crate) fn refuse_next(&self) {
        self.refusals.fetch_add(1, Ordering::SeqCst);
    }

    /// The last request.
    pub(crate) fn last(&self) -> Received {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    /// The request with this line, once it was received.
    pub(crate) async fn received(&self, line: &str) -> Received {
        let request = async {
            loop {
                let found = self.seen.lock().unwrap().iter().find(|request| request.line == line).cloned();
                match found {
                    Some(request) => return request,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(LONG, request).await.unwrap_or_else(|_| panic!("nobody asks: {line}"))
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream) {
        // Clients that do not trust the endpoint close the connection.
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(move |request| {
            let endpoint = self.clone();
            async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        drop(http.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let line = format!("{} {}", request.method(), request.uri());
        let received = Received { line: line.clone(), headers: request.headers().clone() };
        self.seen.lock().unwrap().push(received.clone());
        let refused =
            self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let is_shell = received
            .header("sec-websocket-protocol")
            .is_some_and(|protocols| protocols == "lambda-microvms, lambda-microvms.authentication.s0");
        let is_known = is_shell || received.header("x-aws-proxy-auth") == Some("t0");
        if refused.is_ok() || !is_known {
            let mut response = text("Request missing authentication");
            *response.status_mut() = StatusCode::FORBIDDEN;
            response.headers_mut().insert("x-aws-proxy-error", HeaderValue::from_static("UNAUTHORIZED"));
            return response;
        }
        if received.headers.contains_key(UPGRADE) {
            let upgrade = hyper::upgrade::on(&mut request);
            let is_piped = self.pipes.load(Ordering::SeqCst) && line.ends_with("&streams=pipes");
            tokio::spawn(async move {
                let stream = TokioIo::new(upgrade.await.unwrap());
                let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
                match (is_shell, is_piped) {
                    (true, true) => piped::serve(socket).await,
                    (true, false) => shell(socket).await,
                    _ => echo(socket).await,
                }
            });
            return switch(&received, is_shell);
        }
        match request.uri().path() {
            "/echo" => Response::new(Either::Left(request.into_body())),
            "/moved" => {
                let mut response = text("");
                *response.status_mut() = StatusCode::FOUND;
                let headers = response.headers_mut();
                headers.insert("location", format!("https://{}/there", self.host()).parse().unwrap());
                headers.insert("set-cookie", format!("a=b; Domain={NAME}; Path=/").parse().unwrap());
                response
            }
            "/page" => {
                let mut response = text(include_str!("page.html"));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
                response
            }
            _ => {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                text(&format!("{line} {}", String::from_utf8_lossy(&body)))
            }
        }
    }
}

fn text(text: &str) -> Response<Body> {
    Response::new(Either::Right(Full::new(Bytes::from(text.to_owned()))))
}

fn switch(request: &Received, is_shell: bool) -> Response<Body> {
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let key = request.header("sec-websocket-key").unwrap();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse().unwrap());
    if is_shell {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("lambda-microvms"));
    }
    response
}

pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn echo(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

/// A shell that prints input in upper case, prints each size, and knows `exit N`, `leave` and `break`.
///
/// With `exec`, it prints the command's words and the input until Ctrl-D instead, and exits with the number of words.
async fn shell(mut socket: Socket) {
    let init = r#"{"type":"session_init","session_id":"00000000-0000-4000-8000-000000000000"}"#;
    socket.send(Message::text(init)).await.unwrap();
    let mut words = None;
    let mut first = true;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) => {
                let message: serde_json::Value = serde_json::from_str(&text).unwrap();
                let shown = if message["type"] == "exec" {
                    assert!(first, "the command comes first");
                    let command: Vec<String> = serde_json::from_value(message["command"].clone()).unwrap();
                    words = Some(command.len());
                    format!("{command:?}\r\n")
                } else {
                    format!("size={}x{}\r\n", message["cols"], message["rows"])
                };
                first = false;
                socket.send(Message::binary(shown.into_bytes())).await.unwrap();
            }
            Message::Binary(typed) => {
                socket.send(Message::binary(typed.to_ascii_uppercase())).await.unwrap();
                let typed = String::from_utf8(typed.to_vec()).unwrap();
                match (typed.trim(), words) {
                    ("leave", _) => return close(&mut socket, CloseCode::Normal, "shell exited").await,
                    ("break", _) => return,
                    ("away", _) => return close(&mut socket, CloseCode::Away, "stopping").await,
                    (end, words) if end.contains('\u{4}') => {
                        return exit(&mut socket, words.unwrap_or(0)).await;
                    }
                    (other, _) => {
                        if let Some(status) = other.strip_prefix("exit ") {
                            return exit(&mut socket, status.parse().unwrap()).await;
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

pub(crate) async fn exit(socket: &mut Socket, code: usize) {
    // The client may have closed the connection: it has everything it needs.
    drop(socket.send(Message::text(format!(r#"{{"type":"exit","code":{code}}}"#))).await);
    close(socket, CloseCode::Normal, "shell exited").await;
}

async fn close(socket: &mut Socket, code: CloseCode, reason: &str) {
    drop(socket.close(Some(CloseFrame { code, reason: reason.into() })).await);
    // Closing a socket with unread bytes would discard what the client has not read yet.
    while let Some(Ok(_)) = socket.next().await {}
}

/// TLS for the endpoint's name, and the PEM of the authority that has signed its certificate.
fn tls() -> (ServerConfig, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // The authority has a name of its own: curl regards a certificate with its signer's name as self-signed.
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (config, authority.pem())
}
