//! The contents of a certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

/// The contents of a certificate that decide whether it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Time from which on it is valid.
    pub from: SystemTime,
    /// Time at which it expires.
    pub until: SystemTime,
    /// DNS names that the certificate is valid for, in lower case.
    pub names: Vec<String>,
    /// For an authority: the domains for which it may sign, in lower case; empty if it may sign for all.
    pub domains: Vec<String>,
    /// The public key with its algorithm, DER (`SubjectPublicKeyInfo`).
    pub public_key: Vec<u8>,
}

impl Contents {
    /// Reads a certificate (DER); `None` if it cannot be parsed.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let names = match certificate.subject_alternative_name().ok()? {
            Some(names) => names.value.general_names.iter().filter_map(dns_name).collect(),
            None => Vec::new(),
        };
        let constraints = certificate.name_constraints().ok()?;
        let permitted = constraints.and_then(|constraints| constraints.value.permitted_subtrees.as_ref());
        let domains = permitted.into_iter().flatten().filter_map(|tree| dns_name(&tree.base)).collect();
        let validity = certificate.validity();
        Some(Self {
            from: time(validity.not_before),
            until: time(validity.not_after),
            names,
            domains,
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Time at which the certificate should be renewed: after two thirds of its life.
    #[must_use]
    pub fn renewal(&self) -> SystemTime {
        let life = self.until.duration_since(self.from).unwrap_or_default();
        self.from + life / 3 * 2
    }
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// Converts a time. Times before 1970 become the beginning of 1970.
fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use time::OffsetDateTime;

    use super::super::authority::{Authority, Validity};
    use super::*;

    #[test]
    fn names_domains_and_dates_are_read() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let valid = Validity::around(OffsetDateTime::from(now), time::Duration::days(30));
        let authority = Authority::new("A", Some("a.example"), valid).unwrap();
        let names = ["*.A.example".to_owned(), "a.example".to_owned(), "192.0.2.1".to_owned()];
        let signed = authority.sign("B", &names, valid).unwrap();
        let read =
            |pem: &str| Contents::read(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let (authority, leaf) = (read(authority.pem()), read(&signed.pem));
        assert_eq!(authority.domains, ["a.example"]);
        assert_eq!(leaf.names, ["*.a.example", "a.example"]);
        assert_eq!(leaf.domains, [""; 0]);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!((leaf.from, leaf.until), (now - day, now + 29 * day));
        assert_eq!(leaf.renewal(), now + 19 * day);
        assert_eq!(Contents::read(b"no certificate"), None);
    }
}
