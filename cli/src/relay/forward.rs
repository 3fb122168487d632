//! Forwards the requests of one connection of a browser over one connection to the endpoint.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::Mutex;

use super::{Shared, headers};
use crate::endpoint::{DialError, ERROR, UNAUTHORIZED};
use crate::error::Failure;

/// Buffer in bytes of each direction of a tunnel.
const BUFFER: usize = 16 << 10;

/// The body of a forwarded request: the browser's, or none.
type Sent = Either<Incoming, Empty<Bytes>>;

/// Why a request could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    /// The connection failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No token could be made.
    #[error(transparent)]
    Token(#[from] Failure),
    /// The connection broke.
    #[error("the connection to the endpoint broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The request is one for a proxy, which browsers do not send to a relay.
    #[error("a relay is no proxy: ask for paths")]
    NoPath,
}

/// A connection to the endpoint for one connection of a browser, which sends one request after the other.
pub(super) struct Forwarder {
    pub(super) shared: Arc<Shared>,
    sender: Mutex<Option<SendRequest<Sent>>>,
}

impl Forwarder {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sender: Mutex::new(None) }
    }

    /// The endpoint's response. Bodies are streamed in both directions.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, ForwardError> {
        let browser = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        let local =
            parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        let tokens = &self.shared.tokens;
        let token = tokens.get().await?;
        let repeatable = body.is_end_stream();
        let again = parts.clone();
        let sent = if repeatable { Either::Right(Empty::new()) } else { Either::Left(body) };
        let mut response = self.send(self.request(parts, sent, &local, token.clone())?).await?;
        // The daemon may have new keys by now, or another clock.
        if is_unauthorized(&response) {
            let token = tokens.instead_of(&token).await?;
            if repeatable {
                let sent = Either::Right(Empty::new());
                response = self.send(self.request(again, sent, &local, token)?).await?;
            }
        }
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded {
            tokio::spawn(tunnel(browser, hyper::upgrade::on(&mut response)));
        }
        headers::response(response.headers_mut(), &self.shared.dialer.address, &local, upgraded);
        Ok(response)
    }

    fn request(
        &self,
        parts: Parts,
        body: Sent,
        local: &str,
        token: HeaderValue,
    ) -> Result<Request<Sent>, ForwardError> {
        let path = parts.uri.path_and_query().filter(|_| parts.method != Method::CONNECT);
        let path = path.ok_or(ForwardError::NoPath)?.as_str();
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = path.parse().map_err(|_| ForwardError::NoPath)?;
        *request.version_mut() = Version::HTTP_11;
        let mut map: HeaderMap = parts.headers;
        let (address, port) = (&self.shared.dialer.address, self.shared.tokens.port);
        headers::request(&mut map, address, local, port, token);
        *request.headers_mut() = map;
        Ok(request)
    }

    /// Sends a request over the existing connection, or over a new one: the endpoint may close it between two requests.
    async fn send(&self, request: Request<Sent>) -> Result<Response<Incoming>, ForwardError> {
        let mut held = self.sender.lock().await;
        let mut request = request;
        if let Some(mut sender) = held.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    *held = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let stream = self.shared.dialer.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Errors of the connection are reported to the request that is under way.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let response = sender.send_request(request).await?;
        *held = Some(sender);
        Ok(response)
    }
}

fn is_unauthorized<T>(response: &Response<T>) -> bool {
    response.status() == StatusCode::FORBIDDEN
        && response.headers().get(ERROR).is_some_and(|code| code.as_bytes() == UNAUTHORIZED.as_bytes())
}

/// Copies bytes in both directions until both sides have ended, or one has failed.
async fn tunnel(browser: OnUpgrade, endpoint: OnUpgrade) {
    if let (Ok(browser), Ok(endpoint)) = tokio::join!(browser, endpoint) {
        let (browser_reads, browser_writes) = split(TokioIo::new(browser));
        let (endpoint_reads, endpoint_writes) = split(TokioIo::new(endpoint));
        // Either side may close the connection at any time.
        let _ = tokio::try_join!(pass(browser_reads, endpoint_writes), pass(endpoint_reads, browser_writes));
    }
}

/// Copies one direction. If the destination fails, its direction is over, but the rest of the source is still read.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            let _ = to.shutdown().await; // the direction is over in any case
            return Ok(());
        }
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return Ok(());
        }
    }
}
