//! Locks between xtasks that run at once: for one cache, and for the machine, which several caches share.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;

use crate::progress;

/// Folders for locks on the machine: everybody may write to them, and a restart empties them.
const MACHINE: [&str; 2] = ["/run/lock", "/tmp"];

/// A held lock, which is released when dropped, or when the process exits.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock on the file `path`, which is made if it does not exist. Reports that it waits for another xtask working on `what`.
    pub(crate) fn take(path: &Path, what: &str) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            // Other users may write to the folder of the machine's locks, so links are not followed.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        if file.try_lock().is_err() {
            progress::note(&format!("waiting for another xtask that works on {what}"));
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _file: file })
    }

    /// Takes this user's lock on a resource of the machine, independent of the cache: steps of set-up that change the machine
    /// are done by one xtask at a time.
    pub(crate) fn of_machine(what: &str) -> Result<Self> {
        Self::take(&of_machine_at(&MACHINE.map(PathBuf::from), what), what)
    }
}

fn of_machine_at(folders: &[PathBuf], what: &str) -> PathBuf {
    let user = rustix::process::geteuid();
    let folder = folders.iter().find(|folder| folder.is_dir()).cloned().unwrap_or_default();
    folder.join(format!("hearth-{what}-{user}.lock"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(&path, "test").unwrap();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        let (sender, taken) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _second = Lock::take(&path, "test").unwrap();
                sender.send(()).unwrap();
            });
            assert!(taken.try_recv().is_err());
            drop(held);
            taken.recv().unwrap();
        });
    }

    #[test]
    fn locks_of_the_machine_are_each_users_own_and_follow_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = of_machine_at(&["/nowhere".into(), folder.path().into()], "apt");
        assert!(path.starts_with(folder.path()) && path.to_string_lossy().contains("hearth-apt-"));
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Lock::take(&path, "test").is_err());
        assert!(!folder.path().join("elsewhere").exists());
    }
}
