//! Connections: asked for from the daemon, and TLS over them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hearth_host::http;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::WebError;
use crate::artifact::error::ArtifactError;
use crate::artifact::worker::{Answer, Link, Origin};

const NO_AUTHORITIES: &str =
    "this host knows no certificate authorities: install Debian's package ca-certificates, or set ca_file";

/// Makes the connections of an HTTP client.
#[derive(Clone)]
pub(super) struct Connector {
    link: Link,
    tls: Arc<Tls>,
}

/// TLS, which is made when it is first needed: many registries and stores of operators have none.
struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    made: OnceLock<TlsConnector>,
}

impl Tls {
    /// None if no authority is known, so that no certificate could be verified.
    fn connector(&self) -> Option<TlsConnector> {
        if self.authorities.is_empty() {
            return None;
        }
        let made = self.made.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(self.authorities.iter().cloned());
            let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            TlsConnector::from(Arc::new(tls))
        });
        Some(made.clone())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    pub(super) fn new(
        link: Link,
        authorities: Vec<CertificateDer<'static>>,
        pem: &[u8],
    ) -> Result<Self, ArtifactError> {
        http::install_tls();
        let wrong = |error: &dyn fmt::Display| ArtifactError::Config {
            what: "ca_file".to_owned(),
            why: error.to_string(),
        };
        let mut authorities = authorities;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            authorities.push(certificate.map_err(|error| wrong(&error))?);
        }
        Ok(Self { link, tls: Arc::new(Tls { authorities, made: OnceLock::new() }) })
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Socket>, WebError> {
        let broken = |error: &dyn fmt::Display| WebError::Broken(error.to_string());
        let url = Url::parse(&uri.to_string()).map_err(|error| broken(&error))?;
        let server = Origin::of(&url).ok_or_else(|| broken(&"no server of HTTP"))?;
        let (tls, host) = (server.tls, server.host.clone());
        let link = self.link;
        // The daemon takes its time.
        let connected = tokio::task::spawn_blocking(move || link.connect(&server)).await;
        let stream = match connected.map_err(|error| broken(&error))? {
            Ok(stream) => TcpStream::from_std(stream).map_err(|error| broken(&error))?,
            Err(Answer::Refused(why)) => return Err(WebError::Refused(why)),
            Err(answer) => return Err(broken(&answer)),
        };
        if !tls {
            return Ok(TokioIo::new(Socket(Box::new(stream))));
        }
        let tls = self.tls.connector().ok_or_else(|| broken(&NO_AUTHORITIES))?;
        let name = ServerName::try_from(host).map_err(|error| broken(&error))?;
        let stream = tls.connect(name, stream).await.map_err(|error| broken(&error))?;
        Ok(TokioIo::new(Socket(Box::new(stream))))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = WebError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, WebError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WebError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, with TLS or without.
pub(super) struct Socket(Box<dyn Stream>);

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
