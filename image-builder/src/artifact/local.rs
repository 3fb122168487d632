//! Artifacts in files of this host: buckets that are directories, and `file://`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::download::{Download, blocking};
use super::error::ArtifactError;
use crate::failure::FailureCode;

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// Opens an object of a bucket that is a directory. The kernel prevents that `..` or links lead out of it (`RESOLVE_BENEATH`).
pub(super) async fn open_object(directory: &Path, key: &str) -> Result<File, ArtifactError> {
    let directory = directory.to_owned();
    let opened = blocking(move || {
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(directory)
    });
    let directory = opened.await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ArtifactError::from(FailureCode::S3NoSuchBucket),
        _ => ArtifactError::Io { what: "opening a bucket's directory", source },
    })?;
    let path = CString::new(key).map_err(|_| ArtifactError::from(FailureCode::S3NoSuchKey))?;
    blocking(move || regular(openat2(directory.as_raw_fd(), &path)?))
        .await
        .map_err(|error| object_error(&error, key))
}

/// Opens the file of a `file://` URI.
pub(super) async fn open_file(path: &Path) -> Result<File, ArtifactError> {
    let owned = path.to_owned();
    blocking(move || {
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(owned)?;
        regular(file)
    })
    .await
    .map_err(|error| object_error(&error, &path.to_string_lossy()))
}

/// Copies the whole file.
pub(super) async fn copy(file: File, download: &mut Download<'_, '_>) -> Result<(), ArtifactError> {
    let mut file = tokio::fs::File::from_std(file);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = file.read(&mut buffer).await.map_err(ArtifactError::io("reading the artifact"))?;
        match buffer.get(..count) {
            None | Some([]) => return Ok(()),
            Some(bytes) => download.write(bytes).await?,
        }
    }
}

fn object_error(error: &io::Error, name: &str) -> ArtifactError {
    let (code, why) = match error.raw_os_error() {
        // EXDEV and ELOOP: the path leads out of the bucket. Such an object counts as missing.
        Some(
            libc::ENOENT | libc::ENOTDIR | libc::EISDIR | libc::EXDEV | libc::ELOOP | libc::ENAMETOOLONG,
        ) => (FailureCode::S3NoSuchKey, "does not exist"),
        Some(libc::EACCES | libc::EPERM) => (FailureCode::S3AccessDenied, "may not be read"),
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
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !kind.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok(file)
}

fn openat2(directory: RawFd, path: &CString) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `open_how` consists of integers, for which zero is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from(flags.cast_unsigned());
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the path ends with a NUL and `how` has the given size; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, which has no other owner.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}
