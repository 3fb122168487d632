//! What the tests of connections to apps share: a microVM with apps, and requests to them.

use std::sync::Arc;

use hearth_proto::microvms::v1::MicrovmState;
use hyper::{Request, Uri};

use super::Protocol;
use super::pool::Upstream;
use crate::driver::gate::{Pass, WaitLimits};
use crate::lifecycle::microvm::Request as Ask;
use crate::platform::Guest;
use crate::proxy::body::RequestBody;
use crate::proxy::error::ProxyError;
use crate::proxy::tests::app::App;
use crate::proxy::tests::{Host, LONG, certificate};

/// Port of an app that speaks plain text.
pub(super) const PLAIN: u16 = 8080;
/// Port of an app that speaks TLS.
pub(super) const TLS: u16 = 8443;

/// A host with one microVM, `microvm-1`, and its apps.
pub(super) struct World(Host);

impl World {
    pub(super) async fn new() -> Self {
        let host = Host::new().await;
        let (_, config, _) = certificate();
        let app = App::start_tls(config).await;
        host.platform.world().ports.insert(TLS, app.address);
        Self(host)
    }

    async fn pass(&self) -> Pass {
        let gate = self.0.microvms.gate("microvm-1").unwrap();
        let wait_limits = WaitLimits { max_waiting: 1, beyond_hook: LONG, launching: true };
        self.0.microvms.enter(&gate, wait_limits).await.unwrap()
    }

    /// The microVM's process.
    pub(super) async fn guest(&self) -> Arc<dyn Guest> {
        Arc::clone(self.pass().await.guest())
    }

    /// Ends the microVM's process, and starts another.
    pub(super) async fn restart(&self, guest: Arc<dyn Guest>) {
        drop(guest);
        self.0.ask(Ask::Suspend).await;
        self.0.until(MicrovmState::Suspended).await;
        self.0.ask(Ask::Resume).await;
        self.0.until(MicrovmState::Running).await;
    }

    /// Number of connections that were opened to a port.
    pub(super) fn connections(&self, port: u16) -> usize {
        self.0.platform.world().connections[&port]
    }

    /// Sends a request without a body; returns the status of the response.
    pub(super) async fn get(
        &self,
        upstream: &Upstream,
        port: u16,
        protocol: Protocol,
    ) -> Result<u16, ProxyError> {
        let pass = self.pass().await;
        let uri = Uri::from_static("http://one.example/count");
        let request =
            Request::builder().uri(uri).header("host", "one.example").body(RequestBody::none()).unwrap();
        let response = upstream.send(pass.gate(), None, None, (port, protocol), request).await?;
        let status = response.status().as_u16();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        Ok(status)
    }
}
