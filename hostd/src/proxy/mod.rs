//! The endpoints of microVMs: HTTPS, with a token for every request.
//!
//! ```text
//!  client ─TLS─► connection ─► request: host ─► token ─► port ─► microvm ─► limits ─► wake ─► prepare ─► forward ─► upstream ─► app
//!                                │                                                       │                └─► websocket
//!                                └─► login (a link with a token)                         └─► shell
//! ```
//!
//! * [`threads`] – the threads that serve connections; [`connection`] – TLS, HTTP/1.1 and HTTP/2; [`peer`] – the client of
//!   a connection, and idle timeouts; [`socket`] – the options of their sockets
//! * [`request`] – the steps of a request, in the order that their types fix; [`error`] – responses of the endpoint itself
//! * [`credentials`] – tokens and ports in requests; [`headers`] – headers that are not forwarded; [`hooks`] – requests
//!   that could call the app's hooks
//! * [`upstream`] – connections to the app; [`body`] – bodies of requests and responses; [`upload`] – bodies that may be sent
//!   again; [`websocket`], [`shell`]
//! * [`config`] – `[endpoint]` of the configuration
//! * [`tls`] – TLS, and the certificate that is served; [`ca`] – the authority that signs it by default;
//!   [`acme`] – a certificate from an ACME authority
//! * [`dns`] – DNS server for the domain
//! * [`shares`] – what clients, microVMs and accounts may take at most; [`idle`] – when nothing has passed for a while
//! * [`limiter`] – connections, requests and bytes of one endpoint, as AWS limits them
//!
//! A thread owns its [`connection::Connections`], and these its [`request::Requests`], and these the connections to apps.
//! Threads share nothing but the microVMs, the tokens, the metrics, the limits and the shares.
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod acme;
pub mod body;
pub mod ca;
pub mod config;
mod connection;
pub mod credentials;
pub mod dns;
pub mod error;
pub mod headers;
pub mod hooks;
mod idle;
pub mod limiter;
pub mod peer;
mod request;
pub mod shares;
pub mod shell;
mod socket;
mod threads;
pub mod tls;
mod upload;
mod upstream;
pub mod websocket;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::audit::shells::ShellAudit;
use crate::driver::Microvms;
use crate::driver::gate::WaitLimits;
use crate::metrics::Metrics;
use crate::tokens::Tokens;
use shares::Shares;
use shares::config::EndpointConnections;

/// Settings of endpoints.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The domain of endpoints, which follows `UUID.` in their names.
    pub domain: String,
    /// How long, and with how many others, requests wait for a microVM that is not ready.
    pub wait_limits: WaitLimits,
    /// Whether a token in a link is turned into a cookie, so that browsers can log in.
    pub browser_login: bool,
    /// Whether the app receives the client's address, in `X-Forwarded-For`.
    pub forwarded_for: bool,
    /// What connections may take up.
    pub connections: EndpointConnections,
    /// Time after which a connection without a request, and a WebSocket or shell without a byte, is closed.
    pub idle_connection: Duration,
    /// Whether the traffic of an endpoint is limited to the share of its memory class.
    pub limited: bool,
    /// Number of threads that serve connections.
    pub threads: usize,
}

/// Serves the endpoints of all microVMs of this host.
#[derive(Debug)]
pub struct Proxy {
    microvms: Microvms,
    tokens: Tokens,
    metrics: Metrics,
    settings: Settings,
    shares: Arc<Shares>,
    audit: Option<ShellAudit>,
}

impl Proxy {
    /// The endpoints of the microVMs of this host.
    #[must_use]
    pub fn new(microvms: Microvms, tokens: Tokens, metrics: Metrics, settings: Settings) -> Self {
        let shares = Arc::new(Shares::new(settings.connections));
        Self { microvms, tokens, metrics, settings, shares, audit: None }
    }

    /// The same endpoints, whose shells are audited.
    #[must_use]
    pub fn with_audit(self, audit: ShellAudit) -> Self {
        Self { audit: Some(audit), ..self }
    }
}
