//! What can be set of the access.

use std::net::SocketAddr;
use std::path::PathBuf;

use hearth_host::roles::Secret;
use serde::Deserialize;

use super::policy::Policy;
use crate::service::names::is_account;

/// Shortest secret of an access key, in bytes.
const MIN_SECRET: usize = 16;
/// Longest id of an access key, in bytes.
const MAX_ID: usize = 128;

/// What can be set of the access.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Certificate chain of the TCP listener, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Certificates of those who sign clients' certificates, PEM: clients must have one then.
    pub client_ca: Option<PathBuf>,
    /// Users of the Unix socket, by their numbers, who may do everything in the default account; root and the daemon's own
    /// user unless given.
    pub socket_uids: Option<Vec<u32>>,
    /// Access keys.
    pub keys: Vec<KeyConfig>,
}

/// An access key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Its id.
    pub id: String,
    /// Its secret; or
    #[serde(default)]
    pub secret: Option<Secret>,
    /// a file that has nothing but it.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The account that it is of: 12 digits.
    pub account: String,
    /// What it may; nothing unless given.
    #[serde(default)]
    pub policies: Vec<Policy>,
}

/// What is wrong with an [`AccessConfig`].
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Anyone on the network could read and do everything.
    #[error(
        "the listener {0} can be reached from other hosts: set access.tls_cert and access.tls_key, or let it listen on 127.0.0.1"
    )]
    NoTls(SocketAddr),
    /// Nobody could be told from anybody.
    #[error("the listener {0} has nobody who may use it: add an access key ([[access.keys]])")]
    NoKeys(SocketAddr),
    /// Half a pair.
    #[error("access.tls_cert and access.tls_key belong together, and only one is given")]
    HalfTls,
    /// Clients' certificates without TLS.
    #[error("access.client_ca needs access.tls_cert and access.tls_key")]
    ClientCaWithoutTls,
    /// A key.
    #[error("the access key {id:?}: {why}")]
    Key {
        /// Its id.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

impl AccessConfig {
    /// Whether this is complete, and safe with a TCP listener at this address.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self, tcp: Option<SocketAddr>) -> Result<(), AccessError> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(AccessError::HalfTls);
        }
        if self.client_ca.is_some() && self.tls_cert.is_none() {
            return Err(AccessError::ClientCaWithoutTls);
        }
        for (index, key) in self.keys.iter().enumerate() {
            key.check()?;
            if self.keys.iter().take(index).any(|other| other.id == key.id) {
                return Err(key.wrong("there are two of this id"));
            }
        }
        match tcp {
            Some(address) if !address.ip().is_loopback() && self.tls_cert.is_none() => {
                Err(AccessError::NoTls(address))
            }
            Some(address) if self.keys.is_empty() => Err(AccessError::NoKeys(address)),
            _ => Ok(()),
        }
    }
}

impl KeyConfig {
    fn check(&self) -> Result<(), AccessError> {
        let of_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        if self.id.is_empty() || self.id.len() > MAX_ID || !self.id.bytes().all(of_id) {
            return Err(self.wrong("an id has 1 to 128 of a-z A-Z 0-9 . _ - @"));
        }
        if !is_account(&self.account) {
            return Err(self.wrong("an account has 12 digits"));
        }
        if self.secret.is_some() == self.secret_file.is_some() {
            return Err(self.wrong("give either secret or secret_file"));
        }
        if self.secret.as_ref().is_some_and(|secret| secret.expose().len() < MIN_SECRET) {
            return Err(self.wrong("its secret has fewer than 16 characters"));
        }
        for policy in &self.policies {
            policy.check().map_err(|action| self.wrong(format!("no operation is named like {action:?}")))?;
        }
        Ok(())
    }

    pub(super) fn wrong(&self, why: impl Into<String>) -> AccessError {
        AccessError::Key { id: self.id.clone(), why: why.into() }
    }

    /// Its secret, from its file if it is in one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or what it has is too short.
    pub(super) fn secret(&self) -> Result<Secret, AccessError> {
        let secret = match (&self.secret, &self.secret_file) {
            (Some(secret), _) => secret.clone(),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| self.wrong(format!("{} cannot be read: {error}", path.display())))?;
                Secret::new(text.trim_end_matches(['\r', '\n']))
            }
            (None, None) => return Err(self.wrong("give either secret or secret_file")),
        };
        if secret.expose().len() < MIN_SECRET {
            return Err(self.wrong("its secret has fewer than 16 characters"));
        }
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> AccessConfig {
        toml::from_str(text).unwrap()
    }

    const KEY: &str = r#"
        [[keys]]
        id = "alice"
        secret = "0123456789abcdef"
        account = "111122223333"
        policies = [{ actions = ["Get*", "RunMicrovm"], images = ["web-*"] }]
    "#;

    #[test]
    fn a_listener_that_others_reach_needs_tls_and_keys() {
        let outside: SocketAddr = "0.0.0.0:7070".parse().unwrap();
        let inside: SocketAddr = "127.0.0.1:7070".parse().unwrap();
        let tls = "tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n";
        assert!(matches!(parsed("").check(Some(outside)), Err(AccessError::NoTls(_))));
        assert!(matches!(parsed(KEY).check(Some(outside)), Err(AccessError::NoTls(_))));
        assert!(matches!(parsed(tls).check(Some(outside)), Err(AccessError::NoKeys(_))));
        parsed(&format!("{tls}{KEY}")).check(Some(outside)).unwrap();
        assert!(matches!(parsed("").check(Some(inside)), Err(AccessError::NoKeys(_))));
        parsed(KEY).check(Some(inside)).unwrap();
        parsed("").check(None).unwrap();
        assert!(matches!(parsed("tls_cert = \"cert.pem\"").check(None), Err(AccessError::HalfTls)));
        assert!(matches!(parsed("client_ca = \"ca.pem\"").check(None), Err(AccessError::ClientCaWithoutTls)));
    }

    #[test]
    fn keys_that_cannot_be_right_are_refused() {
        for (from, to, why) in [
            ("alice", "", "an id has"),
            ("alice", "al:ice", "an id has"),
            ("111122223333", "1111", "12 digits"),
            ("0123456789abcdef", "short", "fewer than 16"),
            ("RunMicrovm", "RunMicroVM", "no operation"),
            ("secret =", "secret_file = \"x\"\nsecret =", "either secret or"),
        ] {
            let error = parsed(&KEY.replace(from, to)).check(None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(parsed(&format!("{KEY}{KEY}")).check(None).unwrap_err().to_string().contains("two of this id"));
        assert!(toml::from_str::<AccessConfig>("tls = true").is_err());
        assert!(!format!("{:?}", parsed(KEY)).contains("0123456789abcdef"));
    }
}
