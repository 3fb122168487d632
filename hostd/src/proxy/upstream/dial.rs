//! Opens connections to a port of the app.

use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use hyper::Uri;

use super::scheme::{KnownScheme, PortScheme, Protocol};
use super::tls::handshake;
use super::wire::Wire;
use crate::platform::{ConnectError, Guest};

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
    known: KnownScheme,
}

impl Dial {
    pub(super) fn new(guest: Weak<dyn Guest>, port: u16, protocol: Protocol, known: KnownScheme) -> Self {
        Self { guest, port, protocol, known }
    }

    /// Whether the port accepts a TLS handshake.
    pub(super) async fn accepts_tls(&self) -> bool {
        let Some(guest) = self.guest.upgrade() else { return false };
        match guest.connect(self.port).await {
            Ok(connection) => handshake(connection, Protocol::Http1).await.is_ok(),
            Err(_) => false,
        }
    }

    async fn open(self) -> Result<Wire, ConnectError> {
        let guest = self.guest.upgrade().ok_or_else(|| ConnectError::Guest(ProcessEnded.into()))?;
        let connection = guest.connect(self.port).await?;
        drop(guest);
        match self.known.get() {
            Some(PortScheme::Tls) => {
                let wire = handshake(connection, self.protocol).await;
                wire.map_err(|error| ConnectError::App(error.into()))
            }
            Some(PortScheme::Plain) | None => Ok(Wire::new(connection, false)),
        }
    }
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
    use std::sync::Arc;

    use hyper_util::client::legacy::connect::Connection as _;

    use super::super::tests::{PLAIN, TLS, World};
    use super::*;

    #[tokio::test]
    async fn a_port_is_dialled_in_the_way_that_it_speaks() {
        let world = World::new().await;
        let guest = world.guest().await;
        for (port, tls) in [(PLAIN, false), (TLS, true)] {
            let known = KnownScheme::default();
            let dial = Dial::new(Arc::downgrade(&guest), port, Protocol::Http1, known.clone());
            assert_eq!(dial.accepts_tls().await, tls, "{port}");
            assert!(
                !dial.clone().open().await.unwrap().connected().is_negotiated_h2(),
                "it is plain at first"
            );
            known.set(Some(PortScheme::Tls));
            let opened = dial.open().await;
            assert_eq!(opened.is_ok_and(|wire| wire.connected().is_negotiated_h2()), tls, "{port}");
        }
    }

    #[tokio::test]
    async fn a_port_without_an_app_is_the_apps_fault_and_a_process_that_has_ended_the_microvms() {
        let world = World::new().await;
        let guest = world.guest().await;
        let dial = Dial::new(Arc::downgrade(&guest), 1, Protocol::Http1, KnownScheme::default());
        assert!(matches!(dial.clone().open().await, Err(ConnectError::App(_))));
        assert!(!dial.accepts_tls().await);
        world.restart(guest).await;
        assert!(matches!(dial.open().await, Err(ConnectError::Guest(_))));
    }
}
