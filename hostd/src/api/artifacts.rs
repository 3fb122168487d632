//! The local bucket: zips that clients have brought, one folder for each bucket.
//!
//! An object's key has its SHA-256, so that the same zip is there once, and one that is there never changes. It is written to a
//! temporary file beside it, synced, and renamed: whatever happens, an object is whole or not there.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use crate::service::ServiceError;

/// Where artifacts are stored.
#[async_trait]
pub trait Artifacts: Send + Sync + std::fmt::Debug {
    /// Begins to store one. Nothing is left of one that is dropped before it is finished.
    async fn begin(&self, account: &str, name: &str) -> Result<Box<dyn Upload>, ServiceError>;
}

/// An artifact that is being stored.
#[async_trait]
pub trait Upload: Send {
    /// The next bytes.
    async fn write(&mut self, data: &[u8]) -> Result<(), ServiceError>;
    /// It is complete: its URI and size in bytes.
    async fn finish(self: Box<Self>) -> Result<(String, u64), ServiceError>;
}

/// A bucket that is a folder.
#[derive(Debug, Clone)]
pub struct LocalBucket {
    folder: PathBuf,
    bucket: String,
    max_bytes: u64,
}

impl LocalBucket {
    /// The bucket `bucket` in the folder of that name in `buckets`, whose objects have `max_bytes` at most.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn open(buckets: &Path, bucket: &str, max_bytes: u64) -> io::Result<Self> {
        let folder = buckets.join(bucket);
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, bucket: bucket.to_owned(), max_bytes })
    }
}

#[async_trait]
impl Artifacts for LocalBucket {
    async fn begin(&self, account: &str, name: &str) -> Result<Box<dyn Upload>, ServiceError> {
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(of_name) {
            return Err(ServiceError::invalid("name", "The name must have 1 to 128 of a-z A-Z 0-9 . _ - and not begin with a dot"));
        }
        let folder = self.folder.join(account);
        fs::create_dir_all(&folder).await.map_err(|error| failed("make", &folder, &error))?;
        let file = tempfile::Builder::new().prefix(".partial-").tempfile_in(&folder);
        let file = file.map_err(|error| failed("write into", &folder, &error))?;
        let (file, path) = file.into_parts();
        Ok(Box::new(LocalUpload {
            file: fs::File::from_std(file),
            path,
            folder,
            uri: format!("s3://{}/{account}", self.bucket),
            name: name.to_owned(),
            digest: Sha256::new(),
            bytes: 0,
            max_bytes: self.max_bytes,
        }))
    }
}

struct LocalUpload {
    file: fs::File,
    /// Removed when this is dropped.
    path: tempfile::TempPath,
    folder: PathBuf,
    uri: String,
    name: String,
    digest: Sha256,
    bytes: u64,
    max_bytes: u64,
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, data: &[u8]) -> Result<(), ServiceError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if self.bytes > self.max_bytes {
            let message = format!("The artifact has more than {} bytes, the limit of this host", self.max_bytes);
            return Err(ServiceError::invalid("data", message));
        }
        self.digest.update(data);
        self.file.write_all(data).await.map_err(|error| failed("write into", &self.folder, &error))
    }

    async fn finish(mut self: Box<Self>) -> Result<(String, u64), ServiceError> {
        if self.bytes == 0 {
            return Err(ServiceError::invalid("data", "The artifact is empty"));
        }
        self.file.flush().await.map_err(|error| failed("write into", &self.folder, &error))?;
        self.file.sync_all().await.map_err(|error| failed("sync a file in", &self.folder, &error))?;
        let digest: String = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{digest}-{}", self.name);
        let to = self.folder.join(&key);
        self.path.persist(&to).map_err(|error| failed("rename a file to", &to, &error.error))?;
        let folder = fs::File::open(&self.folder).await;
        let synced = match folder {
            Ok(folder) => folder.sync_all().await,
            Err(error) => Err(error),
        };
        synced.map_err(|error| failed("sync", &self.folder, &error))?;
        Ok((format!("{}/{key}", self.uri), self.bytes))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ServiceError {
    ServiceError::internal(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_artifact_is_whole_or_not_there() {
        let buckets = tempfile::tempdir().unwrap();
        let bucket = LocalBucket::open(buckets.path(), "artifacts", 10).unwrap();
        let files = || std::fs::read_dir(buckets.path().join("artifacts/111122223333")).unwrap().count();
        let mut upload = bucket.begin("111122223333", "app.zip").await.unwrap();
        upload.write(b"01234").await.unwrap();
        upload.write(b"56789").await.unwrap();
        let (uri, bytes) = upload.finish().await.unwrap();
        let digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
        assert_eq!(uri, format!("s3://artifacts/111122223333/{digest}-app.zip"));
        assert_eq!((bytes, files()), (10, 1));
        let mut upload = bucket.begin("111122223333", "app.zip").await.unwrap();
        upload.write(b"0123456789").await.unwrap();
        assert!(upload.write(b"0").await.unwrap_err().to_string().contains("more than 10 bytes"));
        drop(upload);
        assert!(bucket.begin("111122223333", "app.zip").await.unwrap().finish().await.is_err());
        assert_eq!(files(), 1);
        for name in ["", "../x", "a/b", ".hidden", "ä"] {
            assert!(bucket.begin("111122223333", name).await.is_err(), "{name}");
        }
    }
}
