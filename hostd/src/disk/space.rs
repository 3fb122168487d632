//! Room on a file system.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Room on a file system, in bytes, and in files (inodes).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Space {
    /// Its size; none on a file system without a size, like ramfs.
    pub(crate) size: u64,
    /// What is free for everybody.
    pub(crate) free: u64,
    /// How many files it can have; none where it makes room for them as they come, like btrfs.
    pub(crate) files: u64,
    /// How many more files everybody can make.
    pub(crate) free_files: u64,
}

impl Space {
    /// That of a folder's file system.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let found = statvfs(folder)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self {
            size: bytes(found.f_blocks),
            free: bytes(found.f_bavail),
            files: found.f_files,
            free_files: found.f_favail,
        })
    }
}

/// Bytes that are free for everybody on the file system of a folder; no end of them on a file system without a size, like
/// ramfs.
///
/// # Errors
/// The system's error.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let space = Space::of(folder)?;
    Ok(if space.size == 0 { u64::MAX } else { space.free })
}
