//! Sealed credentials: for a guest that becomes a snapshot from which other guests are restored.
//!
//! The agent can overwrite its own memory, but the guest's kernel has had the message in buffers that are freed without being
//! overwritten. Therefore those buffers only get what nobody can read once the key is gone (`SetCredentials.sealed`).

use std::fs::File;
use std::io::Read as _;

use hearth_agent_protocol::seal::{self, PrivateKey};
use zeroize::Zeroizing;

use crate::metadata::SecretCredentials;
use crate::refusal::{Context as _, Refusal};
use crate::system::wipe;

/// A key that opens one sealed message. It overwrites itself when dropped.
pub(super) struct SealKey {
    private: PrivateKey,
    public: Vec<u8>,
}

impl SealKey {
    /// Makes a key. Identify has given the kernel's random number generator its entropy before.
    pub(super) fn make() -> Result<Self, Refusal> {
        let mut random = Zeroizing::new([0; 32]);
        let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut *random));
        read.or_refuse(|| "reading /dev/urandom")?;
        let (private, public) = seal::keys(&random);
        wipe::stack_and_registers();
        Ok(Self { private, public })
    }

    /// The public key, with which the host seals credentials.
    pub(super) fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// Opens sealed credentials.
    pub(super) fn open(self, sealed: &[u8]) -> Result<SecretCredentials, Refusal> {
        let opened = open(&self.private, sealed);
        wipe::stack_and_registers();
        opened.ok_or_else(|| {
            Refusal::invalid("the credentials were not sealed with the newest key of this connection")
        })
    }
}

// Not inlined, so that the secrets are in a stack frame of their own, which is overwritten afterwards.
#[inline(never)]
fn open(private: &PrivateKey, sealed: &[u8]) -> Option<SecretCredentials> {
    seal::open(private, sealed).map(SecretCredentials::new)
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::{Credentials, FailureCode};

    use super::*;

    #[test]
    fn sealed_credentials_are_opened_by_their_key_alone() {
        let credentials = Credentials { access_key_id: "AKIA".into(), ..Credentials::default() };
        let (key, other) = (SealKey::make().unwrap(), SealKey::make().unwrap());
        let sealed = seal::seal(&key.public(), &credentials).unwrap();
        assert_eq!(other.open(&sealed).unwrap_err().code, FailureCode::Invalid);
        assert_eq!(*key.open(&sealed).unwrap(), credentials);
    }
}
