//! The endpoints of microVMs: HTTPS, with a token for every request.
//!
//! ```text
//!  client ─TLS─► connection ─► request: route ─► authorise ─► port ─► gate (wake and hold) ─► upstream ─► app
//!                                                   │                                     └─► tunnel (WebSocket)
//!                                                   └─ a shell's token ─────────────────────► shell
//! ```
//!
//! * [`threads`] – who serves connections; [`connection`] – TLS, HTTP/1.1 and HTTP/2, how long they may be idle
//! * [`request`] – what happens to a request; [`error`] – what the endpoint answers by itself
//! * [`credentials`] – tokens and ports in requests; [`headers`] – what is not passed on; [`hooks`] – what could call the app's hooks
//! * [`upstream`] – connections to the app; [`body`] – what flows; [`websocket`], [`shell`]
//! * [`config`] – `[endpoint]` of the configuration
//! * [`tls`] – TLS, and the certificate that is served; [`ca`] – the authority that signs it unless told otherwise;
//!   [`acme`] – one that an ACME authority issues
//! * [`dns`] – answers for the domain
//! * [`limits`] – connections, requests and bytes of one endpoint
// What clients send is reckoned with here: nothing may overflow, and no index be out of range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod acme;
pub mod body;
pub mod ca;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod dns;
pub mod error;
pub mod headers;
pub mod hooks;
pub mod limits;
pub mod request;
pub mod shell;
mod threads;
pub mod tls;
pub mod upstream;
pub mod websocket;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::driver::Microvms;
use crate::driver::gate::Patience;
use crate::metrics::Metrics;
use crate::tokens::Tokens;
use limits::Limits;
use upstream::Upstreams;

/// What can be set of endpoints.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What names of endpoints end with, behind `UUID.`.
    pub domain: String,
    /// How requests wait for a microVM that is not ready.
    pub patience: Patience,
    /// Whether a link can carry a token, which becomes a cookie.
    pub browser_login: bool,
    /// Whether the app is told the client's address, in `X-Forwarded-For`.
    pub forwarded_for: bool,
    /// How long a connection without a request stays open.
    pub idle_connection: Duration,
    /// Whether an endpoint takes only what its memory class has.
    pub limited: bool,
    /// Threads that serve connections.
    pub threads: usize,
}

/// The endpoints.
#[derive(Debug)]
pub struct Proxy {
    microvms: Microvms,
    tokens: Tokens,
    metrics: Metrics,
    settings: Settings,
}

impl Proxy {
    /// The endpoints of the microVMs of this host.
    #[must_use]
    pub fn new(microvms: Microvms, tokens: Tokens, metrics: Metrics, settings: Settings) -> Self {
        Self { microvms, tokens, metrics, settings }
    }
}

/// What a thread that serves connections has.
#[derive(Debug)]
struct Inner {
    microvms: Microvms,
    tokens: Tokens,
    metrics: Metrics,
    settings: Settings,
    /// Those of all threads.
    limits: Arc<Limits>,
    /// The thread's own.
    upstreams: Upstreams,
}

impl Inner {
    fn new(proxy: &Proxy, limits: &Arc<Limits>) -> Self {
        Self {
            microvms: proxy.microvms.clone(),
            tokens: proxy.tokens.clone(),
            metrics: proxy.metrics.clone(),
            settings: proxy.settings.clone(),
            limits: Arc::clone(limits),
            upstreams: Upstreams::default(),
        }
    }
}
