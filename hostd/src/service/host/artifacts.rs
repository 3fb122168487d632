//! Zip files that clients upload into the local bucket. They are named by their content, and appear completely or not
//! at all.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use super::super::error::ServiceError;
use crate::panics;

/// Greatest length of a name, in characters.
const NAME_MAX: usize = 128;
/// Prefix of the files of uploads in progress.
const UNDER_WAY: &str = ".upload-";

/// The local bucket.
#[derive(Debug, Clone)]
pub struct Artifacts {
    bucket: String,
    folder: PathBuf,
    max_bytes: u64,
}

/// The name of an artifact. It becomes a part of the artifact's key, for people to recognise it.
#[derive(Debug)]
pub(crate) struct ArtifactName(String);

impl ArtifactName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidRequest::Member`](super::super::error::InvalidRequest::Member) if the name is not allowed.
    pub(super) fn new(name: &str) -> Result<Self, ServiceError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(ServiceError::invalid(
                "name",
                "The name of an artifact has 1 to 128 of a-z A-Z 0-9 . _ - and does not begin with a dot",
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

/// An upload in progress. If it is dropped before [`Upload::finish`], it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    temporary: tempfile::TempPath,
    name: String,
    sha256: Sha256,
    bytes: u64,
    artifacts: Artifacts,
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ServiceError {
    ServiceError::internal(format!("{what} {}: {error}", path.display()))
}

impl Artifacts {
    /// Opens the bucket `bucket` in `folder`, whose artifacts may have at most `max_bytes`. Unfinished uploads of an
    /// earlier daemon are removed.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(bucket: &str, folder: &Path, max_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { bucket: bucket.to_owned(), folder: folder.to_owned(), max_bytes })
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// Errors of the system.
    pub(super) async fn begin(&self, name: &ArtifactName) -> Result<Upload, ServiceError> {
        let (folder, prefix) = (self.folder.clone(), UNDER_WAY);
        let made =
            panics::blocking(move || tempfile::Builder::new().prefix(prefix).tempfile_in(folder)).await;
        let (file, temporary) =
            made.map_err(|error| failed("making a file in", &self.folder, &error))?.into_parts();
        let (sha256, artifacts) = (Sha256::new(), self.clone());
        Ok(Upload { file: file.into(), temporary, name: name.0.clone(), sha256, bytes: 0, artifacts })
    }
}

impl Upload {
    /// Appends bytes to the artifact.
    ///
    /// # Errors
    /// [`InvalidRequest::Member`](super::super::error::InvalidRequest::Member) if the artifact becomes too large.
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), ServiceError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if self.bytes > self.artifacts.max_bytes {
            let max = self.artifacts.max_bytes;
            return Err(ServiceError::invalid("data", format!("The artifact has more than {max} bytes")));
        }
        self.sha256.update(data);
        let written = self.file.write_all(data).await;
        written.map_err(|error| failed("writing", &self.temporary, &error))
    }

    /// Makes the artifact durable under the name of its content. Returns its URI and its size in bytes.
    ///
    /// # Errors
    /// [`InvalidRequest::Member`](super::super::error::InvalidRequest::Member) if the artifact is empty; errors of the
    /// system.
    pub(super) async fn finish(mut self) -> Result<(String, u64), ServiceError> {
        if self.bytes == 0 {
            return Err(ServiceError::invalid("data", "The artifact is empty"));
        }
        let digest: String = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{digest}-{}", self.name);
        let path = self.artifacts.folder.join(&key);
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await?;
            fs::rename(&self.temporary, &path).await?;
            File::open(&self.artifacts.folder).await?.sync_all().await
        };
        synced.await.map_err(|error| failed("storing", &path, &error))?;
        Ok((format!("s3://{}/{key}", self.artifacts.bucket), self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_artifact_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open("local", folder.path(), 8).unwrap();
        let name = |name| ArtifactName::new(name).unwrap();
        let mut upload = artifacts.begin(&name("app.zip")).await.unwrap();
        upload.write(b"abc").await.unwrap();
        upload.write(b"def").await.unwrap();
        let (uri, bytes) = upload.finish().await.unwrap();
        let digest = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
        assert_eq!((uri, bytes), (format!("s3://local/{digest}-app.zip"), 6));
        assert_eq!(files(folder.path()), [format!("{digest}-app.zip")]);
        let mut too_large = artifacts.begin(&name("app.zip")).await.unwrap();
        too_large.write(&[0; 9]).await.unwrap_err();
        drop(too_large);
        artifacts.begin(&name("empty.zip")).await.unwrap().finish().await.unwrap_err();
        assert_eq!(files(folder.path()).len(), 1, "nothing is left");
    }

    #[test]
    fn names_are_checked_and_leftovers_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".upload-abc"), "half").unwrap();
        Artifacts::open("local", folder.path(), 8).unwrap();
        assert!(files(folder.path()).is_empty());
        for name in ["", ".hidden", "../up", "a/b", "a b", &"a".repeat(129)] {
            assert!(ArtifactName::new(name).is_err(), "{name}");
        }
    }
}
