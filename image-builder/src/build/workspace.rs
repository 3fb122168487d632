//! The folder of a build under way, and removing what killed builds have left.
//!
//! ```text
//! WORK/.lock             held while folders are created and removed
//! WORK/builds/<id>/      one build; `lock` in it is held as long as its process lives, `account` says whose it is
//! WORK/cache/<key>       scratch disks with the layers of earlier builds, not in use; keys begin with the account
//! ```
//!
//! Resources of a build outside its folder are found through it: networks of its microVMs have names that are derived from the
//! folder's, processes and control groups are recorded in it. So the leftovers of a killed build are found through the folders
//! whose lock is not held.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hearth_host::network::remove_by_name;

use super::error::{BuildError, file};
use super::identity::random;
use super::record;

const BUILDS: &str = "builds";
const CACHE: &str = "cache";
const LOCK: &str = "lock";
const ACCOUNT: &str = "account";

/// The folder in a workspace that the artifact is fetched into.
pub(super) const ARTIFACT: &str = "artifact";

/// The stages of a build: each has one microVM.
pub(super) const STAGES: [&str; 4] = ["build", "snapshot", "validate", "run"];

/// The folder of a build. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Workspace {
    work: PathBuf,
    id: String,
    _lock: File,
}

/// The name of the network of a build's microVM.
fn network(id: &str, stage: &str) -> String {
    format!("{id}-{stage}")
}

fn lock_work(work: &Path) -> Result<File, BuildError> {
    for folder in [BUILDS, CACHE] {
        let path = work.join(folder);
        fs::create_dir_all(&path).map_err(file("making the folder", &path))?;
    }
    let path = work.join(".lock");
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    opened.and_then(|lock| lock.lock().map(|()| lock)).map_err(file("locking", &path))
}

impl Workspace {
    /// Creates a workspace for a build of `account`.
    pub(super) fn create(work: &Path, account: &str) -> Result<Self, BuildError> {
        let _all = lock_work(work)?;
        let id: String = random::<6>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = work.join(BUILDS).join(&id);
        fs::create_dir(&folder).map_err(file("making the folder", &folder))?;
        let path = folder.join(LOCK);
        let locked = File::create_new(&path).and_then(|lock| lock.lock().map(|()| lock));
        let lock = locked.map_err(file("locking", &path))?;
        let path = folder.join(ACCOUNT);
        fs::write(&path, account).map_err(file("writing", &path))?;
        Ok(Self { work: work.to_owned(), id, _lock: lock })
    }

    /// Path of the folder.
    pub(super) fn folder(&self) -> PathBuf {
        self.work.join(BUILDS).join(&self.id)
    }

    /// Path of a file or folder in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Name of the network of the microVM of `stage`.
    pub(super) fn network(&self, stage: &str) -> String {
        network(&self.id, stage)
    }

    /// Moves the cached scratch disk `key` to `to`. Returns false if there is none, or another build is using it.
    pub(super) fn take_cache(&self, key: &str, to: &Path) -> bool {
        fs::rename(self.work.join(CACHE).join(key), to).is_ok()
    }

    /// Keeps a scratch disk as `key`. If this fails, the next build starts without a cache.
    pub(super) fn keep_cache(&self, key: &str, from: &Path) {
        let _ = fs::rename(from, self.work.join(CACHE).join(key));
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // The next sweep removes what cannot be removed now.
        let _ = fs::remove_dir_all(self.folder());
    }
}

/// The folders of builds in the work folder `work`, with the accounts whose they are. What cannot be read is left out.
#[must_use]
pub fn builds_in(work: &Path) -> Vec<(String, PathBuf)> {
    let folders = fs::read_dir(work.join(BUILDS)).into_iter().flatten().flatten().map(|entry| entry.path());
    folders.filter_map(|folder| Some((fs::read_to_string(folder.join(ACCOUNT)).ok()?, folder))).collect()
}

/// The files of layer caches in the work folder `work`, with what their keys begin with: the accounts, for a daemon's builds.
/// They may be removed at any time.
#[must_use]
pub fn caches_in(work: &Path) -> Vec<(String, PathBuf)> {
    let files = fs::read_dir(work.join(CACHE)).into_iter().flatten().flatten().map(|entry| entry.path());
    let owner = |file: &Path| Some(file.file_name()?.to_str()?.split('-').next()?.to_owned());
    files.filter_map(|file| Some((owner(&file)?, file))).collect()
}

/// Ends and removes what killed builds have left in the folder of builds under way, `work`, and outside of it. Returns the number of those
/// builds. A daemon calls it before it gives their user ids to others.
///
/// # Errors
/// [`BuildError`] when something cannot be ended or removed.
pub fn sweep(work: &Path) -> Result<usize, BuildError> {
    let _all = lock_work(work)?;
    let builds = work.join(BUILDS);
    let mut swept = 0;
    for entry in fs::read_dir(&builds).map_err(file("reading", &builds))? {
        let folder = entry.map_err(file("reading", &builds))?.path();
        if is_live(&folder)? {
            continue;
        }
        let id = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for stage in STAGES {
            let run = folder.join(stage);
            record::end(&run)?;
            remove_by_name(&network(&id, stage))?;
        }
        fs::remove_dir_all(&folder).map_err(file("removing", &folder))?;
        swept += 1;
    }
    Ok(swept)
}

/// Whether the process of a build is running.
fn is_live(folder: &Path) -> Result<bool, BuildError> {
    let path = folder.join(LOCK);
    match File::open(&path) {
        // The build was killed before it made its lock: while the lock of the work folder is held here, no folder is being created.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file("opening", &path)(error)),
        Ok(lock) => Ok(lock.try_lock().is_err()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_under_way_is_live_and_a_killed_one_is_not() {
        let work = tempfile::tempdir().unwrap();
        let under_way = Workspace::create(work.path(), "111122223333").unwrap();
        assert!(is_live(&under_way.folder()).unwrap());
        // The state after `kill -9`: the folder stays, the lock is released with the process.
        let killed = work.path().join(BUILDS).join("0123456789ab");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        assert!(!is_live(&killed).unwrap());
        let folder = under_way.folder();
        drop(under_way);
        assert!(!folder.exists());
    }

    #[test]
    fn a_cache_belongs_to_one_build_at_a_time() {
        let work = tempfile::tempdir().unwrap();
        let (one, two) = (
            Workspace::create(work.path(), "111122223333").unwrap(),
            Workspace::create(work.path(), "111122223333").unwrap(),
        );
        let scratch = one.path("scratch");
        assert!(!one.take_cache("key", &scratch));
        fs::write(&scratch, "layers").unwrap();
        one.keep_cache("key", &scratch);
        assert!(two.take_cache("key", &two.path("scratch")));
        assert!(!one.take_cache("key", &scratch));
        assert_eq!(fs::read(two.path("scratch")).unwrap(), b"layers");
        two.keep_cache("111122223333-uid-1", &two.path("scratch"));
        let [(account, file)] = &caches_in(work.path())[..] else { panic!() };
        assert!(account == "111122223333" && file.ends_with("111122223333-uid-1"));
        let builds = builds_in(work.path());
        assert!(builds.contains(&("111122223333".to_owned(), one.folder())) && builds.len() == 2);
    }
}
