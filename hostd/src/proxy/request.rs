//! Processing of a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use hyper::http::uri::{Authority, Parts, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use uuid::Uuid;

use super::body::{Answer, Meter, Received};
use super::connection::Peer;
use super::credentials::{self, COOKIES, Credentials};
use super::error::ProxyError;
use super::headers::{self, REQUEST_ID};
use super::limits::Limiter;
use super::upstream::Protocol;
use super::{Inner, hooks, shell, websocket};
use crate::driver::gate::{Gate, Pass};
use crate::metrics::Outcome;
use crate::panics;
use crate::tokens::Kind;

/// Header that requests HTTP/2 with prior knowledge for the connection to the app.
const FORCE_H2: HeaderName = HeaderName::from_static("x-aws-proxy-force-h2");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Query parameters of a link that contains a token, and optionally a port.
const LINK: [&str; 2] = ["x-aws-proxy-auth", "x-aws-proxy-port"];

/// Shorter waits for a microVM are not counted in the metrics.
const WAIT: Duration = Duration::from_millis(1);

/// A request that may be forwarded to the app.
struct Admitted<'a> {
    /// Id of the request.
    id: &'a str,
    peer: &'a Arc<Peer>,
    host: Authority,
    gate: Arc<Gate>,
    limiter: Option<Arc<Limiter>>,
    /// Whether the client has offered the platform's subprotocol.
    offered: bool,
    websocket: bool,
}

impl Inner {
    /// Processes a request and returns the response.
    pub(super) async fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Response<Answer> {
        let _exchange = peer.exchange();
        let id = Uuid::new_v4().to_string();
        let handled = panics::request(self.handle(&peer, request.map(Received::new), &id)).await;
        let mut response = match handled.unwrap_or(Err(ProxyError::Panicked)) {
            Ok(response) => {
                self.metrics.endpoint_request(class(response.status()));
                response
            }
            Err(error) => {
                self.metrics.endpoint_request(error.code());
                error.response()
            }
        };
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    async fn handle(
        &self,
        peer: &Arc<Peer>,
        mut request: Request<Received>,
        id: &str,
    ) -> Result<Response<Answer>, ProxyError> {
        if request.method() == Method::CONNECT {
            return Err(ProxyError::Bad("CONNECT is not supported"));
        }
        let host = self.host(peer, &request)?;
        if self.settings.browser_login
            && let Some(response) = self.log_in(&host, &request)
        {
            return Ok(response);
        }
        let websocket = websocket::is_upgrade(&request);
        let credentials = Credentials::of(request.headers(), websocket, self.settings.browser_login);
        let claims = credentials.token.as_deref().and_then(|token| peer.claims(&self.tokens, token));
        let claims = claims.filter(|claims| claims.aud.eq_ignore_ascii_case(host.host()));
        let claims = claims.ok_or(ProxyError::Unauthenticated)?;
        let port = match claims.kind {
            Kind::Http => {
                let port = credentials.port()?;
                if !claims.allows(port) {
                    return Err(ProxyError::PortDenied);
                }
                Some(port)
            }
            Kind::Shell if websocket => None,
            // A shell supports nothing but WebSocket.
            Kind::Shell => return Err(ProxyError::App),
        };
        peer.authorise();
        let gate = self.microvms.gate(&claims.sub).ok_or(ProxyError::Microvm)?;
        if port.is_some() && gate.hooks_port() == port && hooks::could_be_called(&request) {
            return Err(ProxyError::Hook);
        }
        let limiter = self.settings.limited.then(|| self.limits.of(&gate));
        if let Some(limiter) = &limiter {
            peer.count(limiter)?;
            limiter.request()?;
        }
        let offered =
            websocket && credentials::protocols(request.headers()).any(|one| one == credentials::PROTOCOL);
        let admitted = Admitted { id, peer, host, gate, limiter, offered, websocket };
        let pass = self.enter(&admitted.gate).await?;
        match port {
            None => shell::accept(&mut request, pass, Arc::clone(peer), id),
            Some(port) => self.forward(&admitted, port, pass, request).await,
        }
    }

    /// Enters a gate, or waits at it.
    async fn enter(&self, gate: &Arc<Gate>) -> Result<Pass, ProxyError> {
        let begun = Instant::now();
        let result = self.microvms.enter(gate, self.settings.patience).await;
        let took = begun.elapsed();
        if took >= WAIT {
            let outcome = if result.is_ok() { Outcome::Succeeded } else { Outcome::Failed };
            self.metrics.endpoint_waited(outcome, took);
        }
        result.map_err(|refused| {
            tracing::debug!(microvm = gate.id(), %refused, "a request did not reach its microVM");
            refused.into()
        })
    }

    /// The host that a request is for. It has to be below the endpoints' domain and the host that the connection is
    /// for.
    fn host(&self, peer: &Peer, request: &Request<Received>) -> Result<Authority, ProxyError> {
        let header =
            || request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let host =
            request.uri().authority().cloned().or_else(header).ok_or(ProxyError::Bad("Missing Host"))?;
        if host.as_str().contains('@') {
            // A host contains no user name (RFC 9110, section 4.2.4), and apps build addresses from `Host`.
            return Err(ProxyError::Bad("Invalid Host"));
        }
        let name = host.host().to_ascii_lowercase();
        let label = name.strip_suffix(&self.settings.domain).and_then(|label| label.strip_suffix('.'));
        if label.is_none_or(|label| label.is_empty() || label.contains('.')) {
            return Err(ProxyError::Unauthenticated);
        }
        match &peer.server_name {
            Some(server) if server.eq_ignore_ascii_case(&name) => Ok(host),
            Some(_) => Err(ProxyError::Misdirected),
            None => Err(ProxyError::Unauthenticated),
        }
    }

    /// Responds to a link that contains a token: sets cookies, and redirects to the same link without the token. `None`
    /// for other requests.
    fn log_in(&self, host: &Authority, request: &Request<Received>) -> Option<Response<Answer>> {
        let query = request.uri().query()?;
        let find = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let token = find(LINK[0]).filter(|_| *request.method() == Method::GET)?;
        let valid = self.tokens.open_token(&token).ok()?;
        let mut response = Response::new(Answer::text(String::new()));
        *response.status_mut() = StatusCode::SEE_OTHER;
        let seconds = self.tokens.seconds_left(&valid);
        let port = find(LINK[1]);
        for (name, value) in COOKIES.iter().zip([Some(token), port]) {
            let Some(value) = value else { continue };
            let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
            response.headers_mut().append(SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
        }
        let rest: Vec<&str> = query
            .split('&')
            .filter(|pair| {
                !LINK
                    .iter()
                    .any(|name| pair.split('=').next().is_some_and(|key| key.eq_ignore_ascii_case(name)))
            })
            .collect();
        let path = request.uri().path();
        let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
        let location = HeaderValue::try_from(format!("https://{host}{path}{rest}")).ok()?;
        let headers = response.headers_mut();
        headers.insert(LOCATION, location);
        headers.insert(hyper::header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(hyper::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(response)
    }

    /// Forwards a request to a port of the app, and the response back.
    async fn forward(
        &self,
        admitted: &Admitted<'_>,
        port: u16,
        mut pass: Pass,
        mut request: Request<Received>,
    ) -> Result<Response<Answer>, ProxyError> {
        let Admitted { peer, gate, limiter, .. } = admitted;
        let client = admitted.websocket.then(|| hyper::upgrade::on(&mut request));
        let protocol = protocol(request.headers(), admitted.websocket);
        let (mut head, body) = request.into_parts();
        self.prepare(&mut head.headers, admitted);
        head.uri = target(&admitted.host, &head.uri)?;
        match protocol {
            Protocol::Http1 => {
                head.version = Version::HTTP_11;
                let host = HeaderValue::try_from(admitted.host.as_str());
                head.headers.insert(HOST, host.map_err(|_| ProxyError::Bad("Invalid Host"))?);
            }
            Protocol::Http2 => {
                head.version = Version::HTTP_2;
                head.headers.remove(HOST);
            }
        }
        let request = Request::from_parts(head, body);
        let upstream = self.upstreams.of(gate.id(), pass.guest());
        let mut response = upstream.send(gate, limiter.as_ref(), port, protocol, request).await?;
        pass.answered();
        let meter = || Meter::new(gate, limiter.as_ref());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // A response that switches protocols without a WebSocket handshake is an error of the app.
            let client = client.ok_or(ProxyError::App)?;
            websocket::tunnel([meter(), meter()], Arc::clone(peer), client, &mut response);
            let mut head = response.into_parts().0;
            headers::clean(&mut head.headers);
            websocket::set_upgrade(&mut head.headers);
            websocket::answer_protocol(&mut head.headers, admitted.offered);
            return Ok(Response::from_parts(head, Answer::text(String::new())));
        }
        let (mut head, body) = response.into_parts();
        headers::clean(&mut head.headers);
        Ok(Response::from_parts(head, Answer::flow(body, meter(), (pass, peer.exchange()))))
    }

    /// Changes the headers to what the app receives.
    fn prepare(&self, headers: &mut HeaderMap, admitted: &Admitted<'_>) {
        headers::clean(headers);
        credentials::remove_protocols(headers);
        if self.settings.browser_login {
            credentials::remove_cookies(headers);
        }
        if admitted.websocket {
            websocket::set_upgrade(headers);
        }
        if let Ok(id) = HeaderValue::try_from(admitted.id) {
            headers::set(headers, REQUEST_ID, id);
        }
        if self.settings.forwarded_for
            && let Ok(address) = HeaderValue::try_from(admitted.peer.address.ip().to_string())
        {
            // Only the address that is known here: what the client has sent could be anything.
            headers::set(headers, FORWARDED_FOR, address);
        }
    }
}

/// The class of a status code, for metrics.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// The protocol of the connection to the app.
fn protocol(headers: &HeaderMap, websocket: bool) -> Protocol {
    let forced = headers.get(FORCE_H2).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let grpc =
        headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !websocket && (forced || grpc) { Protocol::Http2 } else { Protocol::Http1 }
}

/// The target URI of a request to the app.
fn target(host: &Authority, uri: &Uri) -> Result<Uri, ProxyError> {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(host.clone());
    // The target `*` of OPTIONS is a path here, too.
    parts.path_and_query = Some(
        uri.path_and_query().cloned().unwrap_or_else(|| hyper::http::uri::PathAndQuery::from_static("/")),
    );
    Uri::from_parts(parts).map_err(|_| ProxyError::Bad("The target of the request cannot be passed on"))
}
