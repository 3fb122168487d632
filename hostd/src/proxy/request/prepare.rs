//! The seventh step: the request as the app receives it, without what is between client and endpoint.

use std::sync::Arc;

use hyper::body::Body;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::http::uri::{Parts, PathAndQuery, Scheme};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Uri, Version};

use super::super::error::ProxyError;
use super::super::headers::{self, REQUEST_ID};
use super::super::limiter::Limiter;
use super::super::peer::Peer;
use super::super::shares::Underway;
use super::super::upstream::Protocol;
use super::super::{credentials, websocket};
use super::host::Host;
use super::wake::Entered;
use crate::driver::gate::Pass;

/// Header that requests HTTP/2 with prior knowledge for the connection to the app.
const FORCE_H2: HeaderName = HeaderName::from_static("x-aws-proxy-force-h2");
const GRPC: &[u8] = b"application/grpc";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A request as the app receives it.
#[derive(Debug)]
pub(super) struct Prepared<B> {
    pub(super) request: Request<B>,
    /// The protocol of the connection to the app.
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) pass: Pass,
    pub(super) limiter: Option<Arc<Limiter>>,
    pub(super) underway: Underway,
    /// The client's side of a WebSocket.
    pub(super) upgrade: Option<Upgrade>,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// The client's side of a WebSocket handshake.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub(super) client: OnUpgrade,
    /// Whether the client has offered the platform's subprotocol.
    pub(super) offered: bool,
}

/// Prepares requests for apps.
#[derive(Debug)]
pub(super) struct Preparation {
    /// Whether the platform's cookies are removed.
    pub(super) cookies: bool,
    /// Whether the app receives the client's address.
    pub(super) forwarded_for: bool,
}

impl Preparation {
    /// Prepares a request, whose id is `id`.
    ///
    /// # Errors
    /// [`ProxyError::Bad`] if the request cannot be passed on.
    pub(super) fn prepare<B: Body>(
        &self,
        entered: Entered,
        peer: &Peer,
        id: &str,
        mut request: Request<B>,
    ) -> Result<Prepared<B>, ProxyError> {
        let Entered { host, pass, limiter, underway, port, websocket, .. } = entered;
        let upgrade = websocket.then(|| {
            let offered = credentials::protocols(request.headers()).any(|one| one == credentials::PROTOCOL);
            Upgrade { client: hyper::upgrade::on(&mut request), offered }
        });
        let protocol = protocol(request.headers(), websocket);
        let (mut head, body) = request.into_parts();
        self.change(&mut head.headers, peer, id, websocket);
        head.uri = target(&host, &head.uri)?;
        match protocol {
            Protocol::Http1 => {
                head.version = Version::HTTP_11;
                let host = HeaderValue::try_from(host.authority().as_str());
                head.headers.insert(HOST, host.map_err(|_| ProxyError::Bad("Invalid Host"))?);
                announce(&mut head.headers, &body);
            }
            Protocol::Http2 => {
                head.version = Version::HTTP_2;
                head.headers.remove(HOST);
            }
        }
        let request = Request::from_parts(head, body);
        Ok(Prepared { request, protocol, port, pass, limiter, underway, upgrade, _checked: Checked })
    }

    /// Changes the headers to what the app receives.
    fn change(&self, headers: &mut HeaderMap, peer: &Peer, id: &str, websocket: bool) {
        headers::clean(headers);
        credentials::remove_protocols(headers);
        if self.cookies {
            credentials::remove_cookies(headers);
        }
        if websocket {
            websocket::set_upgrade(headers);
        }
        if let Ok(id) = HeaderValue::try_from(id) {
            headers::set(headers, REQUEST_ID, id);
        }
        if self.forwarded_for
            && let Ok(address) = HeaderValue::try_from(peer.address.ip().to_string())
        {
            // Only the address that is known here: what the client has sent could be anything.
            headers::set(headers, FORWARDED_FOR, address);
        }
    }
}

/// The protocol of the connection to the app.
fn protocol(headers: &HeaderMap, websocket: bool) -> Protocol {
    let forced = headers.get(FORCE_H2).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    if !websocket && (forced || grpc) { Protocol::Http2 } else { Protocol::Http1 }
}

/// Whether a content type is gRPC's, `application/grpc` or `application/grpc+…`, which there is over HTTP/2 only. gRPC-Web
/// (`application/grpc-web…`) is for whatever version of HTTP there is.
fn is_grpc(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let (name, suffix) = media_type.split_at_checked(GRPC.len()).unwrap_or((media_type, b""));
    name.eq_ignore_ascii_case(GRPC) && matches!(suffix.first(), None | Some(b'+'))
}

/// Announces a body without a length to the app, whatever the method: HTTP clients assume that a GET has none.
fn announce(headers: &mut HeaderMap, body: &impl Body) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The target URI of a request to the app.
fn target(host: &Host, uri: &Uri) -> Result<Uri, ProxyError> {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.authority().clone());
    // The target `*` of OPTIONS is a path here, too.
    parts.path_and_query =
        Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).map_err(|_| ProxyError::Bad("The target of the request cannot be passed on"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HANDSHAKE, Steps};
    use super::*;

    type Nothing = http_body_util::Empty<bytes::Bytes>;

    /// The request that the app receives, with its headers in order, and the protocol.
    async fn prepared(steps: &Steps, headers: &[(&str, &str)]) -> (Prepared<Nothing>, Vec<String>) {
        let token = steps.host.token();
        let request = steps.request_to("/a?b=1", &[headers, &[("x-aws-proxy-auth", &token)]].concat());
        let entered = steps.entered(&request).await;
        let preparation = Preparation { cookies: true, forwarded_for: true };
        let request = request.map(|()| Nothing::new());
        let prepared = preparation.prepare(entered, &steps.peer, "id-1", request).unwrap();
        let headers = prepared.request.headers().iter();
        let mut lines: Vec<_> =
            headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        (prepared, lines)
    }

    #[tokio::test]
    async fn the_app_receives_what_is_meant_for_it() {
        let steps = Steps::new().await;
        let (prepared, lines) = prepared(
            &steps,
            &[
                ("connection", "x-private"),
                ("x-private", "1"),
                ("x-aws-proxy-other", "1"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-amzn-requestid", "theirs"),
                ("cookie", "a=b; __Host-hearth-port=80"),
                ("accept", "text/html"),
            ],
        )
        .await;
        let host = steps.name();
        let expected = [
            "accept: text/html".to_owned(),
            "cookie: a=b".to_owned(),
            format!("host: {host}"),
            "x-amzn-requestid: id-1".to_owned(),
            "x-forwarded-for: 127.0.0.1".to_owned(),
        ];
        assert_eq!(lines, expected);
        assert_eq!(prepared.request.uri().to_string(), format!("http://{host}/a?b=1"));
        assert_eq!((prepared.port, prepared.protocol), (8080, Protocol::Http1));
        assert!(prepared.upgrade.is_none());
    }

    #[tokio::test]
    async fn grpc_and_whoever_asks_for_it_get_http2() {
        let steps = Steps::new().await;
        for (name, value, protocol) in [
            ("content-type", "application/grpc", Protocol::Http2),
            ("content-type", "application/grpc+proto", Protocol::Http2),
            ("content-type", "Application/GRPC+JSON", Protocol::Http2),
            ("content-type", "application/grpc ; charset=utf-8", Protocol::Http2),
            ("content-type", "application/grpc;charset=utf-8", Protocol::Http2),
            ("content-type", "application/grpc-web", Protocol::Http1),
            ("content-type", "application/grpc-web+proto", Protocol::Http1),
            ("content-type", "application/grpc-web-text", Protocol::Http1),
            ("content-type", "Application/gRPC-Web-Text+proto; a=application/grpc", Protocol::Http1),
            ("content-type", "application/grpcx", Protocol::Http1),
            ("content-type", "application/grp", Protocol::Http1),
            ("content-type", "text/plain; application/grpc", Protocol::Http1),
            ("content-type", "", Protocol::Http1),
            ("x-aws-proxy-force-h2", "True", Protocol::Http2),
            ("x-aws-proxy-force-h2", "false", Protocol::Http1),
        ] {
            let (prepared, lines) = prepared(&steps, &[(name, value)]).await;
            assert_eq!(prepared.protocol, protocol, "{name}: {value}");
            let host = lines.iter().any(|line| line.starts_with("host: "));
            assert_eq!(host, protocol == Protocol::Http1, "HTTP/2 has the host in its target");
        }
    }

    #[tokio::test]
    async fn a_websocket_handshake_stays_one_without_the_platforms_subprotocols() {
        let steps = Steps::new().await;
        for (protocols, offered) in [("lambda-microvms, chat", true), ("chat", false)] {
            let headers = [&HANDSHAKE[..], &[("sec-websocket-protocol", protocols)]].concat();
            let (prepared, lines) = prepared(&steps, &headers).await;
            for expected in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat"] {
                assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:?}");
            }
            assert_eq!(prepared.upgrade.map(|upgrade| upgrade.offered), Some(offered));
            assert_eq!(prepared.protocol, Protocol::Http1);
        }
    }

    #[tokio::test]
    async fn the_target_without_a_path_has_one_for_the_app() {
        let steps = Steps::new().await;
        let host = steps.checked(&steps.good()).unwrap();
        for (given, path) in [("*", "*"), ("/", "/"), ("https://a.example", "/"), ("/a?b", "/a?b")] {
            let target = target(&host, &given.parse().unwrap()).unwrap();
            assert_eq!(target.path_and_query().unwrap().as_str(), path, "{given}");
            assert_eq!(target.authority(), Some(host.authority()));
        }
    }
}
