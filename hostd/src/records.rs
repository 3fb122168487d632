//! The store's tables and keys.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `microvms` | account `/` id | `MicrovmRecord` |
//! | `microvms_by_time` | account `/` inverted time (8) id | empty |
//! | `microvms_by_image` | account `/` image name `/` inverted time (8) id | version number (4) |
//! | `images` | account `/` name | `ImageRecord` |
//! | `versions` | account `/` name `/` inverted number (4) | `VersionRecord` |
//! | `artifacts` | build id | `ArtifactRecord` |
//! | `artifact_uses` | build id `/` microVM id | empty |
//! | `client_tokens` | account `/` operation `/` SHA-256 of the token (32) | `ClientTokenRecord` |
//! | `expiries` | time (8) kind (1) key of that kind's table | empty |
//! | `meta` | `cursor-key` | the key of cursors (32 bytes) |
//! | `meta` | `token-keys` | the keys of endpoints' tokens, as JSON |
//! | `meta` | `deleted-image/` account `/` name | `Timestamp` of the deletion |
//! | `meta` | `schema_version` | number of the schema (4), kept by the store itself |
//!
//! Numbers are big-endian. Times are milliseconds since 1970, inverted (`!t`) where the newest comes first. Accounts have 12
//! digits, and neither names nor ids hold a `/`.

use prost::Message;
use sha2::{Digest as _, Sha256};

/// Key in `meta` of the key with which cursors of lists are sealed.
pub const CURSOR_KEY: &[u8] = b"cursor-key";
/// Key in `meta` of the keys with which tokens of endpoints are encrypted.
pub const TOKEN_KEYS: &[u8] = b"token-keys";
/// First part of the keys in `meta` of deleted images.
const DELETED_IMAGE: &str = "deleted-image";

/// `a/b`
fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("/").into_bytes()
}

/// Key in `microvms`.
#[must_use]
pub fn microvm(account: &str, id: &str) -> Vec<u8> {
    key(&[account, id])
}

/// Prefix of the keys of an account, in every table with accounts.
#[must_use]
pub fn account(account: &str) -> Vec<u8> {
    key(&[account, ""])
}

/// Key in `microvms_by_time`.
#[must_use]
pub fn microvm_by_time(account: &str, started_ms: u64, id: &str) -> Vec<u8> {
    [key(&[account, ""]).as_slice(), &(!started_ms).to_be_bytes(), id.as_bytes()].concat()
}

/// Prefix of the keys of an image in `microvms_by_image` and `versions`.
#[must_use]
pub fn of_image(account: &str, name: &str) -> Vec<u8> {
    key(&[account, name, ""])
}

/// Key in `microvms_by_image`.
#[must_use]
pub fn microvm_by_image(account: &str, image: &str, started_ms: u64, id: &str) -> Vec<u8> {
    [of_image(account, image).as_slice(), &(!started_ms).to_be_bytes(), id.as_bytes()].concat()
}

/// Key in `images`.
#[must_use]
pub fn image(account: &str, name: &str) -> Vec<u8> {
    key(&[account, name])
}

/// Key in `meta` of the entry that an image was deleted.
#[must_use]
pub fn deleted_image(account: &str, name: &str) -> Vec<u8> {
    key(&[DELETED_IMAGE, account, name])
}

/// Prefix of the keys in `meta` of all deleted images.
#[must_use]
pub fn deleted_images() -> Vec<u8> {
    key(&[DELETED_IMAGE, ""])
}

/// Key in `versions`.
#[must_use]
pub fn version(account: &str, name: &str, number: u32) -> Vec<u8> {
    [of_image(account, name).as_slice(), &(!number).to_be_bytes()].concat()
}

/// Key in `artifacts`.
#[must_use]
pub fn artifact(build_id: &str) -> Vec<u8> {
    key(&[build_id])
}

/// Key in `artifact_uses`.
#[must_use]
pub fn artifact_use(build_id: &str, microvm_id: &str) -> Vec<u8> {
    key(&[build_id, microvm_id])
}

/// Prefix of the keys of a build's uses in `artifact_uses`.
#[must_use]
pub fn artifact_uses(build_id: &str) -> Vec<u8> {
    key(&[build_id, ""])
}

/// Prefix of the keys of an operation's tokens in `client_tokens`.
#[must_use]
pub fn client_tokens(account: &str, operation: &str) -> Vec<u8> {
    key(&[account, operation, ""])
}

/// Key in `client_tokens`.
#[must_use]
pub fn client_token(account: &str, operation: &str, token: &str) -> Vec<u8> {
    [client_tokens(account, operation).as_slice(), Sha256::digest(token.as_bytes()).as_slice()].concat()
}

/// Kinds of records that are removed when they expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A terminated microVM.
    Microvm,
    /// A client token.
    ClientToken,
}

impl Expiry {
    /// The byte that stands for this kind in keys.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Microvm => b'm',
            Self::ClientToken => b't',
        }
    }
}

/// Key in `expiries`: `of` is the key of the record that is removed at `at_ms`.
#[must_use]
pub fn expiry(at_ms: u64, kind: Expiry, of: &[u8]) -> Vec<u8> {
    [&at_ms.to_be_bytes(), [kind.byte()].as_slice(), of].concat()
}

/// Encodes a record for the store.
#[must_use]
pub fn encode(record: &impl Message) -> Vec<u8> {
    record.encode_to_vec()
}

#[cfg(test)]
mod tests;
