//! WebSocket connections (RFC 6455): the handshake is forwarded without the platform's subprotocols, and then the
//! bytes.

use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::body::Meter;
use super::credentials::PROTOCOL;
use super::idle::Idle;
use crate::panics;

/// Size of the buffer for each direction, in bytes.
const BUFFER: usize = 16 << 10;
/// How long a client may take to close its side when the app's is closed.
const LINGER: Duration = Duration::from_secs(5);
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Whether a request is a WebSocket handshake.
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

/// Sets the headers of a WebSocket handshake, in a request or a response whose hop-by-hop headers were removed.
pub fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// Sets the subprotocol of a response: the app's choice, or the platform's own if the client has offered it (`offered`)
/// and the app chooses none.
pub fn answer_protocol(headers: &mut HeaderMap, offered: bool) {
    if offered && !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
}

/// Forwards bytes between a client and the app until both directions have ended, one of the peers is gone, nothing has
/// passed for `longest`, or `over` is over: the client sees the end of the connection at once then. `keep` is dropped at the
/// end. Each direction has its own meter.
pub fn tunnel(
    meters: [Meter; 2],
    longest: Duration,
    keep: impl Send + 'static,
    over: impl Future<Output = ()> + Send + 'static,
    client: OnUpgrade,
    response: &mut Response<Incoming>,
) {
    let app = hyper::upgrade::on(response);
    tokio::spawn(panics::request(async move {
        let (_keep, [up, down]) = (keep, meters);
        let Ok((client, app)) = tokio::try_join!(client, app) else { return };
        let (client_reads, client_writes) = tokio::io::split(TokioIo::new(client));
        let (app_reads, app_writes) = tokio::io::split(TokioIo::new(app));
        let idle = Idle::new();
        let up = copy(up, &idle, client_reads, app_writes, std::future::pending());
        let down = copy(down, &idle, app_reads, client_writes, over);
        let (mut up, mut down) = (pin!(up), pin!(down));
        let both = async {
            tokio::select! {
                up = up.as_mut() => {
                    if up.is_ok() {
                        let _ = down.await; // both are over
                    }
                }
                down = down.as_mut() => {
                    if down.is_ok() {
                        // A connection that is closed with unread bytes loses what the client has not read yet.
                        let _ = timeout(LINGER, up).await; // both are over
                    }
                }
            }
        };
        tokio::select! {
            () = both => {}
            () = idle.over(longest) => {}
        }
    }));
}

/// Forwards one direction until it ends or `over` is over. If the receiver takes no more bytes, only this direction ends,
/// and what the receiver still sends is read all the same.
async fn copy(
    mut meter: Meter,
    idle: &Idle,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    over: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut over = pin!(over);
    loop {
        let length = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read?,
            () = over.as_mut() => 0,
        };
        if length == 0 {
            let _ = to.shutdown().await; // this direction is over either way
            return Ok(());
        }
        if to.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() || to.flush().await.is_err()
        {
            return Ok(());
        }
        idle.touch();
        meter.pass(length).await;
    }
}
