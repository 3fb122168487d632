//! The listener for AWS's protocols.

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::config::{AwsConfig, AwsConfigError};
use super::dispatch::Dispatch;
use crate::access::Access;
use crate::api::connections::{Client, Connections};
use crate::api::tls::{Tls, TlsError, TlsFiles};
use crate::clock::Clock;
use crate::service::Service;

/// Application protocols, in order of preference.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The reason why the listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AwsListenError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] AwsConfigError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("listening at aws.address, {address}: {source}; end what listens there, or name another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// A listener that is bound but not yet served.
#[derive(Debug)]
pub struct AwsListener {
    listener: TcpListener,
    connections: Connections,
}

impl AwsListener {
    /// Checks the configuration and binds the address; returns none if there is no address. `has_keys`: whether there
    /// are access keys.
    ///
    /// # Errors
    /// [`AwsListenError`]
    pub async fn bind(
        config: &AwsConfig,
        has_keys: bool,
        clock: Clock,
    ) -> Result<Option<Self>, AwsListenError> {
        config.check(has_keys)?;
        let Some(address) = config.address else { return Ok(None) };
        let files = config.tls().map(|(certificate, key)| TlsFiles {
            section: "aws",
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: None,
            protocols: PROTOCOLS,
        });
        let tls = files.map(|files| Tls::open(files, clock)).transpose()?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| AwsListenError::Bind { address, source })?;
        let limits = config.connections.clone();
        let connections = Connections { clients: "of AWS", limits, http2_only: false, tls };
        Ok(Some(Self { listener, connections }))
    }

    /// The address that is bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `shutdown` becomes true, and then completes the requests in progress, for a limited time.
    pub async fn serve(self, service: Service, access: Arc<Access>, shutdown: watch::Receiver<bool>) {
        let Self { listener, connections } = self;
        let dispatch = Arc::new(Dispatch::new(service, access, connections.tls.is_some()));
        let answer = move |client: &Client, request| {
            let (dispatch, client) = (Arc::clone(&dispatch), client.clone());
            async move { dispatch.answer(&client, request).await }
        };
        connections.serve(listener, answer, shutdown).await;
    }
}
