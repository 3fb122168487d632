//! A client of a microVM's endpoint, with one HTTP/2 connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hearth_proto::host::v1::EndpointStatus;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An open connection to an endpoint, and the token for it.
pub(crate) struct Endpoint {
    name: String,
    token: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Endpoint {
    /// Connects to the endpoint `name` of a host.
    pub(crate) async fn connect(host: &EndpointStatus, name: String, token: String) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(host.certificate_authority_pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(&host.address).await.context("connecting to the endpoint")?;
        stream.set_nodelay(true).context("connecting to the endpoint")?;
        let server = ServerName::try_from(name.clone())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(server, stream).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { name, token, sender })
    }

    /// Time from a request to the first byte of its response.
    pub(crate) async fn first_byte(&mut self) -> Result<Duration> {
        let request = Request::get(format!("https://{}/", self.name));
        let request = request.header("x-aws-proxy-auth", &self.token).body(Empty::new())?;
        let start = Instant::now();
        let mut response = self.sender.send_request(request).await.context("asking the endpoint")?;
        let frame = response.body_mut().frame().await.context("the answer is empty")??;
        let took = start.elapsed();
        ensure!(response.status() == 200 && frame.is_data(), "the endpoint answers {}", response.status());
        response.into_body().collect().await.context("reading the answer")?;
        Ok(took)
    }
}
