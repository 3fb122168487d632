//! What a restored store does not know is set aside.
//!
//! A store that was restored from a back-up, or made anew beside folders of an older one, does not know images, microVMs and
//! references that came later. A daemon removes what belongs to nothing; after a restoration it moves it away instead, so that
//! an operator can look at it:
//!
//! ```text
//! DATA/set-aside/SECONDS/               the time of the restoration, in seconds since 1970
//!     pending                           until a daemon has looked at all images and microVMs
//!     images/ACCOUNT/UID/VERSION/BUILD/
//!     microvms/ID/
//!     artifacts/ACCOUNT/NAME            from the local bucket, instead of being collected; also later
//! ```
//!
//! Logs are kept by age and size, whatever the store knows.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The folder below `data`.
const FOLDER: &str = "set-aside";
/// The file that is there until everything was looked at.
const PENDING: &str = "pending";
/// Folders below `data` whose contents the store has to know.
const KNOWN: [&str; 3] = ["images", "microvms", "buckets"];

/// The folder of what the store does not know since its last restoration.
#[derive(Debug, Clone)]
pub struct Aside {
    folder: PathBuf,
    since: SystemTime,
}

impl Aside {
    /// Makes the folder before a store is restored. From then on nothing unknown is removed. It is later than all others, whatever the
    /// clock says, and belongs to this restoration alone.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn announce(data: &Path, now: SystemTime) -> io::Result<Self> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let newest = all(data)?.into_iter().max().map_or(0, |newest| newest.saturating_add(1));
        let aside = Self::at(data, seconds.max(newest));
        make(&data.join(FOLDER))?;
        DirBuilder::new().mode(0o700).create(&aside.folder)?;
        File::create_new(aside.folder.join(PENDING))?.sync_all()?;
        sync(&aside.folder)?;
        sync(&data.join(FOLDER))?;
        sync(data)?;
        Ok(aside)
    }

    /// Removes the folder, if nothing was restored and nothing is in it.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn withdraw(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(PENDING))?;
        fs::remove_dir(&self.folder)
    }

    /// Whether there is anything below `data` that a new store would not know.
    #[must_use]
    pub fn is_needed(data: &Path) -> bool {
        let is_filled =
            |name: &str| fs::read_dir(data.join(name)).is_ok_and(|mut entries| entries.next().is_some());
        KNOWN.into_iter().any(is_filled)
    }

    /// The folder of the last restoration, if there was one and nobody has removed it.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn newest(data: &Path) -> io::Result<Option<Self>> {
        Ok(all(data)?.into_iter().max().map(|seconds| Self::at(data, seconds)))
    }

    /// The newest folder of a restoration after which images and microVMs were not looked at.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn pending(data: &Path) -> io::Result<Option<Self>> {
        let mut all = all(data)?;
        all.sort_unstable();
        let all = all.into_iter().rev().map(|seconds| Self::at(data, seconds));
        Ok(all.into_iter().find(|aside| aside.folder.join(PENDING).exists()))
    }

    fn at(data: &Path, seconds: u64) -> Self {
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
        Self { folder: data.join(FOLDER).join(seconds.to_string()), since }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The time of the restoration.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Moves a file or folder here, where it is called `name`, durably. Nothing is replaced.
    ///
    /// # Errors
    /// The error of the operating system; where `from` is on another file system than `data`, with what to do: what nobody knows the size
    /// of is not copied while a daemon starts.
    pub fn take(&self, from: &Path, name: &Path) -> io::Result<()> {
        let mut to = self.folder.join(name);
        let mut number = 1_u32;
        while to.symlink_metadata().is_ok() {
            number = number.saturating_add(1);
            to = self.folder.join(format!("{}.{number}", name.display()));
        }
        to.parent().map_or(Ok(()), make)?;
        fs::rename(from, &to).map_err(|error| explained(error, from, &to))?;
        [to.parent(), from.parent()].into_iter().flatten().try_for_each(sync)?;
        tracing::warn!(from = %from.display(), to = %to.display(), "set aside: the restored store does not know it");
        Ok(())
    }

    /// Notes that everything was looked at.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn finish(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(PENDING))?;
        sync(&self.folder)?;
        tracing::warn!(
            folder = %self.folder.display(),
            "the store was restored: what it does not know is in this folder; remove the folder when nobody needs it"
        );
        Ok(())
    }
}

/// The times of all restorations whose folders are there.
fn all(data: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(data.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        all.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(all)
}

/// Makes a folder with its parents, accessible by its owner only.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Says what to do where a file cannot be moved because it is on another file system.
fn explained(error: io::Error, from: &Path, to: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::CrossesDevices {
        return error;
    }
    let (from, to) = (from.display(), to.display());
    io::Error::new(
        error.kind(),
        format!(
            "{from} is on another file system than `data`; move it yourself (mv {from} {to}), then start hearthd again"
        ),
    )
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_restoration_is_pending_until_everything_was_looked_at() {
        let data = tempfile::tempdir().unwrap();
        assert!(Aside::newest(data.path()).unwrap().is_none() && !Aside::is_needed(data.path()));
        let aside = Aside::announce(data.path(), at(1000)).unwrap();
        let pending = || Aside::pending(data.path()).unwrap().map(|aside| aside.since());
        assert_eq!(pending(), Some(at(1000)));
        aside.finish().unwrap();
        assert_eq!(pending(), None);
        assert_eq!(Aside::newest(data.path()).unwrap().unwrap().since(), at(1000));
        // A later one counts, also after an attempt that restored nothing.
        let later = Aside::announce(data.path(), at(20_000)).unwrap();
        assert_eq!(pending(), Some(at(20_000)));
        later.withdraw().unwrap();
        assert_eq!((pending(), later.folder().exists()), (None, false));
    }

    #[test]
    fn a_restoration_is_the_newest_whatever_the_clock_says() {
        let data = tempfile::tempdir().unwrap();
        let first = Aside::announce(data.path(), at(20_000)).unwrap();
        first.finish().unwrap();
        // A clock that is behind, and another attempt in the same second.
        let second = Aside::announce(data.path(), at(35)).unwrap();
        let pending = || Aside::pending(data.path()).unwrap().map(|aside| aside.folder().to_owned());
        assert_eq!(pending().as_deref(), Some(second.folder()));
        let third = Aside::announce(data.path(), at(35)).unwrap();
        assert!(first.folder() != second.folder() && second.folder() != third.folder());
        third.withdraw().unwrap();
        assert_eq!(pending().as_deref(), Some(second.folder()));
        // One that stayed pending counts also beside a newer one that is finished.
        Aside::announce(data.path(), at(50_000)).unwrap().finish().unwrap();
        assert_eq!(pending().as_deref(), Some(second.folder()));
    }

    #[test]
    fn what_is_taken_keeps_its_content_and_replaces_nothing() {
        let data = tempfile::tempdir().unwrap();
        let aside = Aside::announce(data.path(), at(7)).unwrap();
        for content in ["first", "second"] {
            let from = data.path().join("microvms/microvm-1");
            fs::create_dir_all(&from).unwrap();
            fs::write(from.join("overlay-0"), content).unwrap();
            assert!(Aside::is_needed(data.path()));
            aside.take(&from, Path::new("microvms/microvm-1")).unwrap();
            assert!(!from.exists() && !Aside::is_needed(data.path()));
        }
        let read =
            |name: &str| fs::read_to_string(data.path().join("set-aside/7/microvms").join(name)).unwrap();
        assert_eq!(read("microvm-1/overlay-0"), "first");
        assert_eq!(read("microvm-1.2/overlay-0"), "second");
    }

    #[test]
    fn what_is_on_another_file_system_stays_with_a_word_on_what_to_do() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let aside = Aside::announce(data.path(), at(7)).unwrap();
        let from = elsewhere.path().join("microvm-1");
        fs::create_dir(&from).unwrap();
        let refused = aside.take(&from, Path::new("microvms/microvm-1")).unwrap_err().to_string();
        assert!(refused.contains("another file system") && refused.contains("mv "), "{refused}");
        assert!(from.exists());
    }
}
