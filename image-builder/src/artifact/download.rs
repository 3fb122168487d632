//! Writes received bytes to a file: counted, bounded and hashed.

use std::fs::File;
use std::io::Write as _;

use sha2::{Digest, Sha256};

use super::error::ArtifactError;

/// Progress of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Progress {
    /// Bytes are being received.
    Fetching {
        /// Bytes so far, of all files of the artifact.
        bytes: u64,
        /// Bytes that there will be, where the sender has said so.
        total: Option<u64>,
    },
    /// All bytes were received and are being checked.
    Checking,
}

/// Receives the progress of a fetch. It is called often and must not block.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Counts the bytes of a whole artifact, which may be many files.
pub(super) struct Meter<'a> {
    bytes: u64,
    limit: u64,
    total: Option<u64>,
    on_progress: OnProgress<'a>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(limit: u64, on_progress: OnProgress<'a>) -> Self {
        Self { bytes: 0, limit, total: None, on_progress }
    }

    /// Announces the total of bytes; fails at once if that exceeds the limit.
    pub(super) fn expect(&mut self, total: u64) -> Result<(), ArtifactError> {
        if total > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        self.total = Some(total);
        Ok(())
    }

    fn add(&mut self, bytes: u64) -> Result<(), ArtifactError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limit {
            return Err(ArtifactError::TooLarge { limit: self.limit });
        }
        (self.on_progress)(Progress::Fetching { bytes: self.bytes, total: self.total });
        Ok(())
    }
}

/// A file that is being written.
pub(super) struct Download<'m, 'a> {
    file: &'m File,
    hash: Sha256,
    meter: &'m mut Meter<'a>,
}

impl<'m, 'a> Download<'m, 'a> {
    /// Writes to a file, from where it stands.
    pub(super) fn new(file: &'m File, meter: &'m mut Meter<'a>) -> Self {
        Self { file, hash: Sha256::new(), meter }
    }

    /// Announces the total of bytes; fails at once if that exceeds the limit.
    pub(super) fn expect(&mut self, total: u64) -> Result<(), ArtifactError> {
        self.meter.expect(total)
    }

    /// Appends bytes. Blocks: a worker does nothing else meanwhile.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.meter.add(bytes.len() as u64)?;
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(ArtifactError::io("writing the artifact"))
    }

    /// Returns the SHA-256 of what was written, in hexadecimal. Nothing is synced: what a crash leaves of a build is removed.
    pub(super) fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
