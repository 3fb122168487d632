//! TLS of endpoints: versions 1.3 and 1.2, HTTP/2 and HTTP/1.1, and the certificate, which is replaced while the daemon
//! runs.
//!
//! | Source of the certificate | Renewal |
//! |---|---|
//! | [`LocalAuthority`], by default | after two thirds of its life |
//! | files (`endpoint.certificate`, `endpoint.key`) | when they change: they are checked every minute |
//! | an ACME authority (`[endpoint.acme]`) | after two thirds of its life; until the first is issued, the local authority's is served |
//!
//! * [`pair`] – a certificate with its chain and its key

pub mod pair;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::version::{TLS12, TLS13};

use self::pair::{Pair, PairError, ServedCertificate};
use super::acme::{Acme, AcmeError};
use super::ca::{AuthorityError, LocalAuthority};
use super::config::EndpointConfig;
use super::dns::Challenges;
use crate::clock::Clock;
use crate::panics::poisoned;

/// Subfolder of the data folder that contains the authority and certificates.
const FOLDER: &str = "endpoint";
/// Application protocols for ALPN, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Interval of checking the files, and of retries when the local authority fails.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);
/// First interval of retries when an ACME authority fails; it doubles with each further failure, up to
/// [`LONGEST_WAIT`]. Authorities limit failures per hour.
const FIRST_WAIT: Duration = Duration::from_secs(5 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);

/// The reason why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
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
    #[error("endpoint.certificate ({}) and endpoint.key ({}): {source}", certificate.display(), key.display())]
    Files {
        /// File with the certificate.
        certificate: PathBuf,
        /// File with the key.
        key: PathBuf,
        /// The reason.
        source: PairError,
    },
    /// The local authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The local authority's certificate cannot be used, which is a bug.
    #[error("the local authority's certificate: {0}")]
    Signed(PairError),
    /// The ACME authority's folder cannot be used.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// The TLS library has refused the settings.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS of endpoints. Clones are cheap and share the certificate.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<ServerConfig>,
    served: Arc<ServedCertificate>,
    source: Source,
    domain: String,
    clock: Clock,
    provider: Arc<CryptoProvider>,
    challenges: Challenges,
    /// The last problem with the files that was logged.
    reported: Mutex<Option<String>>,
}

/// Source of the certificate.
#[derive(Debug)]
enum Source {
    Local(LocalAuthority),
    Files(Files),
    Acme {
        acme: Box<Acme>,
        fallback: LocalAuthority,
        /// Time of the next order.
        due: SystemTime,
    },
}

/// Files with certificate and key, as configured.
#[derive(Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// The files that a configuration names, if it names any.
    #[must_use]
    pub fn of(config: &EndpointConfig) -> Option<Self> {
        Some(Self { certificate: config.certificate.clone()?, key: config.key.clone()? })
    }

    /// Reads certificate and key.
    ///
    /// # Errors
    /// The reason why they cannot be used for the domain.
    pub fn read(&self, domain: &str) -> Result<Pair, TlsError> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|source| TlsError::Read { key, path: path.to_owned(), source })
        };
        let chain = read("endpoint.certificate", &self.certificate)?;
        let key = read("endpoint.key", &self.key)?;
        Pair::from_pem(&chain, &key, domain, &default_provider()).map_err(|source| TlsError::Files {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })
    }
}

impl Tls {
    /// Sets up TLS as configured, for names below `domain`; `data` is the data folder.
    ///
    /// # Errors
    /// [`TlsError`]: files cannot be used, or an authority cannot be made. An expired certificate is not an error.
    pub fn open(config: &EndpointConfig, domain: &str, data: &Path, clock: Clock) -> Result<Self, TlsError> {
        let (folder, now) = (data.join(FOLDER), clock.now());
        let provider = Arc::new(default_provider());
        let challenges = Challenges::default();
        let (source, pair) = if let Some(files) = Files::of(config) {
            let pair = files.read(domain)?;
            (Source::Files(files), pair)
        } else {
            let local = LocalAuthority::open(&folder, domain, now)?;
            let signed = sign(&local, domain, now, &provider)?;
            match &config.acme {
                None => (Source::Local(local), signed),
                Some(acme) => {
                    let acme = Acme::open(acme, domain, &folder, challenges.clone())?;
                    let issued = acme.stored().filter(|pair| now < pair.until());
                    let due = issued.as_ref().map_or(now, Pair::renewal);
                    let source = Source::Acme { acme: Box::new(acme), fallback: local, due };
                    (source, issued.unwrap_or(signed))
                }
            }
        };
        let served = Arc::new(ServedCertificate::new(pair));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&served) as _);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.ticketer = Ticketer::new()?;
        let inner = Inner {
            config: Arc::new(config),
            served,
            source,
            domain: domain.to_owned(),
            clock,
            provider,
            challenges,
            reported: Mutex::default(),
        };
        let tls = Self(Arc::new(inner));
        if matches!(tls.0.source, Source::Files(_)) {
            tls.report(tls.0.served.get().trouble(now));
        }
        Ok(tls)
    }

    /// The settings with which connections are accepted. They stay the same when the certificate is replaced.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config)
    }

    /// The local authority's certificate, PEM, which clients have to trust; `None` if another authority has signed the
    /// served certificate.
    #[must_use]
    pub fn authority_pem(&self) -> Option<&str> {
        match &self.0.source {
            Source::Local(local) => Some(local.pem()),
            Source::Files(_) | Source::Acme { .. } => None,
        }
    }

    /// The values that the domain's DNS has to return to an ACME authority.
    #[must_use]
    pub fn challenges(&self) -> Challenges {
        self.0.challenges.clone()
    }

    /// Reads certificate and key again, if they are files. Returns whether they have changed.
    ///
    /// # Errors
    /// The reason why they cannot be used; the old ones are kept in this case.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let Source::Files(files) = &self.0.source else { return Ok(false) };
        let pair = files.read(&self.0.domain)?;
        if pair.is_same(&self.0.served.get()) {
            return Ok(false);
        }
        self.0.served.set(pair);
        tracing::info!(certificate = %files.certificate.display(), "endpoints have a new certificate");
        Ok(true)
    }

    /// Replaces the certificate whenever it is due. Never returns.
    pub async fn keep_current(self) {
        match &self.0.source {
            Source::Local(local) => self.keep_signed(local).await,
            Source::Files(_) => loop {
                tokio::time::sleep(RELOAD_INTERVAL).await;
                self.reload_and_report();
            },
            Source::Acme { acme, fallback, due } => self.keep_issued(acme, fallback, *due).await,
        }
    }

    async fn keep_signed(&self, local: &LocalAuthority) {
        loop {
            self.0.clock.sleep_until(self.0.served.get().renewal()).await;
            self.sign(local).await;
        }
    }

    /// Serves a new certificate of the local authority.
    async fn sign(&self, local: &LocalAuthority) {
        match sign(local, &self.0.domain, self.0.clock.now(), &self.0.provider) {
            Ok(pair) => {
                self.0.served.set(pair);
                tracing::info!("endpoints have a new certificate of the local authority");
            }
            Err(error) => {
                tracing::error!(%error, "endpoints get no new certificate");
                tokio::time::sleep(RELOAD_INTERVAL).await;
            }
        }
    }

    fn reload_and_report(&self) {
        let problem = match self.reload() {
            Ok(_) => self.0.served.get().trouble(self.0.clock.now()),
            Err(error) => Some(format!("{error}; the old certificate is kept")),
        };
        self.report(problem);
    }

    /// Logs a problem once, and again if it changes.
    fn report(&self, problem: Option<String>) {
        let mut reported = self.0.reported.lock().unwrap_or_else(poisoned);
        if let Some(problem) = &problem
            && reported.as_ref() != Some(problem)
        {
            tracing::error!(problem, "the certificate of endpoints");
        }
        *reported = problem;
    }

    async fn keep_issued(&self, acme: &Acme, fallback: &LocalAuthority, mut due: SystemTime) {
        let clock = self.0.clock;
        let mut wait = FIRST_WAIT;
        loop {
            let until = self.0.served.get().until();
            clock.sleep_until(due.min(until)).await;
            if until <= clock.now() {
                // The served certificate has expired, and no other is available. Clients that trust the local authority
                // can continue.
                self.sign(fallback).await;
            }
            if clock.now() < due {
                continue;
            }
            match acme.obtain().await {
                Ok(pair) => {
                    wait = FIRST_WAIT;
                    due = pair.renewal().max(clock.after(wait));
                    self.0.served.set(pair);
                    tracing::info!(domain = self.0.domain, "endpoints have a new certificate from ACME");
                }
                Err(error) => {
                    tracing::error!(%error, again_in_seconds = wait.as_secs(), "no certificate from ACME");
                    due = clock.after(wait);
                    wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                }
            }
        }
    }
}

fn sign(
    local: &LocalAuthority,
    domain: &str,
    now: SystemTime,
    provider: &CryptoProvider,
) -> Result<Pair, TlsError> {
    let signed = local.sign(now)?;
    let pair = Pair::from_pem(signed.pem.as_bytes(), signed.key_pem.as_bytes(), domain, provider);
    pair.map_err(TlsError::Signed)
}
