//! TLS with apps, whatever certificate they show.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::scheme::Protocol;
use super::wire::Wire;
use crate::platform::Connection;

/// How long a TLS handshake with the app may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// TLS settings for apps: the app chooses the protocol, or HTTP/2 only.
static TLS: LazyLock<Result<[Arc<ClientConfig>; 2], rustls::Error>> = LazyLock::new(|| {
    let config = |protocols: &[&[u8]]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok::<_, rustls::Error>(Arc::new(config))
    };
    Ok([config(&[b"h2", b"http/1.1"])?, config(&[b"h2"])?])
});

/// Why there is no TLS connection with the app.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The settings of TLS are unusable.
    #[error("the settings of TLS with apps: {0}")]
    Settings(#[source] rustls::Error),
    /// The name for the handshake is unusable.
    #[error("the name for TLS with apps: {0}")]
    Name(#[from] InvalidDnsNameError),
    /// The app does not speak TLS, or not this protocol.
    #[error("TLS with the app: {0}")]
    Failed(#[from] io::Error),
    /// The app did not complete the handshake in time.
    #[error("the app has not completed the TLS handshake within {} s", HANDSHAKE.as_secs())]
    TimedOut,
}

/// The settings with which the app chooses the protocol.
///
/// # Errors
/// [`HandshakeError::Settings`].
pub(super) fn any() -> Result<Arc<ClientConfig>, HandshakeError> {
    let [any, _] = TLS.as_ref().map_err(|error| HandshakeError::Settings(error.clone()))?;
    Ok(Arc::clone(any))
}

/// Performs the TLS handshake with the app.
///
/// # Errors
/// [`HandshakeError`].
pub(super) async fn handshake(
    connection: Box<dyn Connection>,
    protocol: Protocol,
) -> Result<Wire, HandshakeError> {
    let [any, http2] = TLS.as_ref().map_err(|error| HandshakeError::Settings(error.clone()))?;
    let config = match protocol {
        Protocol::Http1 => any,
        Protocol::Http2 => http2,
    };
    let name = ServerName::try_from("localhost")?;
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, connection);
    let stream = timeout(HANDSHAKE, connecting).await.map_err(|_| HandshakeError::TimedOut)??;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Wire::new(Box::new(stream), http2, false))
}

/// Accepts any certificate: the connection does not leave the host, and apps may use self-signed certificates.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::client::legacy::connect::Connection as _;
    use tokio::io::{AsyncWriteExt as _, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::super::super::tests::certificate;
    use super::*;

    /// Whether the handshake with an app that knows these protocols succeeds, and HTTP/2 is the outcome.
    async fn with(protocols: &[&[u8]], protocol: Protocol) -> Option<bool> {
        let (_, mut config, _) = certificate();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let (app, ours) = duplex(1 << 16);
        let accepting = TlsAcceptor::from(Arc::new(config)).accept(app);
        let (_app, wire) = tokio::join!(accepting, handshake(Box::new(ours), protocol));
        wire.ok().map(|wire| wire.connected().is_negotiated_h2())
    }

    #[tokio::test]
    async fn the_app_chooses_the_protocol_unless_it_has_to_be_http2() {
        assert_eq!(with(&[b"h2", b"http/1.1"], Protocol::Http1).await, Some(true));
        assert_eq!(with(&[b"http/1.1"], Protocol::Http1).await, Some(false));
        assert_eq!(with(&[], Protocol::Http1).await, Some(false));
        assert_eq!(with(&[b"h2", b"http/1.1"], Protocol::Http2).await, Some(true));
        assert_eq!(with(&[b"http/1.1"], Protocol::Http2).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_does_not_speak_tls_fails_the_handshake() {
        let (mut app, ours) = duplex(1 << 16);
        app.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        assert!(matches!(handshake(Box::new(ours), Protocol::Http1).await, Err(HandshakeError::Failed(_))));
        let (_silent, ours) = duplex(1 << 16);
        assert!(matches!(handshake(Box::new(ours), Protocol::Http1).await, Err(HandshakeError::TimedOut)));
    }
}
