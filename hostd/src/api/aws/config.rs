//! The section `[aws]` of the configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::connections::config::ConnectionLimits;

/// Where AWS's SDKs and its command line find this host: the address for AWS's own protocols ([aws.md](aws.md)). Requests
/// are signed with access keys (`[[access.keys]]`). An address that is not a loopback one needs certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AwsConfig {
    /// `"ADDRESS:PORT"` for AWS's protocols; none unless given.
    pub address: Option<SocketAddr>,
    /// PEM file with the certificate for the address, then those of intermediate authorities; read again when it
    /// changes. May be the one of `[listen]`.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's key; nobody but root may read it.
    pub key: Option<PathBuf>,
    /// What connections may take up.
    pub connections: ConnectionLimits,
}

/// The reason why the section cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AwsConfigError {
    /// A certificate without key, or a key without certificate.
    #[error("aws.certificate and aws.key belong together: give both")]
    HalfCertificate,
    /// The path of a file is relative.
    #[error("{0}: write an absolute path")]
    Relative(&'static str),
    /// The address is not loopback and has no TLS: others could read the traffic.
    #[error(
        "aws.address is {0}, which is not loopback, without TLS: give aws.certificate and aws.key (`hearthd init --listen ADDRESS` makes such files for listen)"
    )]
    WithoutTls(SocketAddr),
    /// There is no access key, so that nobody could sign a request.
    #[error(
        "aws.address is {0}, and there is no key to sign requests with: configure access.keys (`hearthd init --listen ADDRESS` makes one)"
    )]
    NoKeys(SocketAddr),
}

impl AwsConfigError {
    /// The key of the configuration that has to change.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::HalfCertificate => "aws.certificate",
            Self::Relative(key) => key,
            Self::WithoutTls(_) | Self::NoKeys(_) => "aws.address",
        }
    }
}

impl AwsConfig {
    /// The files of the certificate and its key.
    #[must_use]
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.certificate.as_deref()?, self.key.as_deref()?))
    }

    /// Checks the configuration. `has_keys`: whether there are access keys.
    ///
    /// # Errors
    /// [`AwsConfigError`]
    pub fn check(&self, has_keys: bool) -> Result<(), AwsConfigError> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(AwsConfigError::HalfCertificate);
        }
        for (key, path) in [("aws.certificate", &self.certificate), ("aws.key", &self.key)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(AwsConfigError::Relative(key));
            }
        }
        let Some(address) = self.address else { return Ok(()) };
        if !address.ip().is_loopback() && self.tls().is_none() {
            return Err(AwsConfigError::WithoutTls(address));
        }
        if has_keys { Ok(()) } else { Err(AwsConfigError::NoKeys(address)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let tls = "certificate = \"/c\"\nkey = \"/k\"\n";
        for (text, has_keys, key) in [
            ("certificate = \"/c\"".to_owned(), true, Some("aws.certificate")),
            ("key = \"/k\"".to_owned(), true, Some("aws.certificate")),
            ("certificate = \"c\"\nkey = \"/k\"".to_owned(), true, Some("aws.certificate")),
            ("certificate = \"/c\"\nkey = \"k\"".to_owned(), true, Some("aws.key")),
            ("address = \"0.0.0.0:7480\"".to_owned(), true, Some("aws.address")),
            ("address = \"127.0.0.1:7480\"".to_owned(), false, Some("aws.address")),
            (format!("address = \"0.0.0.0:7480\"\n{tls}"), false, Some("aws.address")),
            (format!("address = \"0.0.0.0:7480\"\n{tls}"), true, None),
            ("address = \"[::1]:7480\"".to_owned(), true, None),
            (tls.to_owned(), false, None),
            (String::new(), false, None),
        ] {
            let config: AwsConfig = toml::from_str(&text).unwrap();
            assert_eq!(config.check(has_keys).err().map(|error| error.key()), key, "{text}");
        }
    }
}
