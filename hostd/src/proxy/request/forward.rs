//! The last step: the app's response.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};

use super::super::body::{Meter, RequestBody, ResponseBody};
use super::super::error::ProxyError;
use super::super::peer::Peer;
use super::super::upstream::Upstreams;
use super::super::{headers, websocket};
use super::prepare::{Prepared, Upgrade};

/// Forwards requests to apps, and their responses back.
#[derive(Debug)]
pub(super) struct Forwarding {
    upstreams: Upstreams,
    /// Time after which a WebSocket without a byte is closed.
    idle: Duration,
}

impl Forwarding {
    /// Forwards requests, and closes WebSockets on which nothing has passed for `idle`.
    pub(super) fn new(idle: Duration) -> Self {
        Self { upstreams: Upstreams::default(), idle }
    }

    /// Forwards a request, and returns the app's response for the client.
    ///
    /// # Errors
    /// [`ProxyError::App`] and [`ProxyError::Microvm`] if there is no response.
    pub(super) async fn forward(
        &self,
        prepared: Prepared<RequestBody>,
        peer: &Arc<Peer>,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let Prepared { request, protocol, port, mut pass, limiter, underway, upgrade, .. } = prepared;
        let upstream = self.upstreams.of(pass.gate().id(), pass.guest());
        let sent =
            upstream.send(pass.gate(), limiter.as_ref(), Some(underway.seat()), (port, protocol), request);
        let mut response = sent.await?;
        if response.headers().len() > headers::MOST {
            return Err(ProxyError::App); // HTTP/1.1 has counted them already
        }
        pass.response_started();
        let meter = Meter::new(pass.gate(), limiter.as_ref());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // A response that switches protocols without a WebSocket handshake is an error of the app.
            let Upgrade { client, offered } = upgrade.ok_or(ProxyError::App)?;
            let meters = [meter, Meter::new(pass.gate(), limiter.as_ref())];
            let keep = (Arc::clone(peer), underway);
            let (gate, guest) = (Arc::clone(pass.gate()), Arc::downgrade(pass.guest()));
            let over = async move { gate.left(guest).await };
            websocket::tunnel(meters, self.idle, keep, over, client, &mut response);
            let mut head = response.into_parts().0;
            headers::clean(&mut head.headers);
            websocket::set_upgrade(&mut head.headers);
            websocket::answer_protocol(&mut head.headers, offered);
            return Ok(Response::from_parts(head, ResponseBody::text(String::new())));
        }
        let (mut head, body) = response.into_parts();
        headers::clean(&mut head.headers);
        Ok(Response::from_parts(head, ResponseBody::flow(body, meter, (pass, peer.exchange(), underway))))
    }
}
