//! Connections that stay open: a WebSocket, and server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::WatchStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use tonic::body::Body;

use crate::answer::text;
use crate::state::State;

/// A WebSocket: each text message is counted and answered, each binary one is echoed.
pub(crate) fn socket(state: &Arc<State>, mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return text(400, "ask for a WebSocket\n".to_owned());
    };
    let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        return text(400, "no such key\n".to_owned());
    };
    let (state, upgrade) = (Arc::clone(state), hyper::upgrade::on(&mut request));
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(_) => {
                    Message::text(format!("request {} of this microVM's life", state.count()))
                }
                Message::Binary(bytes) => Message::Binary(bytes),
                _ => continue, // the library answers pings and closes by itself
            };
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The count, now and whenever it has changed.
pub(crate) fn events(state: &State) -> Response<Body> {
    let events = WatchStream::new(state.counts())
        .map(|count| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("data: {count}\n\n")))));
    let mut response = Response::new(Body::new(StreamBody::new(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
