//! What the tests of the steps share: a host with one microVM, and requests that are taken up to some step.

use std::sync::Arc;

use hyper::Request;

use super::super::Proxy;
use super::super::error::ProxyError;
use super::super::peer::Peer;
use super::super::tests::{Host as World, Wish};
use super::Requests;
use super::host::Host;
use super::microvm::Found;
use super::port;
use super::token::Authenticated;
use super::wake::{Awake, Entered};
use crate::tokens::Grant;

/// Headers of a WebSocket handshake.
pub(super) const HANDSHAKE: [(&str, &str); 2] = [("connection", "upgrade"), ("upgrade", "websocket")];

/// The steps of requests to a host with one microVM, `microvm-1`.
pub(super) struct Steps {
    pub(super) host: World,
    pub(super) peer: Peer,
    requests: Requests,
}

impl Steps {
    pub(super) async fn new() -> Self {
        Self::with(Wish::default()).await
    }

    pub(super) async fn without_auto_resume() -> Self {
        Self::with(Wish { auto_resume: false, ..Wish::default() }).await
    }

    async fn with(wish: Wish) -> Self {
        let host = World::with(wish).await;
        let parts = (host.microvms.clone(), host.tokens.clone(), host.metrics.clone());
        let proxy = Proxy::new(parts.0, parts.1, parts.2, wish.settings());
        Self { peer: peer(), requests: Requests::new(&proxy, &Arc::default()), host }
    }

    /// Name of the microVM's endpoint.
    pub(super) fn name(&self) -> String {
        World::name()
    }

    /// Another connection to the endpoint.
    pub(super) fn another_peer(&self) -> Peer {
        peer()
    }

    /// A token that differs from the usual one.
    pub(super) fn mint(&self, change: impl FnOnce(&mut Grant)) -> String {
        let mut grant = World::grant();
        change(&mut grant);
        self.host.tokens.mint(&grant).unwrap()
    }

    pub(super) fn request(&self, headers: &[(&str, &str)]) -> Request<()> {
        self.request_to("/", headers)
    }

    pub(super) fn request_to(&self, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().uri(path).header("host", self.name());
        let add = |request: hyper::http::request::Builder, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        headers.iter().fold(request, add).body(()).unwrap()
    }

    /// A request that all steps let pass.
    pub(super) fn good(&self) -> Request<()> {
        self.request(&[("x-aws-proxy-auth", &self.host.token())])
    }

    pub(super) fn checked(&self, request: &Request<()>) -> Result<Host, ProxyError> {
        self.requests.hosts.check(&self.peer, request)
    }

    pub(super) fn authenticated(&self, request: &Request<()>) -> Result<Authenticated, ProxyError> {
        self.requests.authentication.authenticate(self.checked(request)?, &self.peer, request)
    }

    pub(super) fn found(&self, request: &Request<()>) -> Result<Found, ProxyError> {
        let authorised = port::authorise(self.authenticated(request)?)?;
        self.requests.finder.find(authorised, request)
    }

    pub(super) async fn awake(&self, request: &Request<()>) -> Result<Awake, ProxyError> {
        let admitted = self.requests.admission.admit(self.found(request)?, &self.peer)?;
        self.requests.wake.enter(admitted).await
    }

    pub(super) async fn entered(&self, request: &Request<()>) -> Entered {
        match self.awake(request).await.unwrap() {
            Awake::App(entered) => entered,
            Awake::Shell(..) => panic!("it is for a shell"),
        }
    }
}

fn peer() -> Peer {
    Peer::new(([127, 0, 0, 1], 1).into(), Some(World::name()), None)
}
