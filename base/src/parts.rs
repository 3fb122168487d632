//! Parts: files that are made from Debian's packages, and need not be made again for every base image.
//!
//! A part is a folder whose name consists of its kind and a digest of its recipe and sources. Newer versions of packages are not
//! noticed; [`Store::refresh`] makes a part with them. A part is assembled under another name and renamed, and
//! never changes again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use super::debian::Package;
use super::files::FileRecord;
use super::manifest::Container;
use super::recipe::{Recipe, Sources};
use super::{
    BaseError, Progress, builder_root, catalogue, container, erofs, files, kernel, programs, store, twins,
};

/// Changes when this code makes different parts from the same packages.
const FORMAT: u32 = 5;
/// Name of the file with a part's record.
const RECORD: &str = "part.json";
/// UUID of the container bases' file system.
const CONTAINERS_UUID: &str = "68656172-7468-4275-8000-000000000002";

/// Kinds of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `builder.erofs`.
    Builder,
    /// `containers.erofs`.
    Containers,
    /// Debian's kernel: `Image` and `modules/`.
    Kernel,
}

/// Description of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Packages in the part; those of container bases by name and tag, others under the empty name.
    pub packages: BTreeMap<String, Vec<Package>>,
    /// The container bases.
    pub containers: Vec<Container>,
    /// Digest and size of the main file.
    pub file: Option<FileRecord>,
}

/// An existing part.
#[derive(Debug, Clone)]
pub struct Part {
    /// Folder of the part's files.
    pub folder: PathBuf,
    /// Description of the part.
    pub record: Record,
}

/// A folder of parts.
#[derive(Debug, Clone)]
pub struct Store {
    /// The folder.
    pub folder: PathBuf,
    /// Whether parts are made again although they exist.
    pub refresh: bool,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Builder => "builder",
            Self::Containers => "containers",
            Self::Kernel => "kernel",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Builder => catalogue::BUILDER,
            Self::Containers => catalogue::CONTAINERS,
            Self::Kernel => catalogue::KERNEL,
        }
    }

    /// Digest of those fields of a recipe that affect the part.
    fn key(self, recipe: &Recipe, sources: &Sources) -> Result<String, BaseError> {
        let mut recipe = recipe.clone();
        match self {
            Self::Builder => recipe.containers.clear(),
            Self::Containers => recipe.clear_builder(),
            Self::Kernel => {
                recipe.clear_builder();
                recipe.containers.clear();
            }
        }
        let digest = files::digest_of(&(FORMAT, recipe, sources))?;
        Ok(format!("{}-{}", self.name(), digest.get(..16).unwrap_or_default()))
    }
}

impl Store {
    /// Whether the part of this kind exists.
    ///
    /// # Errors
    ///
    /// The recipe cannot be digested.
    pub fn has(&self, kind: Kind, (recipe, sources): (&Recipe, &Sources)) -> Result<bool, BaseError> {
        Ok(self.folder.join(kind.key(recipe, sources)?).is_dir())
    }

    /// The part of this kind, which is made if it does not exist.
    ///
    /// # Errors
    ///
    /// The part cannot be made: programs, packages or privileges are missing.
    pub fn part(
        &self,
        kind: Kind,
        (recipe, sources): (&Recipe, &Sources),
        progress: Progress<'_>,
    ) -> Result<Part, BaseError> {
        let key = kind.key(recipe, sources)?;
        let folder = self.folder.join(&key);
        if !self.refresh && folder.is_dir() {
            return Part::read(folder);
        }
        files::create_folder(&self.folder)?;
        self.sweep();
        let _lock = files::lock(&self.folder.join(format!(".{key}.lock")), progress)?;
        if !self.refresh && folder.is_dir() {
            return Part::read(folder);
        }
        let partial = self.folder.join(format!(".{key}.new"));
        files::remove(&partial)?;
        files::create_folder(&partial)?;
        let result = make(kind, &partial, (recipe, sources), progress).and_then(|mut record| {
            record.file = Some(FileRecord::read(&partial.join(kind.file()))?);
            commit(&partial, &folder, &record)
        });
        if result.is_err() {
            // If this fails, the next call removes the folder.
            let _ = files::remove(&partial);
        }
        result?;
        Part::read(folder)
    }
}

impl Store {
    /// Removes what killed builds have left: partial parts whose lock is not held. What cannot be removed now is left for the next
    /// sweep.
    fn sweep(&self) {
        for path in files::entries(&self.folder).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let key = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
            let Some((key, "new" | "old")) = key else { continue };
            let lock = fs::File::open(self.folder.join(format!(".{key}.lock")));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = files::remove(&path);
            }
        }
    }
}

impl Part {
    fn read(folder: PathBuf) -> Result<Self, BaseError> {
        let path = folder.join(RECORD);
        let record = serde_json::from_slice(&files::read(&path)?);
        let record = record.map_err(|error| BaseError::unusable(&path, error.to_string()))?;
        Ok(Self { folder, record })
    }
}

/// Moves a finished part to its place. An older one is removed first: if the process is killed between the two steps, the part is
/// made again.
fn commit(partial: &Path, folder: &Path, record: &Record) -> Result<(), BaseError> {
    let text = serde_json::to_string_pretty(record);
    let text = text.map_err(|error| BaseError::unusable(partial, error.to_string()))?;
    files::write(&partial.join(RECORD), text + "\n")?;
    files::sync_tree(partial)?;
    let older = partial.with_extension("old");
    files::remove(&older)?;
    if folder.exists() {
        fs::rename(folder, &older).map_err(BaseError::file("cannot move", folder))?;
    }
    fs::rename(partial, folder).map_err(BaseError::file("cannot make", folder))?;
    files::remove(&older)
}

fn make(
    kind: Kind,
    folder: &Path,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Record, BaseError> {
    // A missing program is reported before minutes are spent.
    programs::require(&[erofs::PROGRAM])?;
    let from = (recipe, sources);
    let of_all = |packages| BTreeMap::from([(String::new(), packages)]);
    match kind {
        Kind::Builder => {
            let image = folder.join(catalogue::BUILDER);
            let packages = builder_root::make(&image, &folder.join("root"), from, progress)?;
            Ok(Record { packages: of_all(packages), ..Record::default() })
        }
        Kind::Kernel => {
            let packages = kernel::make(folder, from, progress)?;
            Ok(Record { packages: of_all(packages), ..Record::default() })
        }
        Kind::Containers => make_containers(folder, from, progress),
    }
}

/// Makes all container bases in parallel, because most of the time is spent in scripts that run one after the other.
fn make_containers(
    folder: &Path,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Record, BaseError> {
    let twins = folder.join("work-twins/root");
    files::create_folder(twins.parent().unwrap_or(&twins))?;
    let twins = twins::Twins::make(&twins, (recipe, sources), progress)?;
    // Each base has a separate folder, also for temporary files.
    let root = |index: usize| folder.join(format!("work-{index}/root"));
    let made: Vec<Result<container::ContainerBase, BaseError>> = thread::scope(|scope| {
        let start = |(index, base)| {
            let (root, twins) = (root(index), twins.as_ref());
            scope.spawn(move || {
                files::create_folder(root.parent().unwrap_or(&root))?;
                container::make(&root, base, twins, (recipe, sources), progress)
            })
        };
        let threads: Vec<_> = recipe.containers.iter().enumerate().map(start).collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    files::remove(&folder.join("work-twins"))?;
    let (mut record, mut store) = (Record::default(), store::Store::default());
    let (tree, mut newest) = (folder.join("tree"), recipe.generated_files_date);
    for (index, (base, made)) in recipe.containers.iter().zip(made).enumerate() {
        let made = made?;
        store.add(&tree, &root(index), &made.image, base)?;
        record.containers.push(Container { reference: base.reference(), digest: made.image.digest() });
        record.packages.insert(base.reference(), made.packages);
        newest = newest.max(made.newest);
        files::remove(&folder.join(format!("work-{index}")))?;
    }
    progress("container bases: making the file system");
    // Generated files get one time; all others keep that of their package, which compiled Python files contain.
    store.finish(&tree)?;
    erofs::make(&folder.join(catalogue::CONTAINERS), &tree, CONTAINERS_UUID, newest)?;
    files::remove(&tree)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_by_what_it_is_made_from() {
        let (recipe, sources) = (Recipe::own().unwrap(), Sources::default());
        let key = |kind: Kind, recipe: &Recipe| kind.key(recipe, &sources).unwrap();
        let mut other = recipe.clone();
        other.builder.push("less".into());
        assert_ne!(key(Kind::Builder, &recipe), key(Kind::Builder, &other));
        assert_eq!(key(Kind::Containers, &recipe), key(Kind::Containers, &other));
        assert_eq!(key(Kind::Kernel, &recipe), key(Kind::Kernel, &other));
        other.containers[0].packages.push("less".into());
        assert_ne!(key(Kind::Containers, &recipe), key(Kind::Containers, &other));
        let elsewhere = Sources { mirror: "http://mirror.test/debian".into(), ..sources.clone() };
        assert_ne!(Kind::Kernel.key(&recipe, &elsewhere).unwrap(), key(Kind::Kernel, &recipe));
    }

    #[test]
    fn what_killed_builds_left_goes_and_what_lives_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for key in ["dead-1", "alive-2"] {
            files::write(&path(&format!(".{key}.new/half")), "x").unwrap();
            files::write(&path(&format!(".{key}.lock")), "").unwrap();
        }
        files::write(&path("whole-3/part.json"), "{}").unwrap();
        let _held = files::lock(&path(".alive-2.lock"), &|_| {}).unwrap();
        Store { folder: folder.path().to_path_buf(), refresh: false }.sweep();
        assert!(!path(".dead-1.new").exists());
        assert!(path(".alive-2.new/half").exists() && path("whole-3").exists());
    }

    #[test]
    fn a_part_that_is_there_is_taken_and_a_newer_one_replaces_it() {
        let store = tempfile::tempdir().unwrap();
        let (recipe, sources) = (Recipe::own().unwrap(), Sources::default());
        let folder = store.path().join(Kind::Builder.key(&recipe, &sources).unwrap());
        let partial = store.path().join(".x.new");
        let mut record = Record::default();
        for content in ["first", "second"] {
            files::write(&partial.join(catalogue::BUILDER), content).unwrap();
            record.file = Some(FileRecord::of(content.as_bytes()));
            commit(&partial, &folder, &record).unwrap();
        }
        let there = Store { folder: store.path().to_path_buf(), refresh: false };
        let part = there.part(Kind::Builder, (&recipe, &sources), &|_| {}).unwrap();
        assert_eq!(part.record, record);
        assert_eq!(files::read(&part.folder.join(catalogue::BUILDER)).unwrap(), b"second");
        assert!(!partial.exists() && !partial.with_extension("old").exists());
    }
}
