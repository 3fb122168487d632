//! Sealed credentials, for a guest that becomes a snapshot from which others are restored (`SetCredentials.sealed` in `agent.proto`):
//! nothing readable of them stays in its memory once the key is gone. HPKE (RFC 9180) with X25519, HKDF-SHA256 and ChaCha20-Poly1305.

use hearth_proto::guest::v1::Credentials;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{
    Deserializable as _, HpkeError, Kem, OpModeR, OpModeS, Serializable as _, single_shot_open,
    single_shot_seal,
};
use prost::Message as _;
use zeroize::Zeroizing;

/// HPKE's `info`: the purpose of the sealed text.
const INFO: &[u8] = b"hearth credentials";

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// The key that opens sealed credentials. It overwrites itself when dropped.
pub type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;

// Functions that handle secrets are not inlined, so that their callers can overwrite their stack frames.

/// Derives a pair of keys from 32 random bytes: the private key, which opens, and the public key, which seals.
#[must_use]
#[inline(never)]
pub fn keys(random: &[u8; 32]) -> (PrivateKey, Vec<u8>) {
    let (private, public) = X25519HkdfSha256::derive_keypair(random);
    (private, public.to_bytes().to_vec())
}

/// Seals credentials with the agent's public key.
///
/// # Errors
/// [`HpkeError`]: it is no valid key. A guest has made it, and may be hostile.
pub fn seal(public_key: &[u8], credentials: &Credentials) -> Result<Vec<u8>, HpkeError> {
    let public = PublicKey::from_bytes(public_key)?;
    let (key, text) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        INFO,
        &credentials.encode_to_vec(),
        &[],
    )?;
    Ok([key.to_bytes().as_slice(), &text].concat())
}

/// Opens sealed credentials; none if they were not sealed with this key, or were modified.
#[must_use]
#[inline(never)]
pub fn open(private: &PrivateKey, sealed: &[u8]) -> Option<Credentials> {
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
    Credentials::decode(plain.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_credentials_are_opened_by_their_key_alone() {
        let credentials = Credentials { secret_access_key: "secret".into(), ..Credentials::default() };
        let ((private, public), (other, _)) = (keys(&[1; 32]), keys(&[2; 32]));
        let sealed = seal(&public, &credentials).unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(open(&private, &sealed).as_ref(), Some(&credentials));
        assert!(open(&other, &sealed).is_none());
    }

    #[test]
    fn what_was_changed_on_the_way_is_not_opened() {
        let (private, public) = keys(&[1; 32]);
        for change in [0, 31, 32, 60] {
            let mut sealed = seal(&public, &Credentials::default()).unwrap();
            let index = change.min(sealed.len() - 1);
            sealed[index] ^= 1;
            assert!(open(&private, &sealed).is_none(), "byte {index}");
        }
        for short in [&[][..], &[1; 31], &[1; 32]] {
            assert!(open(&private, short).is_none());
        }
    }

    #[test]
    fn what_is_no_key_seals_nothing() {
        for wrong in [&[][..], &[1; 31], &[0; 32], &[1; 33]] {
            assert!(seal(wrong, &Credentials::default()).is_err(), "{wrong:?}");
        }
    }
}
