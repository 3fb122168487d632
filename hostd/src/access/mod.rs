//! Authentication of callers, and their permissions.
//!
//! | Origin of a call | Caller |
//! |---|---|
//! | the Unix socket | the user of the process at the other end: root, the daemon's own user, or a configured user |
//! | TCP | the owner of an access key, in `authorization: Basic base64(ID:SECRET)`, or of a configured client certificate |
//! | clients of AWS | the owner of an access key that has signed the request ([`sigv4`]) |
//!
//! If a call has an access key, the key alone identifies the caller, whatever the origin. Calls of anybody else are
//! refused.
//!
//! * [`config`] – access keys, client certificates, local users
//! * [`caller`] – an authenticated caller, with an account and policies
//! * [`policy`] – actions × names of images × ARNs of roles
//! * [`sigv4`] – signatures of AWS's clients
//! * [`sessions`] – temporary credentials for roles
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod caller;
pub mod config;
pub mod policy;
pub mod sessions;
pub mod sigv4;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_host::roles::Secret;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ring::hmac;
use ring::rand::SystemRandom;

pub use caller::Caller;
pub use config::{AccessConfig, AccessError};
pub use policy::{PASS_ROLE, Policy, PolicyError};
pub use sessions::{AssumedRole, Sessions};

/// The reason why a caller could not be authenticated. Callers receive the message, which does not distinguish unknown
/// keys from wrong secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCaller {
    /// The origin of the call is unknown.
    #[error("The connection does not tell where it comes from.")]
    NoOrigin,
    /// A local user that may not use the socket.
    #[error(
        "This user may not use the socket. Use an access key, or have the operator add the user to access.socket_users"
    )]
    User,
    /// The call has neither an access key nor a known certificate.
    #[error(
        "Missing Authentication Token: give an access key (HEARTH_ACCESS_KEY_ID, HEARTH_SECRET_ACCESS_KEY) or a client certificate"
    )]
    NoCredentials,
    /// The access key is unknown, or its secret is wrong.
    #[error("The security token included in the request is invalid.")]
    Invalid,
}

/// The origin of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The Unix socket, with the id of the user at the other end.
    Socket(u32),
    /// A network address, with the client's certificate if it has presented one that the configured authority has
    /// signed.
    Network {
        /// The address, for the audit log.
        address: String,
        /// SHA-256 of the client's certificate.
        certificate: Option<[u8; SHA256_OUTPUT_LEN]>,
    },
}

impl Origin {
    /// The address for the audit log: `local` for the Unix socket.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Socket(_) => "local".to_owned(),
            Self::Network { address, .. } => address.clone(),
        }
    }
}

/// SHA-256 of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut print = [0; SHA256_OUTPUT_LEN];
    print.copy_from_slice(digest(&SHA256, certificate).as_ref());
    print
}

/// A known caller.
#[derive(Debug, Clone)]
struct Principal {
    account: String,
    policies: Arc<[Policy]>,
}

/// An access key.
struct Key {
    /// Signatures are verified with it.
    secret: Secret,
    /// What is derived from the secret for that.
    signing: Arc<sigv4::SigningKeys>,
    /// HMAC of the secret, with which secrets that callers send are compared.
    tag: hmac::Tag,
    principal: Principal,
}

/// The known callers.
pub struct Access {
    /// Key of this process for the HMACs of secrets. Comparing HMACs takes constant time, whatever the lengths.
    comparing: hmac::Key,
    keys: HashMap<String, Key>,
    certificates: HashMap<[u8; SHA256_OUTPUT_LEN], Principal>,
    users: Vec<u32>,
    /// Account and policies of callers on the Unix socket.
    local: Principal,
    /// What signatures have to be scoped to.
    scope: sigv4::Scope,
    /// Opens session tokens.
    sessions: Option<Sessions>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("keys", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the callers from the configuration. Signatures have to be for the `region`.
    ///
    /// # Errors
    /// [`AccessError`]: an error in the configuration.
    pub fn new(config: &AccessConfig, region: &str) -> Result<Self, AccessError> {
        let comparing = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let comparing = comparing.map_err(|_| AccessError::Random)?;
        let principal = |given: &Option<String>, policies: &[Policy]| Principal {
            account: given.clone().unwrap_or_else(|| config.local_account.clone()),
            policies: policies.into(),
        };
        config.check()?;
        let mut keys = HashMap::new();
        for key in &config.keys {
            let secret = key.secret()?;
            let tag = hmac::sign(&comparing, secret.expose().as_bytes());
            let principal = principal(&key.account, &key.policies);
            if keys.insert(key.id.clone(), Key { secret, signing: Arc::default(), tag, principal }).is_some()
            {
                return Err(AccessError::Twice(key.id.clone()));
            }
        }
        let mut certificates = HashMap::new();
        for certificate in &config.certificates {
            let print = certificate.fingerprint()?;
            certificates.insert(print, principal(&certificate.account, &certificate.policies));
        }
        let own = rustix::process::geteuid().as_raw();
        let users = config.socket_users.iter().copied().chain([0, own]).collect();
        let local = principal(&None, &[Policy::everything(), Policy::host()]);
        let scope = sigv4::Scope::of(region);
        Ok(Self { comparing, keys, certificates, users, local, scope, sessions: None })
    }

    /// The same callers, and their sessions.
    #[must_use]
    pub fn with_sessions(self, sessions: Sessions) -> Self {
        Self { sessions: Some(sessions), ..self }
    }

    /// The secret of an access key, if there is one with this id.
    #[must_use]
    pub fn secret(&self, id: &str) -> Option<&Secret> {
        self.keys.get(id).map(|key| &key.secret)
    }

    /// Whether there is a key or certificate with which callers can call over the network.
    #[must_use]
    pub fn knows_somebody(&self) -> bool {
        !self.keys.is_empty() || !self.certificates.is_empty()
    }

    /// Whether there is a key with which callers can sign requests.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Authenticates a caller; `authorization` is the header of that name.
    ///
    /// # Errors
    /// [`UnknownCaller`]
    pub fn identify(
        &self,
        origin: &Origin,
        authorization: Option<&str>,
        request_id: String,
    ) -> Result<Caller, UnknownCaller> {
        let (name, principal) = match (authorization, origin) {
            (Some(authorization), _) => self.by_key(authorization)?,
            (None, Origin::Socket(user)) if self.users.contains(user) => (format!("uid:{user}"), &self.local),
            (None, Origin::Socket(_)) => {
                return Err(UnknownCaller::User);
            }
            (None, Origin::Network { certificate, .. }) => {
                let known =
                    certificate.as_ref().and_then(|print| Some((print, self.certificates.get(print)?)));
                let (print, principal) = known.ok_or(UnknownCaller::NoCredentials)?;
                (format!("certificate:{}", hex(print)), principal)
            }
        };
        Ok(Caller {
            account: principal.account.clone(),
            principal: name,
            policies: Arc::clone(&principal.policies),
            role: None,
            request_id,
        })
    }

    fn by_key(&self, authorization: &str) -> Result<(String, &Principal), UnknownCaller> {
        let invalid = UnknownCaller::Invalid;
        let given = authorization.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text.trim()).ok());
        let given = given.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(invalid)?;
        let (id, secret) = given.split_once(':').ok_or(invalid)?;
        match self.keys.get(id) {
            Some(key) if hmac::verify(&self.comparing, secret.as_bytes(), key.tag.as_ref()).is_ok() => {
                Ok((id.to_owned(), &key.principal))
            }
            _ => Err(invalid),
        }
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;

    fn access(text: &str) -> Access {
        Access::new(&toml::from_str(text).unwrap(), "us-east-1").unwrap()
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    fn network(certificate: Option<[u8; 32]>) -> Origin {
        Origin::Network { address: "192.0.2.1".into(), certificate }
    }

    const KEYS: &str = r#"
        [[keys]]
        id = "AKIDEVELOPER"
        secret = "a long enough secret"
        account = "111122223333"
        policies = [{ actions = ["Get*", "RunMicrovm"], images = ["web-*"] }]
    "#;

    #[test]
    fn a_key_is_its_account_and_its_policies() {
        let access = access(KEYS);
        let caller = |given: &str| access.identify(&network(None), Some(&basic(given)), "r".into());
        let known = caller("AKIDEVELOPER:a long enough secret").unwrap();
        assert_eq!((known.account.as_str(), known.principal.as_str()), ("111122223333", "AKIDEVELOPER"));
        assert!(known.may(Operation::RunMicrovm, Some("web-1")) && !known.may(Operation::ListMicrovms, None));
        for wrong in
            ["AKIDEVELOPER:another long secret", "AKIDEVELOPER", "OTHER:a long enough secret", ":", ""]
        {
            let error = caller(wrong).unwrap_err();
            assert_eq!(
                error.to_string(),
                "The security token included in the request is invalid.",
                "{wrong}"
            );
        }
        for wrong in ["Bearer x", "Basic ***", ""] {
            assert!(access.identify(&Origin::Socket(0), Some(wrong), "r".into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_key_only_the_socket_and_known_certificates_let_in() {
        let print = fingerprint(b"certificate");
        let text = format!("socket_users = [7]\n[[certificates]]\nsha256 = \"{}\"\n", hex(&print));
        let access = access(&text);
        let identify = |origin: Origin| access.identify(&origin, None, "r".into());
        assert_eq!(identify(Origin::Socket(0)).unwrap().account, "000000000000");
        assert_eq!(identify(Origin::Socket(7)).unwrap().principal, "uid:7");
        assert!(identify(Origin::Socket(65_534)).is_err());
        assert!(identify(network(None)).is_err());
        assert!(identify(network(Some([0; 32]))).is_err());
        assert!(identify(network(Some(print))).unwrap().principal.starts_with("certificate:"));
    }

    #[test]
    fn the_host_is_for_the_socket_and_for_keys_that_name_it() {
        let text = "[[keys]]\nid = \"AKIALL\"\nsecret = \"a long enough secret\"\n\
                    [[keys]]\nid = \"AKIHOST\"\nsecret = \"a long enough secret\"\n\
                    policies = [{ actions = [\"BackUpStore\"] }]\n";
        let access = access(text);
        let key = |id: &str| basic(&format!("{id}:a long enough secret"));
        for (origin, key, own, of_host) in [
            (Origin::Socket(0), None, true, true),
            (network(None), Some(key("AKIALL")), true, false),
            // A key counts for itself, whatever the origin.
            (Origin::Socket(0), Some(key("AKIALL")), true, false),
            (network(None), Some(key("AKIHOST")), false, true),
        ] {
            let caller = access.identify(&origin, key.as_deref(), "r".into()).unwrap();
            assert_eq!(caller.may(Operation::ListMicrovms, None), own, "{origin:?} {key:?}");
            assert_eq!(caller.may(Operation::BackUpStore, None), of_host, "{origin:?} {key:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config: AccessConfig = toml::from_str(KEYS).unwrap();
        assert!(!format!("{config:?}{:?}", access(KEYS)).contains("long enough"));
    }
}
