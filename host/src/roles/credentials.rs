//! Credentials, and strings that are not printed.

use std::fmt;
use std::time::{Duration, SystemTime};

use zeroize::Zeroize as _;

/// Validity of static keys in the credentials that are handed out, after which they are looked up again: the same as that of AWS's roles
/// in a microVM.
pub const VALIDITY: Duration = Duration::from_secs(55 * 60);

/// A string that neither `Debug` nor a log shows, and that is overwritten in memory when it is dropped.
#[derive(Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of a string.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The string itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Serialized as `***`: for configurations that are shown.
impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Keys in a configuration file: valid until they are changed there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticKeys {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: Secret,
    /// Session token of temporary keys.
    #[serde(default)]
    pub session_token: Option<Secret>,
}

/// The credentials of a role at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The public part.
    pub access_key_id: String,
    /// The secret part.
    pub secret_access_key: Secret,
    /// Session token of temporary keys.
    pub session_token: Option<Secret>,
    /// Time at which they were made or fetched.
    pub last_updated: SystemTime,
    /// End of their validity. Static keys get [`VALIDITY`], after which they are looked up again.
    pub expiration: SystemTime,
}

impl StaticKeys {
    /// These keys, as of `now`.
    #[must_use]
    pub fn at(&self, now: SystemTime) -> Credentials {
        Credentials {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: self.session_token.clone(),
            last_updated: now,
            expiration: now + VALIDITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_no_secret_in_it() {
        let keys: StaticKeys = serde_json::from_str(
            r#"{"access_key_id": "AKIA", "secret_access_key": "hush", "session_token": "token"}"#,
        )
        .unwrap();
        let shown = format!("{:?} {keys:?}", keys.at(SystemTime::UNIX_EPOCH));
        assert!(shown.contains("AKIA"));
        assert!(!shown.contains("hush") && !shown.contains("token\""), "{shown}");
    }
}
