//! From a connection and credentials to a caller.
//!
//! Over the Unix socket the kernel says who is at the other end: root and the daemon's own user may do everything in the
//! default account. Everybody else, and everybody who comes over TCP, shows an access key: `authorization: Basic` with its id
//! and secret. Clients that know only their keys can so act as another account over the socket, too.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;

use super::caller::Caller;
use super::config::{AccessConfig, AccessError};
use super::policy::Policy;
use crate::service::ServiceError;

/// Longest `authorization` that is looked at.
const MAX_TEXT: usize = 4096;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, of this user.
    Unix {
        /// Number of the user, if the kernel says.
        uid: Option<u32>,
    },
    /// Somebody over TCP.
    Tcp {
        /// Address without port.
        address: String,
    },
}

impl Peer {
    /// How it is told in the audit log.
    #[must_use]
    pub fn source(&self) -> String {
        match self {
            Self::Unix { .. } => "unix:".to_owned(),
            Self::Tcp { address } => address.clone(),
        }
    }
}

/// Tells who calls.
#[derive(Debug)]
pub struct Access {
    default_account: String,
    socket_uids: Vec<u32>,
    keys: HashMap<String, Key>,
    everything: Arc<[Policy]>,
    /// Secrets are compared by their codes under this key, which nobody else knows.
    comparison: hmac::Key,
}

#[derive(Debug)]
struct Key {
    account: String,
    policies: Arc<[Policy]>,
    secret: hmac::Tag,
}

impl Access {
    /// Reads the keys' secrets.
    ///
    /// # Errors
    ///
    /// [`AccessError::Key`].
    pub fn new(config: &AccessConfig, default_account: &str) -> Result<Self, AccessError> {
        let random = ring::rand::SystemRandom::new();
        // Without randomness the codes are still compared in constant time.
        let comparison = hmac::Key::generate(hmac::HMAC_SHA256, &random)
            .unwrap_or_else(|_| hmac::Key::new(hmac::HMAC_SHA256, digest(&SHA256, b"hearth").as_ref()));
        let mut keys = HashMap::new();
        for key in &config.keys {
            let secret = hmac::sign(&comparison, key.secret()?.expose().as_bytes());
            let policies = key.policies.clone().into();
            keys.insert(key.id.clone(), Key { account: key.account.clone(), policies, secret });
        }
        // SAFETY: geteuid has no arguments and cannot fail.
        let own = unsafe { libc::geteuid() };
        Ok(Self {
            default_account: default_account.to_owned(),
            socket_uids: config.socket_uids.clone().unwrap_or_else(|| vec![0, own]),
            keys,
            everything: [Policy::everything()].into(),
            comparison,
        })
    }

    /// Who calls. `authorization` is the value of that header.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unauthenticated`].
    pub fn identify(
        &self,
        peer: &Peer,
        authorization: Option<&str>,
        request_id: &str,
    ) -> Result<Caller, ServiceError> {
        if let Some(authorization) = authorization {
            return self.of_key(authorization, request_id);
        }
        match peer {
            Peer::Unix { uid: Some(uid) } if self.socket_uids.contains(uid) => Ok(Caller {
                account: self.default_account.clone(),
                principal: format!("uid:{uid}"),
                policies: Arc::clone(&self.everything),
                request_id: request_id.to_owned(),
            }),
            _ => Err(ServiceError::Unauthenticated("Missing Authentication Token")),
        }
    }

    fn of_key(&self, authorization: &str, request_id: &str) -> Result<Caller, ServiceError> {
        let invalid =
            || ServiceError::Unauthenticated("The security token included in the request is invalid.");
        if authorization.len() > MAX_TEXT {
            return Err(invalid());
        }
        let (scheme, encoded) = authorization.split_once(' ').ok_or_else(invalid)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(invalid());
        }
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| invalid())?;
        let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
        let (id, secret) = decoded.split_once(':').ok_or_else(invalid)?;
        // An unknown id takes as long as a wrong secret.
        let key = self.keys.get(id);
        let wanted = key.map_or(&[0_u8; 32] as &[u8], |key| key.secret.as_ref());
        let same = hmac::verify(&self.comparison, secret.as_bytes(), wanted).is_ok();
        match key {
            Some(key) if same => Ok(Caller {
                account: key.account.clone(),
                principal: id.to_owned(),
                policies: Arc::clone(&key.policies),
                request_id: request_id.to_owned(),
            }),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Operation;

    fn access() -> Access {
        let config = r#"
            socket_uids = [0, 1000]
            [[keys]]
            id = "alice"
            secret = "0123456789abcdef"
            account = "444455556666"
            policies = [{ actions = ["RunMicrovm"], images = ["web-*"] }]
        "#;
        Access::new(&toml::from_str(config).unwrap(), "111122223333").unwrap()
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn local_users_have_the_default_account() {
        let caller = access().identify(&Peer::Unix { uid: Some(1000) }, None, "id").unwrap();
        assert_eq!((caller.account.as_str(), caller.principal.as_str()), ("111122223333", "uid:1000"));
        assert!(caller.may(Operation::BackUpStore, None));
        for peer in [Peer::Unix { uid: Some(1001) }, Peer::Unix { uid: None }, Peer::Tcp { address: "::1".into() }] {
            let error = access().identify(&peer, None, "id").unwrap_err();
            assert_eq!(error.exception().grpc, tonic::Code::Unauthenticated);
        }
    }

    #[test]
    fn a_key_has_its_account_and_policies() {
        let peer = Peer::Tcp { address: "192.0.2.1".into() };
        let caller = access().identify(&peer, Some(&basic("alice:0123456789abcdef")), "id").unwrap();
        assert_eq!((caller.account.as_str(), caller.principal.as_str()), ("444455556666", "alice"));
        assert!(caller.may(Operation::RunMicrovm, Some("web-1")));
        assert!(!caller.may(Operation::RunMicrovm, Some("api")));
    }

    #[test]
    fn wrong_credentials_are_refused_even_for_root() {
        let peer = Peer::Unix { uid: Some(0) };
        for bad in [
            basic("alice:0123456789abcdeF"),
            basic("alice:"),
            basic("bob:0123456789abcdef"),
            basic("alice"),
            "Basic !!!".to_owned(),
            "Bearer x".to_owned(),
            String::new(),
            basic(&"x".repeat(10_000)),
        ] {
            let error = access().identify(&peer, Some(&bad), "id").unwrap_err();
            assert_eq!(error.to_string(), "The security token included in the request is invalid.");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", access()).contains("0123456789abcdef"));
    }
}
