//! Backups: a folder that holds a whole store, as it was at one moment, in files of its own.
//!
//! A backup is taken while the store is in use ([`Store::back_up`](super::Store::back_up)), and put in place while no
//! daemon runs ([`restore`]). Both appear under their final name when they are complete and durable, or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;

use super::{RocksOptions, RocksStore, StoreError, io_failed};
use crate::store::RestoreError;

/// Restores the backup `from` as the store `to`, which must not exist; returns its size in bytes. The backup is only
/// read. Everything in it is verified against its checksums, and migrated, before anything appears at `to`.
///
/// # Errors
/// [`StoreError`]; in that case nothing is left at `to`.
pub fn restore(from: &Path, to: &Path, options: &RocksOptions) -> Result<u64, StoreError> {
    if !from.join("CURRENT").is_file() {
        return Err(RestoreError::NoBackup(from.to_owned()).into());
    }
    if from.join("LOCK").exists() {
        return Err(RestoreError::NotABackup(from.to_owned()).into());
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(RestoreError::Exists(to.to_owned()).into());
    }
    let staging = Staging::new(to, "restoring").map_err(io_failed("restore", to))?;
    let bytes = copy(from, &staging.path).map_err(io_failed("restore", from))?;
    let verified = RocksOptions { verify: true, ..options.clone() };
    drop(RocksStore::open(&staging.path, &verified).map_err(|error| match error {
        StoreError::Damaged { why, .. } => RestoreError::Damaged { path: from.to_owned(), why }.into(),
        StoreError::TooNew { found, known, .. } => {
            StoreError::TooNew { path: from.display().to_string(), found, known }
        }
        other => other,
    })?);
    staging.finish(to).map_err(io_failed("restore", to))?;
    Ok(bytes)
}

/// Writes a backup of an open database to `to`.
pub(super) fn write(db: &DB, to: &Path) -> Result<u64, StoreError> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(StoreError::BackupExists(to.to_owned()));
    }
    let failed = io_failed("back up", to);
    // A checkpoint shares its files with the store, and so any damage of those. The backup is a copy of the
    // checkpoint.
    let links = Staging::new(to, "checkpoint").map_err(&failed)?;
    let copied = Staging::new(to, "partial").map_err(&failed)?;
    let checkpoint = links.path.join("checkpoint");
    Checkpoint::new(db)
        .and_then(|source| source.create_checkpoint(&checkpoint))
        .map_err(|error| StoreError::Failed { what: "back up", source: Arc::new(error) })?;
    let bytes = copy(&checkpoint, &copied.path).map_err(&failed)?;
    copied.finish(to).map_err(&failed)?;
    Ok(bytes)
}

/// A folder beside its final place, accessible by its owner only; removed unless it is finished.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn new(to: &Path, stage: &str) -> io::Result<Self> {
        let name = to
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is not the name of a folder"))?;
        let path = to.with_file_name(format!(".{}.{stage}", name.display()));
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // There was nothing, or only what a crash had left behind.
            _ => {}
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    fn finish(self, to: &Path) -> io::Result<()> {
        // Opening a restored store has also written files.
        for entry in fs::read_dir(&self.path)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, to)?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A finished folder was renamed. A folder that cannot be removed now is removed by the next backup.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Copies the files of a folder into an empty one; returns their size.
fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            let why = format!("{} is not a file", entry.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut target =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(to.join(entry.file_name()))?;
        bytes += io::copy(&mut File::open(entry.path())?, &mut target)?;
    }
    Ok(bytes)
}
