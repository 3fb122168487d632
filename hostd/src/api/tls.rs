//! The certificate of the listener, which is read again when its files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::version::{TLS12, TLS13};

use crate::clock::Clock;
use crate::proxy::tls::pair::{Pair, PairError, ServedCertificate};

/// Application protocols for ALPN, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Interval of checking the files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// The reason why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AwsTlsError {
    /// A file cannot be read.
    #[error("{key} ({}): {source}", path.display())]
    Read {
        /// Name of the configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The files cannot be used.
    #[error("aws.certificate ({}) and aws.key ({}): {source}", certificate.display(), key.display())]
    Files {
        /// File with the certificate.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// The reason.
        source: PairError,
    },
    /// The TLS library has refused the settings.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS of the listener.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    served: Arc<ServedCertificate>,
    certificate: PathBuf,
    key: PathBuf,
    clock: Clock,
}

impl Tls {
    /// Reads the files and sets up TLS.
    ///
    /// # Errors
    /// [`AwsTlsError`]
    pub(super) fn open(certificate: &Path, key: &Path, clock: Clock) -> Result<Self, AwsTlsError> {
        let pair = read(certificate, key)?;
        if let Some(problem) = pair.trouble(clock.now()) {
            tracing::error!(problem, "the certificate of aws.address");
        }
        let served = Arc::new(ServedCertificate::new(pair));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&served) as _);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self { config: Arc::new(config), served, certificate, key, clock })
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
                tracing::error!(problem, "the certificate of aws.address");
            }
            reported = problem;
        }
    }

    /// Reads the files again; returns whether the certificate is a new one.
    fn reload(&self) -> Result<bool, AwsTlsError> {
        let pair = read(&self.certificate, &self.key)?;
        if pair.is_same(&self.served.get()) {
            return Ok(false);
        }
        self.served.set(pair);
        tracing::info!(certificate = %self.certificate.display(), "aws.address has a new certificate");
        Ok(true)
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Pair, AwsTlsError> {
    let file = |name, path: &Path| {
        fs::read(path).map_err(|source| AwsTlsError::Read { key: name, path: path.to_owned(), source })
    };
    let (chain, secret) = (file("aws.certificate", certificate)?, file("aws.key", key)?);
    Pair::read(&chain, &secret, &default_provider()).map_err(|source| AwsTlsError::Files {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
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
        let tls = Tls::open(&certificate, &key, Clock::system()).unwrap();
        assert!(!tls.reload().unwrap());
        write();
        assert!(tls.reload().unwrap());
        fs::write(&key, "nothing").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("aws.key") && error.contains("BEGIN PRIVATE KEY"), "{error}");
        fs::remove_file(&key).unwrap();
        assert!(tls.reload().unwrap_err().to_string().starts_with("aws.key"));
    }
}
