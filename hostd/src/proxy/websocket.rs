//! WebSocket connections (RFC 6455): the handshake is passed on without the platform's subprotocols, then bytes.

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::body::Meter;
use super::credentials::PROTOCOL;
use crate::panics;

/// Bytes that are on their way at once, for each direction.
const BUFFER: usize = 16 << 10;
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Whether a request is for a WebSocket.
#[must_use]
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    let lists = |name, word: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && lists(CONNECTION, "upgrade")
        && lists(UPGRADE, "websocket")
}

/// Says in headers that were cleaned that a WebSocket is wanted, or agreed on.
pub fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// The subprotocol of an answer: the app's choice, or the platform's own where the client has offered that only.
pub fn answer_protocol(headers: &mut HeaderMap, offered: bool) {
    if offered && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
}

/// Passes bytes on between a client and the app until both directions have ended, or one of the two is gone.
/// `keep` is dropped then. Each direction has its own meter.
pub fn tunnel(
    meters: [Meter; 2],
    keep: impl Send + 'static,
    client: OnUpgrade,
    response: &mut Response<Incoming>,
) {
    let app = hyper::upgrade::on(response);
    tokio::spawn(panics::request(async move {
        let (_keep, [up, down]) = (keep, meters);
        let Ok((client, app)) = tokio::try_join!(client, app) else { return };
        let (client_reads, client_writes) = tokio::io::split(TokioIo::new(client));
        let (app_reads, app_writes) = tokio::io::split(TokioIo::new(app));
        let up = copy(up, client_reads, app_writes);
        let down = copy(down, app_reads, client_writes);
        let _ = tokio::try_join!(up, down);
    }));
}

/// Passes one direction on. When the other end takes no more, that direction is over, and what it has still said is read all the same.
async fn copy(
    mut meter: Meter,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            let _ = to.shutdown().await; // over either way
            return Ok(());
        }
        if to.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() || to.flush().await.is_err()
        {
            return Ok(());
        }
        meter.pass(length).await;
    }
}
