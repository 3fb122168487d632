//! A certificate from an ACME authority (RFC 8555), like Let's Encrypt. A certificate for `*.DOMAIN` is issued to the
//! host that answers DNS queries for the domain (`dns-01`). This daemon answers them, so the domain has to be delegated
//! to it.
//!
//! Files in `endpoint/acme` in the data folder: `account.json`, the account with its key, and `certificate.pem`, the
//! last certificate with its chain and its key.

#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_host::http::{in_full, install_tls};
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::ring::default_provider;
use serde::{Deserialize, Serialize};

use super::config::AcmeConfig;
use super::dns::Challenges;
use super::tls::pair::{Pair, PairError};
use crate::certificates::files;

const FOLDER: &str = "acme";
const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.pem";
/// Timeout of an order, from beginning to end.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Polling of the authority for the result: at growing intervals.
const ASKING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(Duration::from_secs(5 * 60));

/// The reason why no certificate was obtained.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// The action that failed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The authority has returned an error, or cannot be reached.
    #[error("{what}: {why}")]
    Authority {
        /// The action that failed.
        what: &'static str,
        /// The error.
        why: String,
    },
    /// The authority offers no challenge by DNS.
    #[error(
        "the ACME authority takes no proof by DNS (dns-01), and there is no other for a certificate for all names of a domain"
    )]
    NoDns,
    /// The authority could not verify that the domain belongs to this host.
    #[error(
        "the ACME authority has not found the domain to be this host's: {0}; is it delegated to endpoint.dns?"
    )]
    Refused(String),
    /// A request for a certificate cannot be made.
    #[error("a request for a certificate cannot be made: {0}")]
    Request(#[from] rcgen::Error),
    /// The issued certificate is not usable.
    #[error("the ACME authority has issued what cannot be used: {0}")]
    Issued(#[from] PairError),
    /// The order has timed out.
    #[error("the ACME authority has not issued a certificate within {} minutes", ORDER_TIMEOUT.as_secs() / 60)]
    Late,
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> AcmeError + 'a {
    move |source| AcmeError::File { what, path: path.to_owned(), source }
}

fn authority(what: &'static str) -> impl Fn(Error) -> AcmeError {
    move |error| AcmeError::Authority { what, why: in_full(&error) }
}

/// An account as it is stored, with the directory that it belongs to.
#[derive(Serialize, Deserialize)]
struct StoredAccount {
    directory: String,
    credentials: AccountCredentials,
}

/// An ACME authority, and the certificate that it has issued.
#[derive(Debug)]
pub struct Acme {
    config: AcmeConfig,
    domain: String,
    folder: PathBuf,
    challenges: Challenges,
}

impl Acme {
    /// Opens the folder `acme` in `folder`, which keeps account and certificate. Values that the authority queries from
    /// the domain's DNS are published in `challenges`.
    ///
    /// # Errors
    /// [`AcmeError::File`]
    pub fn open(
        config: &AcmeConfig,
        domain: &str,
        folder: &Path,
        challenges: Challenges,
    ) -> Result<Self, AcmeError> {
        let folder = folder.join(FOLDER);
        files::make_folder(&folder).map_err(file("making", &folder))?;
        Ok(Self { config: config.clone(), domain: domain.to_owned(), folder, challenges })
    }

    /// The last certificate, if it is valid for the domain.
    #[must_use]
    pub fn stored(&self) -> Option<Pair> {
        let path = self.folder.join(CERTIFICATE);
        let read = files::read(&path).map_err(file("reading", &path));
        match read.and_then(|pem| pem.map(|pem| self.pair(&pem, &pem)).transpose()) {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the last certificate cannot be used");
                None
            }
        }
    }

    fn pair(&self, chain: &str, key: &str) -> Result<Pair, AcmeError> {
        Ok(Pair::from_pem(chain.as_bytes(), key.as_bytes(), &self.domain, &default_provider())?)
    }

    /// Obtains a new certificate and stores it.
    ///
    /// # Errors
    /// [`AcmeError`]
    pub async fn obtain(&self) -> Result<Pair, AcmeError> {
        tokio::time::timeout(ORDER_TIMEOUT, self.order()).await.map_err(|_| AcmeError::Late)?
    }

    async fn order(&self) -> Result<Pair, AcmeError> {
        let account = self.account().await?;
        let names = [self.domain.clone(), format!("*.{}", self.domain)];
        let identifiers = names.clone().map(Identifier::Dns);
        let order = account.new_order(&NewOrder::new(&identifiers)).await;
        let mut order = order.map_err(authority("ordering a certificate from the ACME authority"))?;
        self.prove(&mut order).await?;

        let key = KeyPair::generate()?;
        let mut request = CertificateParams::new(names)?;
        request.distinguished_name = DistinguishedName::new();
        let request = request.serialize_request(&key)?;
        let asking = authority("asking the ACME authority for the certificate");
        order.finalize_csr(request.der()).await.map_err(&asking)?;
        let chain = order.poll_certificate(&ASKING).await.map_err(&asking)?;
        let key = key.serialize_pem();
        let pair = self.pair(&chain, &key)?;
        let path = self.folder.join(CERTIFICATE);
        files::write(&path, format!("{chain}\n{key}").as_bytes()).map_err(file("writing", &path))?;
        Ok(pair)
    }

    /// Proves to the authority that the domain belongs to this host.
    async fn prove(&self, order: &mut Order) -> Result<(), AcmeError> {
        let proving = |error| match error {
            Error::Api(problem) if about_the_domain(&problem) => AcmeError::Refused(problem.to_string()),
            error => authority("proving the domain to the ACME authority")(error),
        };
        let mut values = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(proving)?;
            if authorization.status == AuthorizationStatus::Pending {
                let challenge = authorization.challenge(ChallengeType::Dns01).ok_or(AcmeError::NoDns)?;
                values.push(challenge.key_authorization().dns_value());
            }
        }
        // The domain and the names below it are proved under one name. All values are published before the authority
        // queries any of them, because resolvers cache.
        let _posted = self.challenges.post(values);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(proving)?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01)
            {
                challenge.set_ready().await.map_err(proving)?;
            }
        }
        match order.poll_ready(&ASKING).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(AcmeError::Refused(refusal(order).await)),
            Err(error) => Err(proving(error)),
        }
    }

    /// The account: the stored one if it belongs to this directory, or else a new one.
    async fn account(&self) -> Result<Account, AcmeError> {
        let path = self.folder.join(ACCOUNT);
        let stored = files::read(&path).map_err(file("reading", &path))?;
        let stored = stored.and_then(|text| serde_json::from_str::<StoredAccount>(&text).ok());
        let reaching = authority("reaching the ACME authority");
        if let Some(stored) = stored.filter(|stored| stored.directory == self.config.directory) {
            return self.client()?.from_credentials(stored.credentials).await.map_err(reaching);
        }
        let contact: Vec<_> = self.config.contact.as_deref().into_iter().collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let directory = self.config.directory.clone();
        let created = self.client()?.create(&new, directory.clone(), None).await;
        let (account, credentials) = created.map_err(reaching)?;
        let stored = serde_json::to_vec(&StoredAccount { directory, credentials });
        let stored = stored.map_err(io::Error::from).map_err(file("writing", &path))?;
        files::write(&path, &stored).map_err(file("writing", &path))?;
        Ok(account)
    }

    fn client(&self) -> Result<AccountBuilder, AcmeError> {
        install_tls();
        let client = match &self.config.ca_file {
            Some(file) => Account::builder_with_root(file),
            None => Account::builder(),
        };
        client.map_err(authority("making a client for the ACME authority"))
    }
}

/// Whether a problem concerns the authority's findings at the domain (RFC 8555, 6.7), and not something else.
fn about_the_domain(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().and_then(|kind| kind.strip_prefix("urn:ietf:params:acme:error:"));
    matches!(kind, Some("unauthorized" | "dns" | "incorrectResponse" | "caa"))
}

/// The reason why the authority refused, if it reports one.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        if let Some(error) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return error.to_string();
        }
    }
    "it does not tell why".to_owned()
}
