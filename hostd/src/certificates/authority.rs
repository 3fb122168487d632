//! A private certificate authority, and the certificates that it signs.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, Error,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use time::{Duration, OffsetDateTime};

/// Time by which a certificate's validity begins before it is made, because clocks differ.
const SKEW: Duration = Duration::DAY;

/// The period in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment of validity.
    pub from: OffsetDateTime,
    /// Last moment of validity.
    pub until: OffsetDateTime,
}

impl Validity {
    /// A period of length `life` that begins a day before `now`.
    #[must_use]
    pub fn around(now: OffsetDateTime, life: Duration) -> Self {
        let from = now.saturating_sub(SKEW);
        Self { from, until: from.saturating_add(life) }
    }
}

/// An authority: its certificate and its key (ECDSA, P-256).
pub struct Authority {
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate and its key, both PEM.
pub struct Signed {
    /// The certificate.
    pub pem: String,
    /// The certificate's key, a secret.
    pub key_pem: String,
}

impl Authority {
    /// Makes an authority of this name. With a `domain`, its certificates are valid for that domain and names below it
    /// only.
    ///
    /// # Errors
    /// The name or the domain cannot be in a certificate, or there are no random numbers.
    pub fn new(name: &str, domain: Option<&str>, valid: Validity) -> Result<Self, Error> {
        let mut parameters = parameters(Vec::new(), name, valid)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.name_constraints = domain.map(|domain| NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            // All names of a kind that is not mentioned here would be permitted.
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv4Addr::UNSPECIFIED.into(), 0)),
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv6Addr::UNSPECIFIED.into(), 0)),
            ],
        });
        let key = KeyPair::generate()?;
        let (pem, key_pem) = (parameters.self_signed(&key)?.pem(), key.serialize_pem());
        Ok(Self { pem, key_pem, issuer: Issuer::new(parameters, key) })
    }

    /// Loads an existing authority. The caller has to ensure that key and certificate belong together.
    ///
    /// # Errors
    /// The certificate or the key cannot be parsed.
    pub fn load(pem: String, key_pem: String) -> Result<Self, Error> {
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key_pem)?)?;
        Ok(Self { pem, key_pem, issuer })
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key, PEM: a secret.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Signs a certificate for a server with these names and addresses, and generates its key.
    ///
    /// # Errors
    /// A name cannot be in a certificate, or there are no random numbers.
    pub fn sign(&self, name: &str, names: &[String], valid: Validity) -> Result<Signed, Error> {
        let mut parameters = parameters(names.to_vec(), name, valid)?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let pem = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Signed { pem, key_pem: key.serialize_pem() })
    }
}

// The implementations of Debug leave out the keys.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("pem", &self.pem).finish_non_exhaustive()
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("pem", &self.pem).finish_non_exhaustive()
    }
}

fn parameters(names: Vec<String>, name: &str, valid: Validity) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::new(names)?;
    parameters.not_before = valid.from;
    parameters.not_after = valid.until;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}
