//! Images and suspended states as the scrub sees them, and what is kept of each.
//!
//! ```text
//! DATA/scrub/images/ACCOUNT/UID/VERSION/BUILD.json     when it was read, and what is damaged
//! DATA/scrub/images/ACCOUNT/UID/VERSION/BUILD.sums     checksums of files that came without
//! DATA/scrub/microvms/ID/suspended-N.{json,sums}       the same
//! ```
//!
//! They are not in the folders that they are about: those are removed while the scrub writes, and a file that appears in a
//! folder keeps it from being removed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_model::build::ImageBuild;
use hearth_vmm_api::snapshot::sums::SUMS;
use serde::{Deserialize, Serialize};

/// Age of a suspended state at which it is read first: most are gone by then.
const FIRST: Duration = Duration::from_secs(3600);
/// Time between two readings of a suspended state, which lives for eight hours at most.
const STATES: Duration = Duration::from_secs(3 * 3600);
/// Time after which it is tried again to read what could not be.
const RETRY: Duration = Duration::from_secs(3600);
/// Time between two readings of what is damaged.
const AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Longest record in bytes.
const RECORD_MAX: u64 = 1 << 20;

/// An image or a suspended state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// The files of a build.
    Image(ImageBuild),
    /// A suspended state.
    State {
        /// Id of the microVM.
        microvm: String,
    },
}

/// What is kept of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// When it was read last, in seconds since 1970; 0 for never.
    pub(super) checked: u64,
    /// When it was last tried to read it and could not be, in seconds since 1970; 0 for never.
    pub(super) tried: u64,
    /// Files that are damaged, and what is wrong with each.
    pub(super) damage: Vec<(String, String)>,
    /// Files without checksums of all that they have.
    pub(super) uncovered: Vec<String>,
}

impl Record {
    /// Why nothing is launched from the object. Damage of the checksums alone is reported, and no reason.
    pub(super) fn refusal(&self) -> Option<String> {
        let (file, text) = self.damage.iter().find(|(file, _)| file != SUMS)?;
        Some(format!("{file}: {text}"))
    }
}

/// An object with what is kept of it.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) key: Key,
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) record: Record,
    /// Where the record and the checksums are, without the ends of their names.
    kept: PathBuf,
    /// When the folder got its name.
    made: SystemTime,
}

/// How often objects are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    images: Duration,
}

impl Intervals {
    pub(super) fn of_images(images: Duration) -> Self {
        Self { images }
    }
}

/// All objects of a host.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    data: PathBuf,
    intervals: Intervals,
}

// === impl Objects ===

impl Objects {
    pub(super) fn new(data: &Path, intervals: Intervals) -> Self {
        Self { data: data.to_owned(), intervals }
    }

    /// What is to be read now, what was read longest ago first; with `damaged`, also everything that is known to be damaged.
    /// Removes what was kept of objects that are gone. Blocks.
    pub(super) fn due(&self, now: SystemTime, damaged: bool) -> Vec<Object> {
        let all = self.list();
        self.forget(&all);
        let mut due: Vec<_> = all
            .into_iter()
            .filter(|object| damaged && !object.record.damage.is_empty() || object.due(self.intervals) <= now)
            .collect();
        due.sort_by_key(|object| object.record.checked);
        due
    }

    /// All objects. What cannot be read – it may just be removed – is left out. Blocks.
    pub(super) fn list(&self) -> Vec<Object> {
        let mut all = Vec::new();
        let images = self.data.join("images");
        for account in names(&images) {
            for uid in names(&images.join(&account)) {
                for version in names(&images.join(&account).join(&uid)) {
                    for build in names(&images.join(&account).join(&uid).join(&version)) {
                        let number = version.parse().ok();
                        let build =
                            number.and_then(|number| ImageBuild::parse(&account, &uid, number, &build).ok());
                        all.extend(build.and_then(|build| {
                            let folder = Path::new("images").join(build.folder());
                            self.object(Key::Image(build), &folder)
                        }));
                    }
                }
            }
        }
        for microvm in names(&self.data.join("microvms")) {
            for state in names(&self.data.join("microvms").join(&microvm)) {
                if state.starts_with("suspended-") {
                    let folder = Path::new("microvms").join(&microvm).join(&state);
                    all.extend(self.object(Key::State { microvm: microvm.clone() }, &folder));
                }
            }
        }
        all
    }

    fn object(&self, key: Key, folder: &Path) -> Option<Object> {
        let kept = self.data.join("scrub").join(folder);
        let folder = self.data.join(folder);
        let metadata = fs::symlink_metadata(&folder).ok().filter(fs::Metadata::is_dir)?;
        let record = read(&with_end(&kept, "json")).unwrap_or_default();
        Some(Object { key, folder, record, kept, made: metadata.modified().ok()? })
    }

    /// Removes what was kept of objects that are gone, and folders that become empty.
    fn forget(&self, all: &[Object]) {
        let kept: std::collections::HashSet<_> = all.iter().map(|object| object.kept.as_path()).collect();
        let mut folders = vec![self.data.join("scrub")];
        let mut visited = Vec::new();
        while let Some(folder) = folders.pop() {
            for name in names(&folder) {
                let path = folder.join(name);
                if path.is_dir() {
                    folders.push(path);
                } else if !kept.contains(path.with_extension("").as_path()) {
                    let _ = fs::remove_file(&path); // it is tried again
                }
            }
            visited.push(folder);
        }
        // Folders come after those that they are in. Only empty ones go.
        for folder in visited.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

// === impl Object ===

impl Object {
    /// From when on it is to be read.
    fn due(&self, intervals: Intervals) -> SystemTime {
        let (first, interval) = match &self.key {
            Key::Image(_) => (Duration::ZERO, intervals.images),
            Key::State { .. } => (FIRST, STATES),
        };
        let interval = if self.record.damage.is_empty() { interval } else { interval.min(AGAIN) };
        let after = |seconds, wait| {
            UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .and_then(|time: SystemTime| time.checked_add(wait))
        };
        let due = match self.record.checked {
            0 => self.made.checked_add(first),
            checked => after(checked, interval),
        };
        let again =
            if self.record.tried > self.record.checked { after(self.record.tried, RETRY) } else { None };
        // A time that cannot be represented is one of a record that is damaged.
        due.max(again).unwrap_or(UNIX_EPOCH)
    }

    /// The file with checksums that the scrub has made.
    pub(super) fn sums(&self) -> PathBuf {
        with_end(&self.kept, SUMS)
    }

    /// Makes a file for new checksums, which gets its name when [`Self::keep_sums`] is called.
    pub(super) fn new_sums(&self) -> io::Result<File> {
        self.make_folder()?;
        let path = with_end(&self.kept, "sums-new");
        File::options().read(true).write(true).create(true).truncate(true).open(path)
    }

    /// Keeps new checksums, if there are any.
    pub(super) fn keep_sums(&self, made: &File) -> io::Result<()> {
        let path = with_end(&self.kept, "sums-new");
        if made.metadata()?.len() == 0 {
            return fs::remove_file(path);
        }
        made.sync_all()?;
        fs::rename(path, self.sums())
    }

    /// Stores what was found; the file is as before or new.
    pub(super) fn store(&self, record: &Record) -> io::Result<()> {
        self.make_folder()?;
        let path = with_end(&self.kept, "json-new");
        let mut file = File::create(&path)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(path, with_end(&self.kept, "json"))
    }

    fn make_folder(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = self.kept.parent().unwrap_or(&self.kept);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The path with `.END` behind its name.
fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

fn read(path: &Path) -> Option<Record> {
    let file = File::open(path).ok()?;
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, RECORD_MAX), &mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The names in a folder; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn host() -> (tempfile::TempDir, Objects) {
        let data = tempfile::tempdir().unwrap();
        for folder in
            ["images/111122223333/uid/1/b-1/snapshot", "images/111122223333/uid/2/b-2", "images/stray"]
        {
            fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        for folder in ["microvms/microvm-1/suspended-3", "microvms/microvm-1/.suspended-4.tmp-1-0"] {
            fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        fs::write(data.path().join("microvms/microvm-1/overlay-3"), "").unwrap();
        let objects = Objects::new(data.path(), Intervals::of_images(7 * DAY));
        (data, objects)
    }

    fn due(objects: &Objects, now: SystemTime) -> Vec<String> {
        let due = objects.due(now, false);
        due.iter().map(|object| object.folder.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn images_are_read_at_once_and_states_later_and_all_of_them_again() {
        let (_data, objects) = host();
        let now = SystemTime::now();
        let mut first = due(&objects, now);
        first.sort();
        assert_eq!(first, ["b-1", "b-2"]);
        assert_eq!(due(&objects, now + FIRST + DAY / 24).len(), 3);
        for (object, ago) in objects.list().into_iter().zip([0, 100, 200]) {
            object.store(&Record { checked: seconds(now) - ago, ..Record::default() }).unwrap();
        }
        assert_eq!(due(&objects, now), Vec::<String>::new());
        assert_eq!(due(&objects, now + STATES), ["suspended-3"]);
        assert_eq!(due(&objects, now + 7 * DAY).first().unwrap(), "suspended-3", "longest ago first");
    }

    #[test]
    fn what_is_damaged_is_kept_and_read_again_each_day_and_at_each_start() {
        let (_data, objects) = host();
        let now = SystemTime::now();
        let damage = vec![("disk".to_owned(), "bad".to_owned())];
        for object in objects.list() {
            object
                .store(&Record { checked: seconds(now), damage: damage.clone(), ..Record::default() })
                .unwrap();
        }
        let again = objects.list();
        assert!(again.iter().all(|object| object.record.refusal().as_deref() == Some("disk: bad")));
        assert_eq!(objects.due(now, true).len(), 3);
        assert_eq!(due(&objects, now + DAY).len(), 3);
        let of_sums = Record { damage: vec![(SUMS.to_owned(), "bad".to_owned())], ..Record::default() };
        assert_eq!(of_sums.refusal(), None);
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_soon_and_not_at_once() {
        let (_data, objects) = host();
        let now = SystemTime::now();
        for object in objects.list() {
            let record =
                Record { tried: seconds(now), checked: seconds(now) - 30 * 24 * 3600, ..Record::default() };
            object.store(&record).unwrap();
        }
        assert_eq!(due(&objects, now), Vec::<String>::new());
        assert_eq!(due(&objects, now + RETRY).len(), 3);
    }

    #[test]
    fn what_was_kept_goes_with_its_object() {
        let (data, objects) = host();
        for object in objects.list() {
            object.store(&Record::default()).unwrap();
            let sums = object.new_sums().unwrap();
            object.keep_sums(&sums).unwrap();
            assert!(!object.sums().exists(), "there are none");
            let mut sums = object.new_sums().unwrap();
            sums.write_all(b"some").unwrap();
            object.keep_sums(&sums).unwrap();
            assert!(object.sums().exists());
        }
        fs::remove_dir_all(data.path().join("images/111122223333/uid/1")).unwrap();
        fs::remove_dir_all(data.path().join("microvms/microvm-1")).unwrap();
        due(&objects, SystemTime::now());
        let scrub = data.path().join("scrub");
        assert!(!scrub.join("microvms").exists() && !scrub.join("images/111122223333/uid/1").exists());
        assert_eq!(names(&scrub.join("images/111122223333/uid/2")).len(), 2);
    }
}
