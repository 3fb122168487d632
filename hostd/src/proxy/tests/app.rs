//! An app for the tests.
//!
//! | Path | Behaviour |
//! |---|---|
//! | `/count` | counts the requests |
//! | `/headers` | responds with the request's method, target and headers, one per line |
//! | `/echo` | responds with the body as it arrives |
//! | `/early` | responds 413 at once, whatever the body |
//! | `/zeros/N` | responds with N zeros |
//! | `/slow` | responds when the test permits it |
//! | `/stream` | responds with a first part, and with the second when the test permits it |
//! | `/chat` | a WebSocket that echoes; chooses the subprotocol `chat` if it is offered |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A running app.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct App {
    pub(in crate::proxy) address: SocketAddr,
    pub(super) count: Arc<AtomicUsize>,
    /// Number of zeros that were read from the app.
    pub(super) sent: Arc<AtomicUsize>,
    /// Requests to `/slow` and `/stream` that have arrived.
    pub(super) arrived: Arc<Notify>,
    /// One permit for each request to `/slow` and `/stream` that may continue.
    pub(super) go: Arc<Semaphore>,
}

type Answer = BoxBody<Bytes, hyper::Error>;

impl App {
    /// Starts an app with plain HTTP/1.1 and HTTP/2.
    pub(in crate::proxy) async fn start() -> Self {
        Self::listen(None).await
    }

    /// Starts an app with HTTP/1.1 and HTTP/2 over TLS.
    pub(in crate::proxy) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::listen(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            count: Arc::default(),
            sent: Arc::default(),
            arrived: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
        };
        let serving = app.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (app, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => app.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                app.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        app
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(move |request| {
            let app = self.clone();
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    }

    async fn wait(&self) {
        self.arrived.notify_one();
        self.go.acquire().await.unwrap().forget();
    }

    async fn answer(self, mut request: Request<Incoming>) -> Response<Answer> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/count" => text(self.count.fetch_add(1, Ordering::SeqCst).to_string()),
            "/headers" => {
                let mut lines =
                    vec![format!("{} {} {:?}", request.method(), request.uri(), request.version())];
                for (name, value) in request.headers() {
                    lines.push(format!("{name}: {}", value.to_str().unwrap()));
                }
                text(lines.join("\n"))
            }
            "/echo" => {
                let mut response = Response::new(request.into_body().boxed());
                response.headers_mut().insert("x-aws-proxy-error", "FORGED".parse().unwrap());
                response
            }
            "/early" => {
                let mut response = text("too large".to_owned());
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                response
            }
            "/slow" => {
                self.wait().await;
                text("slow".to_owned())
            }
            "/stream" => {
                let parts = futures_util::stream::unfold(0, move |part| {
                    let app = self.clone();
                    async move {
                        if part == 1 {
                            app.wait().await;
                        }
                        let data = Frame::data(Bytes::from(format!("part {part}\n")));
                        (part < 2).then_some((Ok(data), part + 1))
                    }
                });
                Response::new(BoxBody::new(StreamBody::new(parts)))
            }
            "/chat" => chat(&mut request),
            path => match path.strip_prefix("/zeros/").and_then(|count| count.parse().ok()) {
                Some(count) => Response::new(Zeros { left: count, sent: Arc::clone(&self.sent) }.boxed()),
                None => {
                    let mut response = text(String::new());
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    response
                }
            },
        }
    }
}

fn text(text: String) -> Response<Answer> {
    Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed())
}

fn chat(request: &mut Request<Incoming>) -> Response<Answer> {
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let offered = request.headers().get("sec-websocket-protocol").cloned();
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut response = text(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "websocket".parse().unwrap());
    headers.insert("sec-websocket-accept", accept.parse().unwrap());
    if let Some(offered) = offered {
        assert!(!offered.to_str().unwrap().contains("lambda-microvms"), "{offered:?}");
        if offered.to_str().unwrap().contains("chat") {
            headers.insert("sec-websocket-protocol", "chat".parse().unwrap());
        }
    }
    response
}

/// A body of zeros.
#[derive(Debug)]
struct Zeros {
    left: usize,
    sent: Arc<AtomicUsize>,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        const PIECE: &[u8] = &[0; 64 << 10];
        let length = self.left.min(PIECE.len());
        self.left -= length;
        self.sent.fetch_add(length, Ordering::SeqCst);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(Bytes::from_static(&PIECE[..length])))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
