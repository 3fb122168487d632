//! A certificate with its chain and its key, and the holder of the certificate that is served.

use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use crate::certificates::read::Contents;
use crate::panics::poisoned;

/// Operators are warned this long before a certificate expires.
const SOON: Duration = Duration::from_secs(7 * DAY);
const DAY: u64 = 24 * 3600;

/// The reason why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The file contains no certificate.
    #[error("the file of the certificate has none: it is to be PEM, from BEGIN CERTIFICATE on")]
    NoCertificate,
    /// The certificate cannot be parsed.
    #[error("the certificate is damaged")]
    Damaged,
    /// The file contains no key.
    #[error("the file of the key has none: it is to be PEM without a password, from BEGIN PRIVATE KEY on")]
    NoKey,
    /// The key cannot sign.
    #[error("the key cannot be used: {0}; ECDSA with P-256 or P-384, Ed25519 and RSA can")]
    Key(Error),
    /// Certificate and key do not belong together.
    #[error("the key is not that of the certificate")]
    Mismatch,
    /// The certificate is for other names.
    #[error("the certificate is for {}, and has to be for *.{domain}", list(names))]
    Names {
        /// The domain.
        domain: String,
        /// The names in the certificate.
        names: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no names".to_owned() } else { names.join(", ") }
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Pair {
    certified: Arc<CertifiedKey>,
    contents: Contents,
}

impl Pair {
    /// Parses a chain, which begins with the server's own certificate, and a key, both PEM. The certificate has to be
    /// valid for all names below `domain`.
    ///
    /// # Errors
    /// [`PairError`]
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        domain: &str,
        provider: &CryptoProvider,
    ) -> Result<Self, PairError> {
        let pair = Self::read(chain, key, provider)?;
        // A certificate for `*.example.com` covers `microvms.example.com`, but nothing below that.
        if !pair.contents.names.contains(&format!("*.{domain}")) {
            return Err(PairError::Names { domain: domain.to_owned(), names: pair.contents.names });
        }
        Ok(pair)
    }

    /// Parses a chain and a key, both PEM, for whatever names the certificate is.
    ///
    /// # Errors
    /// [`PairError`], but not [`PairError::Names`].
    pub fn read(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<Self, PairError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| PairError::NoCertificate)?;
        let first = chain.first().ok_or(PairError::NoCertificate)?;
        let contents = Contents::read(first).ok_or(PairError::Damaged)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::NoKey)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => PairError::Mismatch,
            Error::InvalidCertificate(_) => PairError::Damaged,
            error => PairError::Key(error),
        })?;
        Ok(Self { certified: Arc::new(certified), contents })
    }

    /// Time at which the certificate expires.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.contents.until
    }

    /// Time at which the certificate should be renewed: after two thirds of its life.
    #[must_use]
    pub fn renewal(&self) -> SystemTime {
        self.contents.renewal()
    }

    /// Whether the certificate and its chain are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }

    /// The reason why clients refuse the certificate now, or will soon.
    #[must_use]
    pub fn trouble(&self, now: SystemTime) -> Option<String> {
        let days = |span: Duration| span.as_secs() / DAY;
        match self.contents.until.duration_since(now) {
            Err(past) => Some(format!("the certificate ended {} days ago", days(past.duration()))),
            Ok(left) if left < SOON => Some(format!("the certificate ends in {} days", days(left))),
            Ok(_) if now < self.contents.from => Some("the certificate is not valid yet".to_owned()),
            Ok(_) => None,
        }
    }
}

/// The certificate that is served to all clients. Clients themselves detect a name that it does not cover.
#[derive(Debug)]
pub(crate) struct ServedCertificate(RwLock<Arc<Pair>>);

impl ServedCertificate {
    pub(crate) fn new(pair: Pair) -> Self {
        Self(RwLock::new(Arc::new(pair)))
    }

    pub(crate) fn get(&self) -> Arc<Pair> {
        Arc::clone(&self.0.read().unwrap_or_else(poisoned))
    }

    /// Replaces the certificate from the next handshake on.
    pub(crate) fn set(&self, pair: Pair) {
        *self.0.write().unwrap_or_else(poisoned) = Arc::new(pair);
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.get().certified))
    }
}
