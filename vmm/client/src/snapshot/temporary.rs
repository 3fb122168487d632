//! Folders and files that do not have their final names yet.
//!
//! The process that creates one holds a lock (`flock`) on it. The kernel releases the lock when the process exits,
//! however it exits. Whatever is not locked was therefore abandoned, even if the process id in its name is in use
//! again.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::parent;

/// The part of a temporary name between the final name and the process id.
const MARK: &str = ".tmp-";
/// How many names are tried if each one is taken or its file is removed immediately.
const ATTEMPTS: u32 = 64;

/// The number in this process's next temporary name.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether `name` has the form of a temporary name: `.NAME.tmp-PID-N`.
pub(super) fn is_temporary(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((before, after)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(MARK)) else {
        return false;
    };
    !before.is_empty() && after.split_once('-').is_some_and(|(pid, count)| number(pid) && number(count))
}

/// A folder or file beside its final path. It is removed when dropped, unless it was renamed to its final path.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    /// The folder or file itself. Its lock shows that it is in use.
    file: File,
    /// Whether the folder or file at `path` must be removed on drop.
    remove: bool,
}

impl Temporary {
    /// Creates a folder for the final path `to`, accessible by the owner only.
    pub(super) fn folder(to: &Path) -> io::Result<Self> {
        Self::make(to, |path| DirBuilder::new().mode(0o700).create(path).and_then(|()| File::open(path)))
    }

    /// Creates an empty file for the final path `to`, open for reading and writing, accessible by the owner only.
    pub(super) fn file(to: &Path) -> io::Result<Self> {
        Self::make(to, create)
    }

    fn make(to: &Path, make: impl Fn(&Path) -> io::Result<File>) -> io::Result<Self> {
        let name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        for _ in 0..ATTEMPTS {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            hidden.push(format!("{MARK}{}-{number}", std::process::id()));
            let path = parent(to).join(hidden);
            let file = match make(&path) {
                // An earlier process with this id left the name behind, or the file was removed before it could be
                // opened.
                Err(error) if is_a_race(&error) && parent(to).exists() => continue,
                made => made?,
            };
            // Another process may have removed the file as a leftover before it was locked.
            if lock(&file)? && is_at(&file, &path) {
                return Ok(Self { path, file, remove: true });
            }
        }
        Err(io::Error::other("too many temporary names are taken: remove what was left behind"))
    }

    /// Returns the current path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file itself.
    pub(super) fn handle(&self) -> &File {
        &self.file
    }

    /// Renames it to `to`, which must be free or, for a file, may be a file.
    pub(super) fn rename(mut self, to: &Path) -> Result<(), NotNamed> {
        self.file.sync_all()?;
        if self.file.metadata()?.is_dir() {
            rename_at(&self.path, to, libc::RENAME_NOREPLACE)?;
        } else {
            fs::rename(&self.path, to)?;
        }
        self.remove = false;
        sync_folder(parent(to)).map_err(|source| {
            // The caller receives an error, so it must not find the snapshot at its final path.
            let undone = rename_at(to, &self.path, libc::RENAME_NOREPLACE).is_ok();
            self.remove = undone;
            NotNamed { source, undone }
        })
    }

    /// Exchanges it with the folder `to`, which is then removed. If the removal fails, returns the path at which the
    /// rest of that folder is now.
    pub(super) fn exchange(mut self, to: &Path) -> Result<Option<PathBuf>, NotNamed> {
        self.file.sync_all()?;
        rename_at(&self.path, to, libc::RENAME_EXCHANGE)?;
        self.remove = false;
        sync_folder(parent(to)).map_err(|source| {
            // Exchange again: the caller receives an error, so it must find the old folder there.
            let undone = rename_at(&self.path, to, libc::RENAME_EXCHANGE).is_ok();
            self.remove = undone;
            NotNamed { source, undone }
        })?;
        Ok(remove(&self.path).err().map(|_| self.path.clone()))
    }
}

/// The reason for which a temporary folder or file was not renamed.
#[derive(Debug)]
pub(super) struct NotNamed {
    /// The error that the system returned.
    pub(super) source: io::Error,
    /// Whether everything is as before. Otherwise both the old and the new folder exist, one of them with its temporary
    /// name, and after a crash of the host either of them may be the one with the final name.
    pub(super) undone: bool,
}

impl From<io::Error> for NotNamed {
    fn from(source: io::Error) -> Self {
        Self { source, undone: true }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.remove {
            let _ = remove(&self.path); // `remove_leftovers` finds what could not be removed
        }
    }
}

/// Creates an empty file, open for reading and writing, accessible by the owner only.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().create_new(true).read(true).write(true).mode(0o600).open(path)
}

/// Syncs the names in a folder to stable storage.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn is_a_race(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
}

/// Locks `file`; returns `false` if another process holds the lock.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the file at `path` is `file`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::symlink_metadata(path).map(identity);
    there.is_ok_and(|there| file.metadata().map(identity).is_ok_and(|own| own == there))
}

/// Removes a file, or a snapshot's folder with its files. If the folder has subfolders, they and the folder remain.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        match fs::remove_file(entry?.path()) {
            // Another process removes the file as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    fs::remove_dir(path)
}

/// Calls `renameat2` with flags.
fn rename_at(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let [from, to] = [from, to].map(|path| CString::new(OsStr::as_bytes(path.as_os_str())));
    let (from, to) = (from?, to?);
    // SAFETY: two strings with a NUL at their ends, which live across the call.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes the temporary folders and files that killed controllers have left in the folder `parent`: those that nobody
/// has locked. Those that this or another process is using remain. Returns the removed paths.
///
/// # Errors
/// Fails when the folder cannot be read, or something in it cannot be removed.
pub fn remove_leftovers(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if !is_temporary(&entry.file_name().to_string_lossy()) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // it was renamed meanwhile
            file => file?,
        };
        // Between the opening and the lock the creator may have renamed it to its final name.
        if lock(&file)? && is_at(&file, &path) {
            remove(&path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_is_at_is_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (mine, my_file) = (Temporary::folder(&at("one")).unwrap(), Temporary::file(&at("two")).unwrap());
        // Folders of killed processes. The process ids in their names are in use, but nobody has locked the folders.
        let killed = [at(".one.tmp-1-0"), at(&format!(".one.tmp-{}-999999", std::process::id()))];
        for path in &killed {
            fs::create_dir(path).unwrap();
            fs::write(path.join("state"), "").unwrap();
        }
        fs::write(at(".three.tmp-1-0"), "").unwrap();
        let others = [".one.tmp-1", "one.tmp-1-0", ".tmp-1-0", ".one.tmp-1-x", ".one.tmp--1"];
        for name in others {
            fs::create_dir(at(name)).unwrap();
        }
        let mut removed = remove_leftovers(folder.path()).unwrap();
        removed.sort();
        let mut expected = [&killed[..], &[at(".three.tmp-1-0")]].concat();
        expected.sort();
        assert_eq!(removed, expected);
        assert!(mine.path().exists() && my_file.path().exists());
        assert!(others.iter().all(|name| at(name).exists()));
    }

    #[test]
    fn what_a_killed_process_has_left_is_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let temporary = Temporary::folder(&folder.path().join("one")).unwrap();
        let path = temporary.path().to_owned();
        // Unlocking releases the lock as the exit of a process does.
        let Temporary { path: _, file, remove: _ } = &temporary;
        file.unlock().unwrap();
        std::mem::forget(temporary);
        assert_eq!(remove_leftovers(folder.path()).unwrap(), [path]);
    }

    #[test]
    fn a_folder_never_takes_a_name_that_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("one");
        fs::create_dir(&to).unwrap();
        let refused = Temporary::folder(&to).unwrap().rename(&to).unwrap_err();
        assert!(refused.undone && refused.source.kind() == io::ErrorKind::AlreadyExists, "{refused:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_more_than_files_in_it_is_told_about() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("one");
        fs::create_dir_all(to.join("inner")).unwrap();
        let rest = Temporary::folder(&to).unwrap().exchange(&to).unwrap().unwrap();
        assert!(rest.join("inner").exists() && !to.join("inner").exists());
    }
}
