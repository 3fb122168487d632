//! Credentials that leave no copy in memory.

use std::fmt;
use std::ops::Deref;

use hearth_proto::guest::v1::Credentials;
use zeroize::Zeroize as _;

/// Credentials that are overwritten when they are dropped: the agent's memory is in every snapshot.
pub struct SecretCredentials(Credentials);

impl SecretCredentials {
    /// Takes over the credentials.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(credentials)
    }
}

impl Deref for SecretCredentials {
    type Target = Credentials;

    fn deref(&self) -> &Credentials {
        &self.0
    }
}

impl fmt::Debug for SecretCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCredentials").finish_non_exhaustive()
    }
}

impl Drop for SecretCredentials {
    fn drop(&mut self) {
        let Credentials { access_key_id, secret_access_key, session_token, last_updated: _, expiration: _ } =
            &mut self.0;
        for text in [access_key_id, secret_access_key, session_token] {
            text.zeroize();
        }
    }
}
