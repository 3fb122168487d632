//! The cache folder: everything that is downloaded or built, outside the checkout.
//!
//! Layout: `<kind>/<key>/` holds one finished artefact, a folder that never changes again. It is built under
//! `tmp/` and renamed into place, so a half-built one is never seen; a lock file per artefact (`locks/`, flock)
//! lets two xtasks work at once without doing the same thing twice. Keys name the content (versions or hashes of
//! all inputs), so nothing ever has to be invalidated.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::lock::Lock;

/// How long folders of killed runs are kept for their logs.
const KEEP_RUNS: Duration = Duration::from_secs(24 * 3600);

/// Number of run folders that this process has made.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// The cache folder.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache at `$HEARTH_CACHE`, `$XDG_CACHE_HOME/hearth` or `~/.cache/hearth`.
    pub(crate) fn open() -> Result<Self> {
        let root = root_from(|name| env::var_os(name).filter(|value| !value.is_empty())).context(
            "no place for the cache: none of HEARTH_CACHE, XDG_CACHE_HOME and HOME is set; set HEARTH_CACHE to a folder",
        )?;
        Self::at(root)
    }

    /// Opens the cache at `root`.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        let root = std::path::absolute(&root).unwrap_or(root);
        for folder in ["locks", "tmp", "runs"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| {
                format!("cannot create {}; HEARTH_CACHE chooses another place", path.display())
            })?;
        }
        Ok(Self { root })
    }

    /// A path inside the cache, for files that are no artefacts (target folders, tools, apt state).
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Path of an artefact, if it exists.
    pub(crate) fn existing(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let path = self.root.join(kind).join(key);
        path.is_dir().then_some(path)
    }

    /// The artefact `kind/key`; if it does not exist yet, `build` fills a new folder with it.
    pub(crate) fn artefact(
        &self,
        kind: &str,
        key: &str,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if let Some(path) = self.existing(kind, key) {
            return Ok(path);
        }
        let _lock = self.lock(&format!("{kind}-{key}"))?;
        if let Some(path) = self.existing(kind, key) {
            return Ok(path);
        }
        // The name is the same in every attempt and the lock is held: an existing folder was left by a killed run.
        let partial = self.root.join("tmp").join(format!("{kind}-{key}"));
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        build(&partial)?;
        let target = self.root.join(kind).join(key);
        fs::create_dir_all(self.root.join(kind))?;
        fs::rename(&partial, &target)
            .with_context(|| format!("cannot move {} to {}", partial.display(), target.display()))?;
        Ok(target)
    }

    /// Takes the lock `name` of this cache, and reports it if another xtask holds it. For locks on the machine, see
    /// [`Lock::of_machine`].
    pub(crate) fn lock(&self, name: &str) -> Result<Lock> {
        Lock::take(&self.root.join("locks").join(format!("{name}.lock")), name)
    }

    /// Replaces a small file of the cache atomically.
    pub(crate) fn write_file(&self, relative: &str, content: &[u8]) -> Result<PathBuf> {
        let target = self.root.join(relative);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let partial = self.root.join("tmp").join(format!("{}-{}", relative.replace('/', "-"), process::id()));
        fs::write(&partial, content).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, &target).with_context(|| format!("cannot write {}", target.display()))?;
        Ok(target)
    }

    /// A new folder for one run, removed when dropped unless kept. Also removes folders of killed runs.
    pub(crate) fn run_folder(&self) -> Result<RunFolder> {
        let runs = self.root.join("runs");
        sweep_runs(&runs);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Two threads may make theirs in the same millisecond, so a counter is part of the name.
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = runs.join(format!("{}-{}-{number}", started.as_millis(), process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let alive = File::create(path.join("alive"))?;
        alive.lock().context("cannot lock the run folder")?;
        Ok(RunFolder { path, keep: false, _alive: alive })
    }
}

/// The folder of one run: drives, console log, scratch files.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    keep: bool,
    _alive: File,
}

impl RunFolder {
    /// Path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the folder for the user to look at (a later run removes it after a day).
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.keep {
            // Best effort: a later run removes what is left.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the folders of runs whose xtask has exited: at once if they are empty, else after a day.
fn sweep_runs(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    for entry in entries.flatten() {
        let alive = entry.path().join("alive");
        let free = File::open(&alive).is_ok_and(|file| file.try_lock().is_ok());
        let age = fs::metadata(&alive).and_then(|meta| meta.modified()).ok();
        let old = age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > KEEP_RUNS);
        if free && old {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a folder, which need not exist.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("cannot remove {}: {error}", path.display()),
    }
}

/// A key for content: the first 16 hex digits of a SHA-256 over the parts and their lengths.
pub(crate) fn content_key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn root_from(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(root) = variable("HEARTH_CACHE") {
        return Some(root.into());
    }
    if let Some(base) = variable("XDG_CACHE_HOME") {
        return Some(Path::new(&base).join("hearth"));
    }
    variable("HOME").map(|home| Path::new(&home).join(".cache/hearth"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_follows_the_environment_in_order() {
        let all = |name: &str| Some(OsString::from(format!("/{name}")));
        assert_eq!(root_from(all), Some(PathBuf::from("/HEARTH_CACHE")));
        let without_own = |name: &str| (name != "HEARTH_CACHE").then(|| OsString::from(format!("/{name}")));
        assert_eq!(root_from(without_own), Some(PathBuf::from("/XDG_CACHE_HOME/hearth")));
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/a"));
        assert_eq!(root_from(home), Some(PathBuf::from("/home/a/.cache/hearth")));
        assert_eq!(root_from(|_| None), None);
    }

    #[test]
    fn keys_tell_apart_where_parts_end() {
        assert_eq!(content_key(&[b"ab", b"c"]), content_key(&[b"ab", b"c"]));
        assert_ne!(content_key(&[b"ab", b"c"]), content_key(&[b"a", b"bc"]));
        assert_eq!(content_key(&[]).len(), 16);
    }

    #[test]
    fn an_artefact_is_built_once_and_never_seen_half_built() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_path_buf()).unwrap();
        let failed = cache.artefact("thing", "k", |path| {
            fs::write(path.join("half"), "x")?;
            bail!("broken")
        });
        assert!(failed.is_err());
        assert!(cache.existing("thing", "k").is_none());
        let built = cache.artefact("thing", "k", |path| Ok(fs::write(path.join("whole"), "x")?)).unwrap();
        assert!(built.join("whole").exists() && !built.join("half").exists());
        cache.artefact("thing", "k", |_| bail!("must not be built again")).unwrap();
    }
}
