//! Credentials that come sealed: to a guest that becomes a snapshot which others go on from.
//!
//! Whatever the agent overwrites, the guest's kernel has had the message, too, in buffers that are freed and not overwritten.
//! So those only get what nobody can read any more once the key is gone (`SetCredentials.sealed`).

use std::fs::File;
use std::io::Read as _;

use hearth_proto::guest::v1::Credentials;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, Serializable as _, single_shot_open};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::metadata::Granted;
use crate::refusal::{Context as _, Refusal};
use crate::system::wipe;

/// What the sealed text is for.
const INFO: &[u8] = b"hearth credentials";

type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// A key that opens what was sealed for it once. It overwrites itself.
pub(super) struct SealKey {
    private: PrivateKey,
    public: PublicKey,
}

impl SealKey {
    /// Makes a key. The kernel's random number generator has got its entropy with Identify before.
    pub(super) fn make() -> Result<Self, Refusal> {
        let mut random = Zeroizing::new([0; 32]);
        let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut *random));
        read.or_refuse(|| "reading /dev/urandom")?;
        let (private, public) = derive(&random);
        wipe::stack_and_registers();
        Ok(Self { private, public })
    }

    /// What credentials are sealed with for it.
    pub(super) fn public(&self) -> Vec<u8> {
        self.public.to_bytes().to_vec()
    }

    /// Opens sealed credentials.
    pub(super) fn open(self, sealed: &[u8]) -> Result<Granted, Refusal> {
        let opened = open(&self.private, sealed);
        wipe::stack_and_registers();
        opened.ok_or_else(|| {
            Refusal::invalid("the credentials were not sealed with the newest key of this connection")
        })
    }
}

// What is done with secrets is in functions of their own frames, so that those can be overwritten.

#[inline(never)]
fn derive(random: &[u8; 32]) -> (PrivateKey, PublicKey) {
    X25519HkdfSha256::derive_keypair(random)
}

#[inline(never)]
fn open(private: &PrivateKey, sealed: &[u8]) -> Option<Granted> {
    let (key, text) = sealed.split_at_checked(EncappedKey::size())?;
    let key = EncappedKey::from_bytes(key).ok()?;
    let plain = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        private,
        &key,
        INFO,
        text,
        &[],
    );
    let plain = Zeroizing::new(plain.ok()?);
    Credentials::decode(plain.as_slice()).ok().map(Granted::new)
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::FailureCode;
    use hpke::{OpModeS, single_shot_seal};

    use super::*;

    fn seal(public: &[u8], credentials: &Credentials) -> Vec<u8> {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).unwrap();
        let (key, text) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            &credentials.encode_to_vec(),
            &[],
        )
        .unwrap();
        [key.to_bytes().as_slice(), &text].concat()
    }

    #[test]
    fn sealed_credentials_are_opened_by_their_key_alone() {
        let credentials = Credentials { access_key_id: "AKIA".into(), ..Credentials::default() };
        let (key, other) = (SealKey::make().unwrap(), SealKey::make().unwrap());
        let sealed = seal(&key.public(), &credentials);
        assert!(!sealed.windows(4).any(|bytes| bytes == b"AKIA"));
        assert_eq!(other.open(&sealed).unwrap_err().code, FailureCode::Invalid);
        assert_eq!(*key.open(&sealed).unwrap(), credentials);
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused() {
        for change in [0, 31, 32, 60] {
            let key = SealKey::make().unwrap();
            let mut sealed = seal(&key.public(), &Credentials::default());
            let index = change.min(sealed.len() - 1);
            sealed[index] ^= 1;
            assert_eq!(key.open(&sealed).unwrap_err().code, FailureCode::Invalid, "byte {index}");
        }
        for short in [&[][..], &[1; 31], &[1; 32]] {
            assert_eq!(SealKey::make().unwrap().open(short).unwrap_err().code, FailureCode::Invalid);
        }
    }
}
