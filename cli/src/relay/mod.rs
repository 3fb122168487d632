//! A relay on this machine through which browsers reach a microVM: they cannot send tokens by themselves.
//!
//! ```text
//! browser ── http://hearth-….localhost:PORT ──► guard ──► forward ── TLS, token, port ──► endpoint
//! ```
//!
//! * [`guard`] – decides who may use it: every program on the machine can connect, and every page in a browser can try
//! * [`forward`] – forwards the requests of a browser's connection to the endpoint
//! * [`headers`] – changes headers of requests and responses
//! * [`browser`] – opens the first URL

mod browser;
mod forward;
mod guard;
mod headers;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, SET_COOKIE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

pub(crate) use self::browser::open;
use self::forward::Forwarder;
pub(crate) use self::guard::HostName;
use self::guard::{Guard, Verdict};
use crate::endpoint::{Dialer, Tokens};
use crate::error::Failure;

/// Header that makes a browser open another URL; unlike a redirect, see [`enter`].
const REFRESH: HeaderName = HeaderName::from_static("refresh");
/// Pause before the next connection is accepted when the system has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Body of a response.
type Body = Either<Incoming, Full<Bytes>>;

/// A relay and its listener.
pub(crate) struct Relay {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// The common state of all connections.
struct Shared {
    guard: Guard,
    dialer: Dialer,
    tokens: Tokens,
}

impl Relay {
    /// Listens on a free port of this machine.
    pub(crate) async fn bind(dialer: Dialer, tokens: Tokens, name: HostName) -> Result<Self, Failure> {
        let unusable =
            |error: std::io::Error| Failure::failed(format!("cannot listen on 127.0.0.1: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(unusable)?;
        let port = listener.local_addr().map_err(unusable)?.port();
        let shared = Shared { guard: Guard::new(name, port)?, dialer, tokens };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// The URL that lets a browser in, for as long as the relay runs.
    pub(crate) fn url(&self, path: &str) -> String {
        self.shared.guard.url(path)
    }

    /// A URL that lets a browser in once: other users can see it in the list of processes.
    pub(crate) fn url_for_once(&self, path: &str) -> String {
        self.shared.guard.url_for_once(path)
    }

    /// Serves for ever.
    pub(crate) async fn serve(self) -> Infallible {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(serve_connection(stream, Arc::clone(&self.shared)));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without this, small writes would be delayed; a failure only makes it slower.
    drop(stream.set_nodelay(true));
    let forwarder = Arc::new(Forwarder::new(shared));
    let service = service_fn(move |request| {
        let forwarder = Arc::clone(&forwarder);
        async move { Ok::<_, Infallible>(answer(&forwarder, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Browsers may close connections at any time.
    drop(connection.await);
}

async fn answer(forwarder: &Forwarder, request: Request<Incoming>) -> Response<Body> {
    match forwarder.shared.guard.judge(request.uri(), request.headers()) {
        Verdict::Pass => match forwarder.forward(request).await {
            Ok(response) => response.map(Either::Left),
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("hearth open: {error}\n")),
        },
        Verdict::Enter { path, cookie } => enter(&path, &cookie),
        Verdict::Refuse(why) => text(StatusCode::FORBIDDEN, format!("hearth open: {why}\n")),
    }
}

/// Sets the browser's cookie, and makes it open the path by itself: after a redirect, a browser that was sent here
/// by another page (a terminal's or a mail's in the browser) would regard that page as the origin, and not send the cookie.
fn enter(path: &str, cookie: &str) -> Response<Body> {
    let mut response = text(StatusCode::OK, "hearth open: one moment …\n".to_owned());
    let headers = response.headers_mut();
    if let (Ok(refresh), Ok(cookie)) =
        (HeaderValue::from_str(&format!("0; url={path}")), HeaderValue::from_str(cookie))
    {
        headers.insert(REFRESH, refresh);
        headers.insert(SET_COOKIE, cookie);
    }
    response
}

/// A response of the relay itself. It must not be cached, nor its URL be passed to other sites.
fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
