//! The certificate of both proxies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A self-signed certificate, ECDSA with P-256, and its key.
pub(crate) struct Certificate {
    /// Path of the certificate, in PEM.
    pub(crate) certificate: PathBuf,
    /// Path of the key, in PEM.
    pub(crate) key: PathBuf,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Certificate {
    /// Makes a certificate for names below `domain`, with its files in `folder`.
    pub(crate) fn new(folder: &Path, domain: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![format!("*.{domain}")])
            .context("making a certificate")?;
        let (certificate, key) = files(folder);
        std::fs::write(&certificate, made.cert.pem()).context("writing the certificate")?;
        std::fs::write(&key, made.signing_key.serialize_pem()).context("writing the certificate's key")?;
        let (der, key_der) = (made.cert.der().clone(), made.signing_key.serialize_der());
        Ok(Self { certificate, key, der, key_der })
    }

    /// Loads the certificate in `folder`.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let (certificate, key) = files(folder);
        let der = CertificateDer::from_pem_file(&certificate).context("reading the certificate")?;
        let read = PrivateKeyDer::from_pem_file(&key).context("reading the certificate's key")?;
        let key_der = read.secret_der().to_vec();
        Ok(Self { certificate, key, der, key_der })
    }

    /// A TLS 1.3 configuration with the certificate, HTTP/2 preferred.
    pub(crate) fn server(&self) -> Result<rustls::ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key_der.clone()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Paths of certificate and key.
fn files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("certificate.pem"), folder.join("key.pem"))
}
