//! Configuration of access: access keys, client certificates, local users.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use hearth_host::roles::Secret;
use hearth_model::account::is_account;
use hearth_model::role::account_of;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{Policy, PolicyError};

/// Least length of a secret, in characters.
const SECRET_MIN: usize = 16;

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Account of those who come through the Unix socket, and of keys and certificates without one: 12 digits.
    pub local_account: String,
    /// Users, by number, that may use the Unix socket beside root and the daemon's own. They may do everything in
    /// `local_account`, and what concerns the whole host.
    pub socket_users: Vec<u32>,
    /// Access keys: `[[access.keys]]`.
    pub keys: Vec<AccessKey>,
    /// Client certificates: `[[access.certificates]]`.
    pub certificates: Vec<Certificate>,
    /// Roles that owners of access keys can assume (`sts:AssumeRole`), by ARN: `[access.roles."ARN"]`. They need `PassRole` for
    /// the role, with all images, and the role must be for their account (`[roles]`). A role that is not here cannot be
    /// assumed.
    #[schemars(extend("x-name" = "ROLE"))]
    pub roles: BTreeMap<String, AssumableRole>,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            local_account: "000000000000".to_owned(),
            socket_users: Vec::new(),
            keys: Vec::new(),
            certificates: Vec::new(),
            roles: BTreeMap::new(),
        }
    }
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// The access key id: 3 to 128 of a-z A-Z 0-9 _ -
    pub id: String,
    /// The secret: at least 16 random characters. The configuration must be root's alone then.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Instead of `secret`: a file that holds it.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The account: 12 digits; `local_account` unless given.
    #[serde(default)]
    pub account: Option<String>,
    /// What its owner may, as [below](#policies). Everything in the account unless given, and nothing that concerns the whole
    /// host.
    #[serde(default = "everything")]
    pub policies: Vec<Policy>,
}

/// A client certificate. It takes effect with `listen.client_ca`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 of the certificate (DER) in hexadecimal, with or without colons: `openssl x509 -noout -fingerprint
    /// -sha256`.
    pub sha256: String,
    /// The account: 12 digits; `local_account` unless given.
    #[serde(default)]
    pub account: Option<String>,
    /// What its owner may, as [below](#policies). Everything in the account unless given, and nothing that concerns the whole
    /// host.
    #[serde(default = "everything")]
    pub policies: Vec<Policy>,
}

/// A role that callers can assume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssumableRole {
    /// What sessions of the role may, as [below](#policies). A session may do what both these policies and those of the
    /// access key allow that it was made with, as both are configured at the time of each call.
    pub policies: Vec<Policy>,
}

fn everything() -> Vec<Policy> {
    vec![Policy::everything()]
}

/// An error in the configuration of access.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An access key has neither a secret nor a file of one, or both.
    #[error("the access key {0}: give either secret or secret_file")]
    OneSecret(String),
    /// The file of a secret cannot be read.
    #[error("the secret of the access key {id}: reading {path}: {source}")]
    File {
        /// Id of the access key.
        id: String,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The secret is so short that it could be guessed.
    #[error("the secret of the access key {0} has less than {SECRET_MIN} characters")]
    Short(String),
    /// The id of an access key is not allowed.
    #[error("\"{0}\" cannot be the id of an access key: 3 to 128 letters, digits, - and _")]
    Id(String),
    /// Two access keys have the same id.
    #[error("the access key {0} is configured twice")]
    Twice(String),
    /// The text is not an account.
    #[error("\"{0}\" is no account: 12 digits")]
    Account(String),
    /// The text is not the ARN of a role.
    #[error("\"{0}\" is no role that can be assumed: write an ARN like arn:aws:iam::123456789012:role/NAME")]
    Role(String),
    /// The text is not a SHA-256 fingerprint.
    #[error(
        "\"{0}\" is no SHA-256 of a certificate: 64 hexadecimal digits (openssl x509 -noout -fingerprint -sha256)"
    )]
    Fingerprint(String),
    /// A policy is invalid.
    #[error("a policy of {of} {why}")]
    Policy {
        /// Id of the access key, fingerprint of the certificate or ARN of the role with the policy.
        of: String,
        /// The error in the policy.
        why: PolicyError,
    },
    /// The system has no random numbers.
    #[error("the system's random number generator failed")]
    Random,
}

impl AccessConfig {
    /// Checks the configuration. Files of secrets are not read here, but when they are used.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn check(&self) -> Result<(), AccessError> {
        if !is_account(&self.local_account) {
            return Err(AccessError::Account(self.local_account.clone()));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let keys = self.keys.iter().map(|key| (&key.id, &key.account, &key.policies));
        let certificates = self.certificates.iter().map(|one| (&one.sha256, &one.account, &one.policies));
        for (of, account, policies) in keys.chain(certificates) {
            if let Some(account) = account.as_ref().filter(|account| !is_account(account)) {
                return Err(AccessError::Account(account.clone()));
            }
            for policy in policies {
                policy.check().map_err(|why| AccessError::Policy { of: of.clone(), why })?;
            }
        }
        for (arn, role) in &self.roles {
            if account_of(arn).is_none() {
                return Err(AccessError::Role(arn.clone()));
            }
            for policy in &role.policies {
                policy.check().map_err(|why| AccessError::Policy { of: arn.clone(), why })?;
            }
        }
        for key in &self.keys {
            if !(3..=128).contains(&key.id.len()) || !key.id.bytes().all(allowed) {
                return Err(AccessError::Id(key.id.clone()));
            }
            if key.secret.is_some() == key.secret_file.is_some() {
                return Err(AccessError::OneSecret(key.id.clone()));
            }
        }
        self.certificates.iter().try_for_each(|certificate| certificate.fingerprint().map(drop))
    }

    /// The roles that callers can assume, by ARN, with the policies of their sessions.
    #[must_use]
    pub fn role_policies(&self) -> BTreeMap<String, Arc<[Policy]>> {
        self.roles.iter().map(|(arn, role)| (arn.clone(), role.policies.as_slice().into())).collect()
    }
}

impl AccessKey {
    /// The secret, read from its file if it has one.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn secret(&self) -> Result<Secret, AccessError> {
        let secret = match (&self.secret, &self.secret_file) {
            (Some(secret), None) => secret.clone(),
            (None, Some(path)) => {
                let text = fs::read_to_string(path);
                let failed = |source| AccessError::File { id: self.id.clone(), path: path.clone(), source };
                Secret::new(text.map_err(failed)?.trim().to_owned())
            }
            _ => return Err(AccessError::OneSecret(self.id.clone())),
        };
        if secret.expose().chars().count() < SECRET_MIN {
            return Err(AccessError::Short(self.id.clone()));
        }
        Ok(secret)
    }
}

impl Certificate {
    /// The fingerprint as bytes.
    ///
    /// # Errors
    /// [`AccessError::Fingerprint`].
    pub fn fingerprint(&self) -> Result<[u8; 32], AccessError> {
        let wrong = || AccessError::Fingerprint(self.sha256.clone());
        let digits: Vec<u8> = self.sha256.bytes().filter(|byte| *byte != b':').collect();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        let bytes = bytes.filter(|_| rest.is_empty()).ok_or_else(wrong)?;
        bytes.try_into().map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_by_name() {
        for (text, word) in [
            ("[[keys]]\nid = \"AKI\"", "AKI"),
            ("[[keys]]\nid = \"A B\"\nsecret = \"0123456789abcdef\"", "A B"),
            ("[[keys]]\nid = \"AKI\"\nsecret = \"0123456789abcdef\"\naccount = \"12\"", "\"12\""),
            (
                "[[keys]]\nid = \"AKI\"\nsecret = \"0123456789abcdef\"\npolicies = [{ actions = [\"Fly\"] }]",
                "a policy of AKI names the action \"Fly\"",
            ),
            (
                "[[keys]]\nid = \"AKI\"\nsecret = \"0123456789abcdef\"\npolicies = [{ actions = [\"PassRole\"] }]",
                "a policy of AKI names the action \"PassRole\" but no roles",
            ),
            ("[[certificates]]\nsha256 = \"00:11\"", "00:11"),
            ("[roles.app]\npolicies = []", "\"app\""),
            (
                "[roles.\"arn:aws:iam::111122223333:role/app\"]\npolicies = [{ actions = [\"Fly\"] }]",
                "a policy of arn:aws:iam::111122223333:role/app names the action \"Fly\"",
            ),
        ] {
            let config: AccessConfig = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let short: AccessConfig = toml::from_str("[[keys]]\nid = \"AKI\"\nsecret = \"short\"").unwrap();
        assert!(short.keys[0].secret().unwrap_err().to_string().contains("less than 16"));
        assert!(toml::from_str::<AccessConfig>("[[key]]\n").unwrap_err().to_string().contains("key"));
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let text = format!("[[keys]]\nid = \"AKI\"\nsecret_file = {:?}", file.path());
        let config: AccessConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.keys[0].secret().unwrap().expose(), "0123456789abcdef");
        assert!(!toml::to_string(&config).unwrap().contains("0123456789abcdef"));
    }
}
