//! The certificate of a listener, which is read again when its files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::proxy::tls::pair::{Pair, PairError, ServedCertificate};

/// Interval of checking the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// The reason why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{section}.{key} ({}): {source}", path.display())]
    Read {
        /// Section of the configuration.
        section: &'static str,
        /// Name of the key in it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The files cannot be used.
    #[error("{section}.certificate ({}) and {section}.key ({}): {source}", certificate.display(), key.display())]
    Files {
        /// Section of the configuration.
        section: &'static str,
        /// File with the certificate.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// The reason.
        source: Box<PairError>,
    },
    /// The file with the authorities of clients has none, or one that cannot be used.
    #[error("{section}.client_ca ({}): {why}; it is to be PEM, from BEGIN CERTIFICATE on", path.display())]
    Authorities {
        /// Section of the configuration.
        section: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The TLS library has refused the settings.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The files of a listener, and what is spoken on it.
#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    /// Section of the configuration that names the files.
    pub(super) section: &'static str,
    /// The certificate, then those of intermediate authorities.
    pub(super) certificate: PathBuf,
    /// The certificate's key.
    pub(super) key: PathBuf,
    /// Authorities of clients, which may show a certificate of theirs then.
    pub(super) client_ca: Option<PathBuf>,
    /// Application protocols for ALPN, in order of preference.
    pub(super) protocols: &'static [&'static [u8]],
}

impl TlsFiles {
    fn file(&self, key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
        let section = self.section;
        fs::read(path).map_err(|source| TlsError::Read { section, key, path: path.to_owned(), source })
    }

    fn pair(&self) -> Result<Pair, TlsError> {
        let (chain, secret) = (self.file("certificate", &self.certificate)?, self.file("key", &self.key)?);
        Pair::read(&chain, &secret, &default_provider()).map_err(|source| TlsError::Files {
            section: self.section,
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source: Box::new(source),
        })
    }

    /// Verifies the certificates of clients, which need not show one.
    fn verifier(&self, path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let text = self.file("client_ca", path)?;
        let wrong = |why: String| TlsError::Authorities { section: self.section, path: path.to_owned(), why };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        verifier.allow_unauthenticated().build().map_err(|error| wrong(error.to_string()))
    }
}

/// TLS of a listener.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ServerConfig>,
    served: Arc<ServedCertificate>,
    files: TlsFiles,
    clock: Clock,
}

impl Tls {
    /// Reads the files and sets up TLS.
    ///
    /// # Errors
    /// [`TlsError`]
    pub(super) fn open(files: TlsFiles, clock: Clock) -> Result<Self, TlsError> {
        let pair = files.pair()?;
        if let Some(problem) = pair.trouble(clock.now()) {
            tracing::error!(problem, section = files.section, "the certificate of an address");
        }
        let served = Arc::new(ServedCertificate::new(pair));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        let config = match &files.client_ca {
            Some(path) => config.with_client_cert_verifier(files.verifier(path)?),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::clone(&served) as _);
        config.alpn_protocols = files.protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { config: Arc::new(config), served, files, clock })
    }

    /// Makes handshakes.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Replaces the certificate when the files change. Never returns.
    pub(super) async fn keep_current(&self) {
        let mut reported = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let problem = match self.reload() {
                Ok(_) => self.served.get().trouble(self.clock.now()),
                Err(error) => Some(format!("{error}; the old certificate is kept")),
            };
            if problem != reported
                && let Some(problem) = &problem
            {
                tracing::error!(problem, section = self.files.section, "the certificate of an address");
            }
            reported = problem;
        }
    }

    /// Reads the files again; returns whether the certificate is a new one.
    fn reload(&self) -> Result<bool, TlsError> {
        let pair = self.files.pair()?;
        if pair.is_same(&self.served.get()) {
            return Ok(false);
        }
        self.served.set(pair);
        tracing::info!(certificate = %self.files.certificate.display(), "an address has a new certificate");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::certificates::authority::{Authority, Validity};

    #[test]
    fn a_new_certificate_is_served_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("c.key"));
        let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
        let authority = Authority::new("A", None, valid).unwrap();
        let write = || {
            let signed = authority.sign("B", &["localhost".to_owned()], valid).unwrap();
            fs::write(&certificate, signed.pem).unwrap();
            fs::write(&key, signed.key_pem).unwrap();
        };
        write();
        let files = |client_ca| TlsFiles {
            section: "aws",
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca,
            protocols: &[b"h2"],
        };
        let tls = Tls::open(files(None), Clock::system()).unwrap();
        assert!(!tls.reload().unwrap());
        write();
        assert!(tls.reload().unwrap());
        fs::write(&key, "nothing").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("aws.key") && error.contains("BEGIN PRIVATE KEY"), "{error}");
        fs::remove_file(&key).unwrap();
        assert!(tls.reload().unwrap_err().to_string().starts_with("aws.key"));
        write();
        let error = Tls::open(files(Some(key.clone())), Clock::system()).unwrap_err().to_string();
        assert!(error.starts_with("aws.client_ca") && error.contains("BEGIN CERTIFICATE"), "{error}");
        Tls::open(files(Some(certificate.clone())), Clock::system()).unwrap();
    }
}
