//! Errors of artifacts.

use std::sync::Arc;

use crate::disk::DiskError;

/// The reason why an operation on artifacts failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArtifactError {
    /// The account has no artifact with this key.
    #[error("Artifact not found: {0}")]
    NoKey(String),
    /// The key is empty or too long.
    #[error("The key of an artifact has 1 to 1024 bytes")]
    Key,
    /// The key has a character that keys cannot have.
    #[error(
        "The key of an artifact has a control character, or one that XML cannot hold: choose a key without U+{0:04X}"
    )]
    KeyCharacter(u32),
    /// The artifact is too large; contains the limit in bytes.
    #[error("The artifact has more than {0} bytes")]
    TooLarge(u64),
    /// The artifact has no bytes.
    #[error("The artifact is empty")]
    Empty,
    /// What is to be stored with the artifact is too large.
    #[error("The metadata of an artifact have at most {0} bytes")]
    Metadata(usize),
    /// The bytes are not those that the client has announced.
    #[error("The {0} you specified did not match the calculated checksum.")]
    Digest(&'static str),
    /// The bytes broke off.
    #[error("The upload broke off: {0}")]
    Broken(String),
    /// The condition that the client has set does not hold.
    #[error("At least one of the pre-conditions you specified did not hold")]
    Condition,
    /// The upload in parts does not exist: it has ended, or has never begun.
    #[error(
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )]
    NoUpload,
    /// The account has too many unfinished uploads; contains the limit.
    #[error("The account has {0} unfinished uploads: complete or abort some of them")]
    TooManyUploads(usize),
    /// The number of a part is invalid.
    #[error("Part number must be an integer between 1 and 10000, inclusive")]
    PartNumber,
    /// A part was not uploaded, or is another one.
    #[error("Part {0} could not be found: it may not have been uploaded, or its entity tag is another one")]
    NoPart(u32),
    /// The parts are not in order.
    #[error("The list of parts was not in ascending order. Parts must be ordered by part number.")]
    PartOrder,
    /// There is no room; contains the account, too.
    #[error("{0}")]
    Disk(DiskError, String),
    /// The system's error.
    #[error("An artifact cannot be read or written: {0}")]
    Io(Arc<std::io::Error>),
}

impl From<std::io::Error> for ArtifactError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
