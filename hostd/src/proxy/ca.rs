//! The authority that signs the endpoints' certificate by default. It is generated once, kept in `endpoint` in the data
//! folder, and valid for the domain alone. Clients have to trust it (`hearth ca`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::certificates::authority::{Authority, Signed, Validity};
use crate::certificates::files;
use crate::certificates::read::Contents;

/// File with the authority's certificate.
const CERTIFICATE: &str = "ca.pem";
/// File with the authority's key.
const KEY: &str = "ca.key";
/// Lifetime of the authority: ten years.
const LIFE: Duration = Duration::days(3650);
/// Lifetime of a certificate of endpoints. Browsers refuse certificates that are valid for more than a year or two.
const SIGNED_LIFE: Duration = Duration::days(90);

/// The reason why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
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
    /// The certificate exists, but its key is missing or another one.
    #[error(
        "{} and ca.key beside it are not the halves of one authority: put both back from one copy, or remove both. New ones are made then, and clients have to trust these",
        .0.display()
    )]
    Halves(PathBuf),
    /// A certificate or key cannot be generated, or the authority cannot sign.
    #[error("no certificate can be made for endpoints: {0}")]
    Certificate(#[from] rcgen::Error),
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> AuthorityError + 'a {
    move |source| AuthorityError::File { what, path: path.to_owned(), source }
}

/// This host's authority for endpoints.
#[derive(Debug)]
pub struct LocalAuthority {
    authority: Authority,
    domain: String,
    until: OffsetDateTime,
}

impl LocalAuthority {
    /// Opens the authority in this folder. A new one is generated if there is none, if it is for another domain, or if
    /// it expires before a certificate that it would sign.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn open(folder: &Path, domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        files::make_folder(folder).map_err(file("making", folder))?;
        let path = folder.join(CERTIFICATE);
        let Some(pem) = files::read(&path).map_err(file("reading", &path))? else {
            return Self::make(folder, domain, now);
        };
        let (authority, contents) = load(folder, pem)?.ok_or_else(|| AuthorityError::Halves(path.clone()))?;
        let path = path.display();
        if contents.domains != [domain] {
            tracing::warn!(%path, domains = ?contents.domains, domain, "the authority is for another domain: a new one takes its place, and clients have to trust that");
            return Self::make(folder, domain, now);
        }
        if OffsetDateTime::from(contents.until) < OffsetDateTime::from(now).saturating_add(SIGNED_LIFE) {
            tracing::warn!(%path, "the authority ends soon: a new one takes its place, and clients have to trust that");
            return Self::make(folder, domain, now);
        }
        Ok(Self { authority, domain: domain.to_owned(), until: contents.until.into() })
    }

    fn make(folder: &Path, domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let valid = Validity::around(now.into(), LIFE);
        // Trust stores show the name, so the authorities of different hosts have different names.
        let id = Uuid::new_v4().to_string();
        let name = format!("Hearth endpoints {}", id.get(..8).unwrap_or_default());
        let authority = Authority::new(&name, Some(domain), valid)?;
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        // The key is written before the certificate, so that a certificate never exists without its key.
        files::remove(&certificate).map_err(file("removing", &certificate))?;
        files::write(&key, authority.key_pem().as_bytes()).map_err(file("writing", &key))?;
        files::write(&certificate, authority.pem().as_bytes()).map_err(file("writing", &certificate))?;
        tracing::info!(path = %certificate.display(), domain, "made an authority for endpoints");
        Ok(Self { authority, domain: domain.to_owned(), until: valid.until })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        self.authority.pem()
    }

    /// Signs a certificate for `*.DOMAIN` and the domain itself.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`]
    pub fn sign(&self, now: SystemTime) -> Result<Signed, AuthorityError> {
        let mut valid = Validity::around(now.into(), SIGNED_LIFE);
        valid.until = valid.until.min(self.until);
        let names = [format!("*.{}", self.domain), self.domain.clone()];
        Ok(self.authority.sign("Hearth", &names, valid)?)
    }
}

/// Loads the authority with this certificate and the key in the folder; `None` if they do not belong together.
fn load(folder: &Path, pem: String) -> Result<Option<(Authority, Contents)>, AuthorityError> {
    let path = folder.join(KEY);
    let key_pem = files::read(&path).map_err(file("reading", &path))?;
    let contents = CertificateDer::from_pem_slice(pem.as_bytes()).ok().and_then(|der| Contents::read(&der));
    let (Some(key_pem), Some(contents)) = (key_pem, contents) else { return Ok(None) };
    let Ok(key) = KeyPair::from_pem(&key_pem) else { return Ok(None) };
    if key.subject_public_key_info() != contents.public_key {
        return Ok(None);
    }
    Ok(Some((Authority::load(pem, key_pem)?, contents)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DOMAIN: &str = "lambda-microvm.us-east-1.localhost";

    fn contents(pem: &str) -> Contents {
        Contents::read(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn it_is_made_once_and_signs_for_the_domain() {
        let data = tempfile::tempdir().unwrap();
        let (folder, now) = (data.path().join("endpoint"), SystemTime::now());
        let first = LocalAuthority::open(&folder, DOMAIN, now).unwrap();
        let mode = fs::metadata(folder.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = LocalAuthority::open(&folder, DOMAIN, now).unwrap();
        assert_eq!(again.pem(), first.pem());
        let signed = contents(&again.sign(now).unwrap().pem);
        assert_eq!(signed.names, [format!("*.{DOMAIN}"), DOMAIN.to_owned()]);
        let day = std::time::Duration::from_secs(24 * 3600);
        assert!(signed.from < now && now + 88 * day < signed.until && signed.until < now + 90 * day);
    }

    #[test]
    fn a_new_one_takes_its_place_for_another_domain_and_before_its_end() {
        let data = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = LocalAuthority::open(data.path(), DOMAIN, now).unwrap();
        let other = LocalAuthority::open(data.path(), "other.example", now).unwrap();
        assert_ne!(other.pem(), first.pem());
        assert_eq!(contents(other.pem()).domains, ["other.example"]);
        let day = Duration::DAY;
        let before = LocalAuthority::open(data.path(), "other.example", now + day * 3500).unwrap();
        assert_eq!(before.pem(), other.pem());
        let after = LocalAuthority::open(data.path(), "other.example", now + day * 3600).unwrap();
        assert_ne!(after.pem(), other.pem());
    }

    #[test]
    fn halves_of_two_authorities_are_refused_and_none_is_half_made() {
        let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        LocalAuthority::open(data.path(), DOMAIN, now).unwrap();
        LocalAuthority::open(other.path(), DOMAIN, now).unwrap();
        fs::copy(other.path().join(KEY), data.path().join(KEY)).unwrap();
        let error = LocalAuthority::open(data.path(), DOMAIN, now).unwrap_err();
        assert!(error.to_string().contains("remove both"), "{error}");
        fs::remove_file(data.path().join(KEY)).unwrap();
        assert!(matches!(LocalAuthority::open(data.path(), DOMAIN, now), Err(AuthorityError::Halves(_))));
        // As after a power failure between the writes of the key and the certificate.
        fs::remove_file(other.path().join(CERTIFICATE)).unwrap();
        let made = LocalAuthority::open(other.path(), DOMAIN, now).unwrap();
        assert_eq!(LocalAuthority::open(other.path(), DOMAIN, now).unwrap().pem(), made.pem());
    }
}
