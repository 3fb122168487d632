//! The compact serialization of JWE (RFC 7516, section 3.1) with `alg: dir` (RFC 7518, section 4.5) and `enc: A256GCM`
//! (section 5.3).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{InvalidToken, TokenError};

/// Greatest length of a token, in bytes: the API's own bound of 8,000 characters.
const MAX: usize = 8000;

/// A key of 256 bits.
pub type Key = [u8; 32];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    enc: String,
    kid: String,
}

fn cipher(key: &Key) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Encrypts `content` with a new initialization vector.
///
/// # Errors
/// [`TokenError::NoRandomness`], [`TokenError::Encryption`].
pub fn seal(key_id: &str, key: &Key, content: &[u8]) -> Result<String, TokenError> {
    let header = Header { alg: "dir".into(), enc: "A256GCM".into(), kid: key_id.to_owned() };
    let header = BASE64.encode(serde_json::to_vec(&header)?);
    let mut vector = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut vector).map_err(|_| TokenError::NoRandomness)?;
    seal_with(&header, key, vector, content).ok_or(TokenError::Encryption)
}

fn seal_with(header: &str, key: &Key, vector: [u8; NONCE_LEN], content: &[u8]) -> Option<String> {
    let mut text = content.to_vec();
    let nonce = Nonce::assume_unique_for_key(vector);
    let tag = cipher(key)?.seal_in_place_separate_tag(nonce, Aad::from(header.as_bytes()), &mut text).ok()?;
    // The second part is the encrypted key, which is empty because the key is shared.
    let [vector, text, tag] = [&vector[..], &text, tag.as_ref()].map(|part| BASE64.encode(part));
    Some(format!("{header}..{vector}.{text}.{tag}"))
}

/// A token that has been split into its parts.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Id of the key that the token names.
    pub key_id: String,
    header: &'a str,
    vector: [u8; NONCE_LEN],
    /// The ciphertext, followed by the authentication tag.
    text: Vec<u8>,
}

impl<'a> Sealed<'a> {
    /// Splits a token into its parts.
    ///
    /// # Errors
    /// [`InvalidToken::Malformed`].
    pub fn parse(token: &'a str) -> Result<Self, InvalidToken> {
        let malformed = InvalidToken::Malformed;
        if token.len() > MAX {
            return Err(malformed);
        }
        let mut parts = token.split('.');
        let mut next = || parts.next().ok_or(malformed);
        let (header, key, vector, text, tag) = (next()?, next()?, next()?, next()?, next()?);
        let decode = |part: &str| BASE64.decode(part).map_err(|_| malformed);
        let fields: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
        let is_ours = fields.alg == "dir" && fields.enc == "A256GCM" && key.is_empty();
        let (vector, tag) = (decode(vector)?, decode(tag)?);
        if parts.next().is_some() || !is_ours || tag.len() != MAX_TAG_LEN {
            return Err(malformed);
        }
        let vector = vector.try_into().map_err(|_| malformed)?;
        let text = [decode(text)?, tag].concat();
        Ok(Self { key_id: fields.kid, header, vector, text })
    }

    /// The decrypted content, if the token was encrypted with `key`.
    ///
    /// # Errors
    /// [`InvalidToken::Forged`].
    pub fn open(mut self, key: &Key) -> Result<Vec<u8>, InvalidToken> {
        let nonce = Nonce::assume_unique_for_key(self.vector);
        let cipher = cipher(key).ok_or(InvalidToken::Forged)?;
        let content = cipher.open_in_place(nonce, Aad::from(self.header.as_bytes()), &mut self.text);
        content.map(|content| content.to_vec()).map_err(|_| InvalidToken::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7516, appendix A.1: the content encryption of an example with another key management.
    #[test]
    fn the_content_is_encrypted_as_in_the_standards_example() {
        let key: Key = [
            177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7, 110, 91, 112,
            46, 34, 105, 47, 130, 203, 46, 122, 234, 64, 252,
        ];
        let vector = [227, 197, 117, 252, 2, 219, 233, 68, 180, 225, 77, 219];
        let content = b"The true sign of intelligence is not knowledge but imagination.";
        let header = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ";
        assert_eq!(
            seal_with(header, &key, vector, content).unwrap(),
            format!(
                "{header}..48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A.XFBoMYUZodetZdvTiFvSkQ"
            )
        );
    }

    #[test]
    fn what_was_sealed_is_opened_with_the_same_key_only() {
        let token = seal("k", &[1; 32], b"content").unwrap();
        let header = BASE64.decode(token.split('.').next().unwrap()).unwrap();
        assert_eq!(header, br#"{"alg":"dir","enc":"A256GCM","kid":"k"}"#);
        assert_eq!(Sealed::parse(&token).unwrap().open(&[1; 32]).unwrap(), b"content");
        assert_eq!(Sealed::parse(&token).unwrap().open(&[2; 32]), Err(InvalidToken::Forged));
        assert_ne!(token, seal("k", &[1; 32], b"content").unwrap(), "no initialization vector twice");
    }
}
