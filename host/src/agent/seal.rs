//! Credentials for a guest that becomes a snapshot which others go on from: sealed, so that nothing of them stays in its memory
//! (`SetCredentials.sealed` in `agent.proto`).

use hearth_proto::guest::v1::Credentials;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, HpkeError, Kem, OpModeS, Serializable as _, single_shot_seal};
use prost::Message as _;

/// What the sealed text is for.
const INFO: &[u8] = b"hearth credentials";

/// Seals credentials with the agent's public key.
pub(super) fn seal(public_key: &[u8], credentials: &Credentials) -> Result<Vec<u8>, HpkeError> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public_key)?;
    let (key, text) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        INFO,
        &credentials.encode_to_vec(),
        &[],
    )?;
    Ok([key.to_bytes().as_slice(), &text].concat())
}

#[cfg(test)]
mod tests {
    use hpke::{OpModeR, single_shot_open};

    use super::*;

    #[test]
    fn whoever_has_the_key_reads_the_credentials() {
        let credentials = Credentials { secret_access_key: "secret".into(), ..Credentials::default() };
        let (private, public) = X25519HkdfSha256::gen_keypair();
        let sealed = seal(&public.to_bytes(), &credentials).unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        let (key, text) = sealed.split_at(32);
        let plain = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private,
            &<X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(key).unwrap(),
            INFO,
            text,
            &[],
        );
        assert_eq!(Credentials::decode(plain.unwrap().as_slice()).unwrap(), credentials);
    }

    #[test]
    fn a_guest_that_gives_no_key_gets_nothing() {
        for wrong in [&[][..], &[1; 31], &[0; 32], &[1; 33]] {
            assert!(seal(wrong, &Credentials::default()).is_err(), "{wrong:?}");
        }
    }
}
