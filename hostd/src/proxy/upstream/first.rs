//! The first request to a port, which shows whether the port speaks plain text or TLS.
//!
//! An app that speaks plain text is not disturbed: the request is sent in plain text, its body a moment later. A TLS
//! server responds with an alert, an error or the end of the connection, which no plain server does before it has read
//! the request; then, and only then, a TLS handshake is tried.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, Error};

use super::dial::Dial;
use super::scheme::{KnownScheme, PortScheme};
use crate::proxy::body::{HeldBody, Meter, RequestBody, Upload};

/// How long the body of the first request to a port is held back.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends a request to a port of which it is not known yet whether it speaks TLS.
///
/// # Errors
/// The app does not respond.
pub(super) async fn send_first(
    client: &Client<Dial, Upload>,
    dial: &Dial,
    known: &KnownScheme,
    meter: &(impl Fn() -> Meter + Sync),
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Error> {
    let (head, body) = request.into_parts();
    let (again, held) = (head.clone(), HeldBody::new(body));
    let first = match held.is_empty() {
        true => Upload::nothing(meter()),
        false => Upload::held(meter(), &held, PAUSE),
    };
    let response = client.request(Request::from_parts(head, first)).await;
    let may_be_tls = match &response {
        Ok(response) => response.status() == StatusCode::BAD_REQUEST && closes(response.headers()),
        Err(error) => !error.is_connect(),
    };
    if may_be_tls
        && let Some(body) = held.take_back()
        && dial.accepts_tls().await
    {
        known.set(Some(PortScheme::Tls));
        return client.request(Request::from_parts(again, Upload::body(meter(), body))).await;
    }
    if response.is_ok() {
        known.set(Some(PortScheme::Plain));
    }
    response
}

fn closes(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLAIN, TLS, World};
    use super::super::{Protocol, Upstreams};
    use super::*;

    #[tokio::test]
    async fn the_first_response_shows_the_scheme_of_a_port() {
        let world = World::new().await;
        let guest = world.guest().await;
        let upstream = Upstreams::default().of("microvm-1", &guest);
        for (port, scheme) in [(PLAIN, PortScheme::Plain), (TLS, PortScheme::Tls)] {
            assert_eq!(upstream.known_scheme(port), None);
            for _ in 0..2 {
                assert_eq!(world.get(&upstream, port, Protocol::Http1).await.unwrap(), 200);
                assert_eq!(upstream.known_scheme(port), Some(scheme));
            }
        }
    }

    #[test]
    fn a_closing_app_is_recognised_by_its_connection_header() {
        let closes = |value: &'static str| {
            let value = hyper::header::HeaderValue::from_static(value);
            closes(&[(CONNECTION, value)].into_iter().collect())
        };
        assert_eq!(["close", "Close", "keep-alive"].map(closes), [true, true, false]);
    }
}
