//! Folders and files that do not have their names yet.
//!
//! Their maker holds a lock (`flock`) on them while it lives. The kernel gives it back when the process ends, however it ends,
//! so what is not locked is nobody's, whatever has become of the process id in its name.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::parent;

/// What comes between the final name and the process id.
const MARK: &str = ".tmp-";
/// How often a new name is tried, where each was taken or swept away at once.
const ATTEMPTS: u32 = 64;

/// Numbers of this process's temporary names.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether `name` is one that is given here: `.NAME.tmp-PID-N`.
pub(super) fn is_temporary(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((before, after)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(MARK)) else {
        return false;
    };
    !before.is_empty() && after.split_once('-').is_some_and(|(pid, count)| number(pid) && number(count))
}

/// A folder or file beside its final place; removed when dropped, unless it has got there.
#[derive(Debug)]
pub(super) struct Temporary {
    path: PathBuf,
    /// The folder or file itself. Its lock says that somebody is at it.
    file: File,
    /// Whether what is at `path` is still to be removed.
    remove: bool,
}

impl Temporary {
    /// Makes a folder for what is to be at `to`, for the owner only.
    pub(super) fn folder(to: &Path) -> io::Result<Self> {
        Self::make(to, |path| DirBuilder::new().mode(0o700).create(path).and_then(|()| File::open(path)))
    }

    /// Makes an empty file for what is to be at `to`, open for reading and writing, for the owner only.
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
                // Left by an earlier process with this id; or swept away before it could be opened.
                Err(error) if is_a_race(&error) && parent(to).exists() => continue,
                made => made?,
            };
            // Somebody who sweeps may have come between.
            if lock(&file)? && is_at(&file, &path) {
                return Ok(Self { path, file, remove: true });
            }
        }
        Err(io::Error::other("too many temporary names are taken: remove what was left behind"))
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself.
    pub(super) fn handle(&self) -> &File {
        &self.file
    }

    /// Gives it its name, where `to` is free or, for a file, is a file.
    pub(super) fn rename(mut self, to: &Path) -> Result<(), NotNamed> {
        self.file.sync_all()?;
        if self.file.metadata()?.is_dir() {
            rename_at(&self.path, to, libc::RENAME_NOREPLACE)?;
        } else {
            fs::rename(&self.path, to)?;
        }
        self.remove = false;
        sync_folder(parent(to)).map_err(|source| {
            // Whoever is told that this failed must not find it there.
            let undone = rename_at(to, &self.path, libc::RENAME_NOREPLACE).is_ok();
            self.remove = undone;
            NotNamed { source, undone }
        })
    }

    /// Gives it the name of the folder `to`, which is removed. Where that fails, it is told where the rest of that
    /// folder is now.
    pub(super) fn exchange(mut self, to: &Path) -> Result<Option<PathBuf>, NotNamed> {
        self.file.sync_all()?;
        rename_at(&self.path, to, libc::RENAME_EXCHANGE)?;
        self.remove = false;
        sync_folder(parent(to)).map_err(|source| {
            // Back again: whoever is told that this failed must find what was there.
            let undone = rename_at(&self.path, to, libc::RENAME_EXCHANGE).is_ok();
            self.remove = undone;
            NotNamed { source, undone }
        })?;
        Ok(remove(&self.path).err().map(|_| self.path.clone()))
    }
}

/// Why something has not got its name.
#[derive(Debug)]
pub(super) struct NotNamed {
    /// What the system answered.
    pub(super) source: io::Error,
    /// Whether everything is as before. Otherwise both the old and the new are there, one of them by its temporary
    /// name, and which is which after a crash of the host is open.
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
            let _ = remove(&self.path); // what stays is found by whoever sweeps
        }
    }
}

/// Makes an empty file, open for reading and writing, for the owner only.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().create_new(true).read(true).write(true).mode(0o600).open(path)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn is_a_race(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
}

/// Locks `file`; `false` when somebody else has.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `file` is what is at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::symlink_metadata(path).map(identity);
    there.is_ok_and(|there| file.metadata().map(identity).is_ok_and(|own| own == there))
}

/// Removes a folder of a snapshot with its files, or a file. Folders in it stay, and it with them.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        match fs::remove_file(entry?.path()) {
            // Somebody else removes it, too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    fs::remove_dir(path)
}

/// `renameat2` with flags.
fn rename_at(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let [from, to] = [from, to].map(|path| CString::new(OsStr::as_bytes(path.as_os_str())));
    let (from, to) = (from?, to?);
    // SAFETY: two strings with a NUL at their ends, which live across the call.
    let result =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes what controllers that were killed have left in the folder `parent`: temporary folders and files that
/// nobody has locked. What another process is at, or this one, stays. Returns what was removed.
///
/// # Errors
/// When the folder cannot be read, or something in it cannot be removed.
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // finished meanwhile
            file => file?,
        };
        // Between the opening and the lock its maker may have given it its name.
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
        // A process of this id was killed, or one whose id nobody has now.
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
        // The lock goes with the descriptor, as at a process's end.
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
