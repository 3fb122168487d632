//! Artifacts in files of this host: its own bucket, buckets that are directories, and `file://`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::download::Download;
use super::error::ArtifactError;
use super::fetch::LocalBucket;
use crate::failure::FailureCode;

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// Opens an object of a bucket that is a directory. The kernel prevents that `..` or links lead out of it (`RESOLVE_BENEATH`).
pub(super) async fn open_object(directory: &Path, key: &str) -> Result<File, ArtifactError> {
    let directory = directory.to_owned();
    let opened = blocking(move || {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECTORY.bits().cast_signed())
            .open(directory)
    });
    let directory = opened.await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ArtifactError::from(FailureCode::S3NoSuchBucket),
        _ => ArtifactError::Io { what: "opening a bucket's directory", source },
    })?;
    let path = key.to_owned();
    blocking(move || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        regular(openat2(directory, path, flags, Mode::empty(), resolve)?.into())
    })
    .await
    .map_err(|error| object_error(&error, key))
}

/// Opens the file of a `file://` URI.
pub(super) async fn open_file(path: &Path) -> Result<File, ArtifactError> {
    let owned = path.to_owned();
    blocking(move || {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(owned)?;
        regular(file)
    })
    .await
    .map_err(|error| object_error(&error, &path.to_string_lossy()))
}

/// Opens an account's artifact in the bucket of this host; returns it with its size in bytes.
pub(super) async fn open_own(
    bucket: &Arc<dyn LocalBucket>,
    account: &str,
    key: &str,
) -> Result<(File, u64), ArtifactError> {
    let (local, account, name) = (Arc::clone(bucket), account.to_owned(), key.to_owned());
    let opened = blocking(move || local.open(&account, &name)).await;
    let found = opened.map_err(ArtifactError::io("opening the artifact"))?;
    let missing = || format!("The code artifact {key} does not exist.");
    found.ok_or_else(|| ArtifactError::refused(FailureCode::S3NoSuchKey, missing()))
}

/// Copies the file, or at most its first `bytes`. Blocks; called in a worker.
pub(super) fn copy(file: File, bytes: u64, download: &mut Download<'_, '_>) -> Result<(), ArtifactError> {
    let mut file = file.take(bytes);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = file.read(&mut buffer).map_err(ArtifactError::io("reading the artifact"))?;
        match buffer.get(..count) {
            None | Some([]) => return Ok(()),
            Some(bytes) => download.write(bytes)?,
        }
    }
}

/// Runs blocking work on a thread for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn object_error(error: &io::Error, name: &str) -> ArtifactError {
    let (code, why) = match Errno::from_io_error(error) {
        // EXDEV and ELOOP: the path leads out of the bucket. Such an object counts as missing.
        Some(
            Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG,
        ) => (FailureCode::S3NoSuchKey, "does not exist"),
        Some(Errno::ACCESS | Errno::PERM) => (FailureCode::S3AccessDenied, "may not be read"),
        _ if error.kind() == io::ErrorKind::InvalidInput => {
            (FailureCode::S3InvalidObject, "is not a regular file")
        }
        _ => return ArtifactError::Transport { what: "opening the artifact", why: error.to_string() },
    };
    ArtifactError::refused(code, format!("The code artifact {name} {why}."))
}

fn regular(file: File) -> io::Result<File> {
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    if !kind.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok(file)
}
