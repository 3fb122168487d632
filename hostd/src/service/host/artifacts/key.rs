//! Keys of artifacts, the names of their files, and names that become keys.
//!
//! A key is any text without control characters. In the name of its file letters, digits, `_`, `-` and inner `.` stand for
//! themselves, and every other byte is `%` and two hexadecimal digits. A name that is too long for a file system is cut, and
//! ends with `~` and a hash.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::super::super::error::ServiceError;
use super::error::ArtifactError;

/// Greatest length of a key, in bytes.
const KEY_MAX: usize = 1024;
/// Longest file name that is used, below the file systems' limit of 255.
const FILE_MAX: usize = 200;
/// Characters of a hash with the sign before it.
const HASH: usize = 65;
/// Greatest length of a name, in characters.
const NAME_MAX: usize = 128;

/// The key of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// Checks a key.
    ///
    /// # Errors
    /// [`ArtifactError::Key`]; [`ArtifactError::KeyCharacter`] for the byte 0.
    pub(crate) fn new(key: &str) -> Result<Self, ArtifactError> {
        if !(1..=KEY_MAX).contains(&key.len()) {
            return Err(ArtifactError::Key);
        }
        match key.contains('\0') {
            true => Err(ArtifactError::KeyCharacter(0)),
            false => Ok(Self(key.to_owned())),
        }
    }

    /// Checks the key of an artifact that is to be stored: lists with it have to be XML 1.0. Keys of earlier releases are
    /// read and removed whatever they have.
    ///
    /// # Errors
    /// [`ArtifactError::KeyCharacter`]
    pub(crate) fn check_new(&self) -> Result<(), ArtifactError> {
        let is_wrong = |char: &char| matches!(char, '\0'..'\x20' | '\x7f' | '\u{fffe}' | '\u{ffff}');
        match self.0.chars().find(is_wrong) {
            Some(wrong) => Err(ArtifactError::KeyCharacter(u32::from(wrong))),
            None => Ok(()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The file of the artifact in the folder of an account's artifacts.
    pub(super) fn path(&self, objects: &Path) -> PathBuf {
        let mut name = String::with_capacity(self.0.len());
        for (index, &byte) in self.0.as_bytes().iter().enumerate() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
                b'.' if index > 0 => name.push('.'),
                _ => name.push_str(&format!("%{byte:02x}")),
            }
        }
        if name.len() > FILE_MAX {
            name.truncate(FILE_MAX.saturating_sub(HASH));
            name.push('~');
            name.push_str(&hex(&Sha256::digest(self.0.as_bytes())));
        }
        objects.join(name)
    }

    /// The key whose file has this name; none if the name was cut.
    pub(super) fn of_file_name(name: &str) -> Option<Self> {
        if name.contains('~') {
            return None;
        }
        Self::new(&percent_decode_str(name).decode_utf8().ok()?).ok()
    }
}

/// The name of an artifact. It becomes a part of the artifact's key, for people to recognise it.
#[derive(Debug)]
pub(crate) struct ArtifactName(String);

impl ArtifactName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidRequest::Member`](super::super::super::error::InvalidRequest::Member) if the name is not allowed.
    pub(crate) fn new(name: &str) -> Result<Self, ServiceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(ServiceError::invalid(
                "name",
                "The name of an artifact has 1 to 128 of a-z A-Z 0-9 . _ - and does not begin with a dot",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The key of the artifact with this name and this SHA-256.
    pub(super) fn key(&self, sha256: &[u8]) -> Key {
        Key(format!("{}-{}", hex(sha256), self.0))
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
