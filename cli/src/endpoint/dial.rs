//! TLS connections to an endpoint.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::EndpointAddress;
use crate::error::Failure;

/// Timeout for a connection, including its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a connection to an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The connection was refused.
    #[error("cannot connect to {at}: {source}; look whether hearthd's endpoints can be reached from here")]
    Connect {
        /// Host and port.
        at: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The server is not trusted, or does not use TLS.
    #[error("cannot speak TLS with {name} at {at}: {source}")]
    Tls {
        /// The endpoint's name.
        name: String,
        /// Host and port.
        at: String,
        /// The error of the handshake.
        source: io::Error,
    },
    /// The timeout was exceeded.
    #[error("no answer from {at} within {} s; look whether hearthd's endpoints can be reached from here", CONNECT.as_secs())]
    Timeout {
        /// Host and port.
        at: String,
    },
}

/// Makes connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) address: EndpointAddress,
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Dialer {
    /// A dialer that trusts the host's own authority if there is one, else the system's. It offers only HTTP/1.1.
    pub(crate) fn new(address: EndpointAddress) -> Result<Self, Failure> {
        let unusable =
            |why: String| Failure::failed(format!("the endpoint {} cannot be used: {why}", address.name));
        let mut roots = RootCertStore::empty();
        match &address.authority {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let wrong =
                        |error: String| unusable(format!("the authority's certificate is broken: {error}"));
                    let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                    roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
                }
            }
            // Stores may contain certificates that cannot be parsed; those are skipped.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config =
            config.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(address.name.clone()).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), address, name })
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let (host, port) = &self.address.dial;
        let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let connect = async {
            let stream = TcpStream::connect((host.as_str(), *port)).await;
            let stream = stream.map_err(|source| DialError::Connect { at: at.clone(), source })?;
            // Keystrokes and frames are small, and must not be delayed.
            stream.set_nodelay(true).map_err(|source| DialError::Connect { at: at.clone(), source })?;
            let name = self.address.name.clone();
            let stream = self.connector.connect(self.name.clone(), stream).await;
            stream.map_err(|source| DialError::Tls { name, at: at.clone(), source })
        };
        timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(DialError::Timeout { at: at.clone() }))
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Self::NoConnection(error.to_string())
    }
}
