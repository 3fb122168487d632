//! Files and folders: digests, durable writes, trees.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BaseError;

/// Digest and size of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

impl FileRecord {
    /// The record of `content`.
    pub(crate) fn of(content: &[u8]) -> Self {
        Self { sha256: hex(Sha256::digest(content).as_slice()), size: content.len() as u64 }
    }

    /// The record of the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, BaseError> {
        Self::from_reader(&mut open(path)?).map_err(BaseError::file("cannot read", path))
    }

    /// The record of all bytes from `reader`.
    pub(crate) fn from_reader(reader: &mut impl io::Read) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0_u64;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(buffer.get(..count).unwrap_or_default());
            size += count as u64;
        }
        Ok(Self { sha256: hex(hash.finalize().as_slice()), size })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a value's JSON.
pub(crate) fn digest_of(what: &impl Serialize) -> Result<String, BaseError> {
    let text = serde_json::to_vec(what).map_err(|error| BaseError::Recipe(error.to_string()))?;
    Ok(FileRecord::of(&text).sha256)
}

pub(crate) fn open(path: &Path) -> Result<File, BaseError> {
    File::open(path).map_err(BaseError::file("cannot open", path))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, BaseError> {
    fs::read(path).map_err(BaseError::file("cannot read", path))
}

/// Writes a file with its parents; everyone may read it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), BaseError> {
    write_with_mode(path, 0o644, content)
}

/// Writes a file with its parents and these permission bits. An existing file or link at the path is replaced.
pub(crate) fn write_with_mode(path: &Path, mode: u32, content: impl AsRef<[u8]>) -> Result<(), BaseError> {
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    remove(path)?;
    let failed = || BaseError::file("cannot write", path);
    let mut file = File::create_new(path).map_err(failed())?;
    file.write_all(content.as_ref()).map_err(failed())?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed())
}

/// Makes a symbolic link with its parents, and replaces what exists at the path.
pub(crate) fn link(path: &Path, target: &str) -> Result<(), BaseError> {
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    remove(path)?;
    symlink(target, path).map_err(BaseError::file("cannot make the link", path))
}

/// Makes a folder with its parents where there is none.
pub(crate) fn create_folder(path: &Path) -> Result<(), BaseError> {
    fs::create_dir_all(path).map_err(BaseError::file("cannot make the folder", path))
}

/// Removes a file, a link or a whole folder, which need not exist. It is an error if something is mounted inside; that is left.
pub(crate) fn remove(path: &Path) -> Result<(), BaseError> {
    let result = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BaseError::file("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// The entries of a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, BaseError> {
    let failed = || BaseError::file("cannot read the folder", folder);
    let entries = fs::read_dir(folder).map_err(failed())?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed())?;
    paths.sort_unstable();
    Ok(paths)
}

/// Makes a finished file available under another name: as a hard link within one file system, else as a copy.
pub(crate) fn take_over(from: &Path, to: &Path) -> Result<(), BaseError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(from, to).map(drop).map_err(BaseError::file("cannot copy to", to)),
    }
}

/// The time of the newest file in a tree, in seconds since 1970.
pub(crate) fn newest(path: &Path) -> Result<u64, BaseError> {
    let meta = path.symlink_metadata().map_err(BaseError::file("cannot look at", path))?;
    let mut time = u64::try_from(meta.mtime()).unwrap_or(0);
    if meta.is_dir() {
        for entry in entries(path)? {
            time = time.max(newest(&entry)?);
        }
    }
    Ok(time)
}

/// Bytes of all regular files in a tree.
pub(crate) fn bytes(path: &Path) -> Result<u64, BaseError> {
    let meta = path.symlink_metadata().map_err(BaseError::file("cannot look at", path))?;
    if meta.is_dir() {
        return entries(path)?.iter().map(|entry| bytes(entry)).sum();
    }
    Ok(if meta.is_file() { meta.len() } else { 0 })
}

/// Makes a folder and everything in it durable.
pub(crate) fn sync_tree(folder: &Path) -> Result<(), BaseError> {
    for path in entries(folder)? {
        let kind = path.symlink_metadata().map_err(BaseError::file("cannot look at", &path))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            sync(&path)?;
        }
    }
    sync(folder)
}

/// Makes a file or the names in a folder durable.
pub(crate) fn sync(path: &Path) -> Result<(), BaseError> {
    open(path)?.sync_all().map_err(BaseError::file("cannot sync", path))
}

/// Takes the lock `path` until the result is dropped; reports it if another process holds the lock.
pub(crate) fn lock(path: &Path, progress: super::Progress<'_>) -> Result<File, BaseError> {
    let failed = || BaseError::file("cannot lock", path);
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed())?;
    if file.try_lock().is_err() {
        progress(&format!("waiting for another process that holds {}", path.display()));
        file.lock().map_err(failed())?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_same_from_memory_and_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        write(&path, "abc").unwrap();
        let record = FileRecord::read(&path).unwrap();
        assert_eq!(record, FileRecord::of(b"abc"));
        assert_eq!(record.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_write_never_goes_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, path) = (folder.path().join("outside"), folder.path().join("link"));
        write(&outside, "kept").unwrap();
        link(&path, outside.to_str().unwrap()).unwrap();
        write(&path, "new").unwrap();
        assert_eq!(read(&outside).unwrap(), b"kept");
        assert_eq!(read(&path).unwrap(), b"new");
    }
}
