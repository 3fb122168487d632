//! Writes received bytes to a file: counted, bounded, hashed, and synced at the end.

use std::fs::OpenOptions;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::error::ArtifactError;

/// Progress of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    file: tokio::fs::File,
    hash: Sha256,
    meter: &'m mut Meter<'a>,
}

impl<'m, 'a> Download<'m, 'a> {
    /// A new file at `path`, which must not exist.
    pub(super) async fn create(path: &Path, meter: &'m mut Meter<'a>) -> Result<Self, ArtifactError> {
        let path = path.to_owned();
        let file = blocking(move || OpenOptions::new().write(true).create_new(true).open(path))
            .await
            .map_err(ArtifactError::io("making a file for the artifact"))?;
        Ok(Self { file: file.into(), hash: Sha256::new(), meter })
    }

    /// Announces the total of bytes; fails at once if that exceeds the limit.
    pub(super) fn expect(&mut self, total: u64) -> Result<(), ArtifactError> {
        self.meter.expect(total)
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.meter.add(bytes.len() as u64)?;
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(ArtifactError::io("writing the artifact"))
    }

    /// Syncs the file and returns the SHA-256 of what was written, in hexadecimal.
    pub(super) async fn finish(mut self) -> Result<String, ArtifactError> {
        self.file.flush().await.map_err(ArtifactError::io("writing the artifact"))?;
        self.file.sync_data().await.map_err(ArtifactError::io("writing the artifact"))?;
        Ok(hex(&self.hash.finalize()))
    }
}

/// Runs blocking work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
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
