//! Requests: the steps from a client's request to the app's response.
//!
//! ```text
//!  host ─Host─► token ─Authenticated─► port ─Authorised─► microvm ─Found─► limits ─Admitted─► wake ─┐
//!   │                                                                                              │
//!   └─► login (a link with a token)                 shell ◄─Pass─┬─────────────────────────────────┘
//!                                                                └─Entered─► prepare ─Prepared─► forward ─► app
//! ```
//!
//! Each step is a module, and its input is what the step before it has found out. Only the step itself can make its
//! output, which has a private field. So no step can be left out, and none can be moved before another.
//!
//! * [`host`] – the host that both the request and its connection are for; [`login`] – links that contain a token
//! * [`token`] – a valid token for this host; nothing before it depends on the microVM, so that nobody without a token
//!   learns whether a microVM exists
//! * [`port`] – a port, or a shell, that the token allows
//! * [`microvm`] – the microVM's gate, and no call of its hooks
//! * [`limits`] – what the microVM and its account may take at most
//! * [`wake`] – a microVM that runs: it is resumed, and requests wait for it
//! * [`prepare`] – the request without hop-by-hop headers and credentials
//! * [`forward`] – the app's response

mod forward;
mod host;
mod limits;
mod login;
mod microvm;
mod port;
mod prepare;
#[cfg(test)]
mod tests;
mod token;
mod wake;

use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Version};
use uuid::Uuid;

use self::forward::Forwarding;
use self::host::Hosts;
use self::limits::Admission;
use self::login::Login;
use self::microvm::Finder;
use self::prepare::Preparation;
use self::token::Authentication;
use self::wake::{Awake, Wake};
use super::body::{RequestBody, ResponseBody};
use super::error::ProxyError;
use super::headers::{self, REQUEST_ID};
use super::limiter::Limits;
use super::peer::Peer;
use super::shares::Underway;
use super::shares::bytes::WINDOWS;
use super::{Proxy, shell};
use crate::audit::shells::ShellAudit;
use crate::metrics::Metrics;
use crate::panics;
use crate::tokens::Kind;

/// The steps of the requests of one thread.
#[derive(Debug)]
pub(super) struct Requests {
    metrics: Metrics,
    hosts: Hosts,
    /// Present if browsers may log in.
    login: Option<Login>,
    authentication: Authentication,
    finder: Finder,
    admission: Admission,
    wake: Wake,
    preparation: Preparation,
    /// The connections to apps, which belong to this thread alone.
    forwarding: Forwarding,
    shells: shell::Times,
    audit: Option<ShellAudit>,
}

impl Requests {
    /// The steps according to the proxy's settings. All threads share `limits`.
    pub(super) fn new(proxy: &Proxy, limits: &Arc<Limits>) -> Self {
        let Proxy { microvms, tokens, metrics, settings, shares, audit } = proxy;
        Self {
            metrics: metrics.clone(),
            hosts: Hosts::below(&settings.domain),
            login: settings.browser_login.then(|| Login::new(tokens.clone())),
            authentication: Authentication::new(tokens.clone(), settings.browser_login),
            finder: Finder::new(microvms.clone()),
            admission: Admission::new(Arc::clone(shares), settings.limited.then(|| Arc::clone(limits))),
            wake: Wake::new(microvms.clone(), settings.wait_limits, metrics.clone()),
            preparation: Preparation {
                cookies: settings.browser_login,
                forwarded_for: settings.forwarded_for,
            },
            forwarding: Forwarding::new(settings.idle_connection),
            shells: shell::Times { idle: settings.idle_connection, gone: settings.connections.keep_alive() },
            audit: audit.clone(),
        }
    }

    /// Processes a request and returns the response.
    pub(super) async fn respond(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let _exchange = peer.exchange();
        let id = Uuid::new_v4().to_string();
        let handled = panics::request(self.handle(&peer, request.map(RequestBody::new), &id)).await;
        let mut response = match handled.unwrap_or(Err(ProxyError::Panicked)) {
            Ok(response) => {
                self.metrics.endpoint_request(class(response.status()));
                response
            }
            Err(error) => {
                self.metrics.endpoint_request(error.code());
                if let ProxyError::Share(taken) = error {
                    self.metrics.endpoint_refused(taken.limit());
                }
                error.response()
            }
        };
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    /// Takes the steps of a request, whose id is `id`.
    async fn handle(
        &self,
        peer: &Arc<Peer>,
        mut request: Request<RequestBody>,
        id: &str,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        // HTTP/1.1 has counted them already.
        if request.headers().len() > headers::MOST {
            return Err(ProxyError::Headers);
        }
        let host = self.hosts.check(peer, &request)?;
        if let Some(response) = self.login.as_ref().and_then(|login| login.respond(&host, &request)) {
            return Ok(response);
        }
        let authenticated = self.authentication.authenticate(host, peer, &request)?;
        let shell = (authenticated.claims.kind == Kind::Shell).then(|| Arc::clone(&authenticated.claims));
        let authorised = port::authorise(authenticated)?;
        let found = self.finder.find(authorised, &request)?;
        let admitted = self.admission.admit(found, peer)?;
        set_aside(&admitted.underway, &mut request)?;
        match self.wake.enter(admitted).await? {
            Awake::Shell(pass, underway) => {
                let session = shell::Session {
                    place: (Arc::clone(peer), underway),
                    id: id.to_owned(),
                    maker: shell.and_then(|claims| claims.by.clone()),
                    audit: self.audit.clone(),
                    times: self.shells,
                };
                shell::accept(&mut request, pass, session)
            }
            Awake::App(entered) => {
                let prepared = self.preparation.prepare(entered, peer, id, request)?;
                self.forwarding.forward(prepared, peer).await
            }
        }
    }
}

/// Sets aside what a client may send of a body before the app takes it. HTTP/1.1 keeps a few KiB only.
fn set_aside(underway: &Underway, request: &mut Request<RequestBody>) -> Result<(), ProxyError> {
    if request.version() == Version::HTTP_2 && !request.body().is_end_stream() {
        let size = request.body().size_hint().upper().and_then(|size| usize::try_from(size).ok());
        let window = usize::try_from(WINDOWS.0).unwrap_or(usize::MAX);
        let room = underway.seat().room(size.map_or(window, |size| size.min(window)))?;
        request.body_mut().keep(room);
    }
    Ok(())
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
