//! Opens connections to a port of the app.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use hyper::Uri;

use super::question;
use super::scheme::{Known, PortScheme, Protocol};
use super::tls::{self, HandshakeError, handshake};
use super::wire::Wire;
use crate::platform::{ConnectError, Connection, Guest};

/// The process of the microVM has ended.
#[derive(Debug, thiserror::Error)]
#[error("the microVM's process has ended")]
struct ProcessEnded;

/// Opens connections to a port of the app, in the way that the port is known to speak.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    guest: Weak<dyn Guest>,
    port: u16,
    protocol: Protocol,
    known: Arc<Known>,
}

impl Dial {
    pub(super) fn new(guest: Weak<dyn Guest>, port: u16, protocol: Protocol, known: Arc<Known>) -> Self {
        Self { guest, port, protocol, known }
    }

    /// Whether the port answers a TLS hello.
    pub(super) async fn speaks_tls(&self) -> bool {
        match (self.connect().await, tls::any()) {
            (Ok(connection), Ok(config)) => question::speaks_tls(connection, &config).await,
            _ => false,
        }
    }

    /// Whether the port answers plain text.
    pub(super) async fn speaks_plain(&self) -> bool {
        match self.connect().await {
            Ok(connection) => question::speaks_plain(connection).await,
            Err(_) => false,
        }
    }

    async fn connect(&self) -> Result<Box<dyn Connection>, ConnectError> {
        let guest = self.guest.upgrade().ok_or_else(|| ConnectError::Guest(ProcessEnded.into()))?;
        guest.connect(self.port).await
    }

    async fn open(self) -> Result<Wire, ConnectError> {
        let connection = self.connect().await?;
        match self.known.get() {
            Some(PortScheme::Tls) => {
                let wire = handshake(connection, self.protocol).await;
                wire.map_err(|error| ConnectError::App(error.into()))
            }
            Some(PortScheme::Plain) | None => {
                Ok(Wire::new(connection, false, self.protocol == Protocol::Http2))
            }
        }
    }
}

/// Why there is no connection, if it is that the app does not complete the TLS handshake.
pub(super) fn handshake_failed(error: &ConnectError) -> bool {
    matches!(error, ConnectError::App(cause) if cause.is::<HandshakeError>())
}

impl tower::Service<Uri> for Dial {
    type Response = Wire;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().open())
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::client::legacy::connect::Connection as _;

    use super::super::tests::{PLAIN, TLS, World};
    use super::*;

    #[tokio::test]
    async fn a_port_is_dialled_in_the_way_that_it_speaks() {
        let world = World::new().await;
        let guest = world.guest().await;
        for (port, tls) in [(PLAIN, false), (TLS, true)] {
            let known = Arc::new(Known::default());
            let dial = Dial::new(Arc::downgrade(&guest), port, Protocol::Http1, Arc::clone(&known));
            assert_eq!(dial.speaks_tls().await, tls, "{port}");
            assert!(
                !dial.clone().open().await.unwrap().connected().is_negotiated_h2(),
                "it is plain at first"
            );
            known.found(PortScheme::Tls);
            let opened = dial.open().await;
            assert_eq!(opened.is_ok_and(|wire| wire.connected().is_negotiated_h2()), tls, "{port}");
        }
    }

    #[tokio::test]
    async fn a_port_without_an_app_is_the_apps_fault_and_a_process_that_has_ended_the_microvms() {
        let world = World::new().await;
        let guest = world.guest().await;
        let dial = Dial::new(Arc::downgrade(&guest), 1, Protocol::Http1, Arc::default());
        assert!(matches!(dial.clone().open().await, Err(ConnectError::App(_))));
        assert!(!dial.speaks_tls().await);
        world.restart(guest).await;
        assert!(matches!(dial.open().await, Err(ConnectError::Guest(_))));
    }
}
