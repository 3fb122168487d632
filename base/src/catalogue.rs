//! The catalogue: one folder per base image version, newest first.
//!
//! A version is assembled in a folder of another name, synced, and renamed: even if the process is killed, a version exists
//! completely or not at all. A process that adds one holds the catalogue's lock, and first removes leftovers of killed ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{self, FileRecord, Manifest};
use super::{BaseError, Progress, files};

/// Name of the guest's kernel.
pub(crate) const KERNEL: &str = "Image";
/// Name of the guest's initramfs.
pub(crate) const INITRAMFS: &str = "initramfs.cpio";
/// Name of the builder's root disk.
pub(crate) const BUILDER: &str = "builder.erofs";
/// Name of the container bases' file system.
pub(crate) const CONTAINERS: &str = "containers.erofs";
/// Name of the provider of OpenSSL that images get.
pub(crate) const OPENSSL: &str = "openssl.so";
/// The files that every version has, without its manifest.
const FILES: [&str; 4] = [KERNEL, INITRAMFS, BUILDER, CONTAINERS];
/// The files that versions of earlier releases have not.
const LATER_FILES: [&str; 1] = [OPENSSL];

/// Folder in which a version is assembled.
const PARTIAL: &str = ".new";
/// Lock that is held while a version is added.
const LOCK: &str = ".lock";
/// The package of the program that builds.
const PROGRAM: &str = "docker.io";

/// A catalogue of base images.
#[derive(Debug, Clone)]
pub struct Catalogue {
    folder: PathBuf,
}

/// A base image.
#[derive(Debug, Clone)]
pub struct Base {
    /// Version number; newer versions have greater numbers.
    pub version: u64,
    /// Description of the version and of its inputs.
    pub manifest: Manifest,
    folder: PathBuf,
}

impl Catalogue {
    /// Opens a catalogue that exists.
    ///
    /// # Errors
    ///
    /// The folder does not exist or cannot be read.
    pub fn open(folder: &Path) -> Result<Self, BaseError> {
        files::entries(folder)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Opens a catalogue, or makes an empty one.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or read.
    pub fn create(folder: &Path) -> Result<Self, BaseError> {
        files::create_folder(folder)?;
        Self::open(folder)
    }

    /// The versions, newest first.
    ///
    /// # Errors
    ///
    /// The catalogue cannot be read.
    pub fn versions(&self) -> Result<Vec<u64>, BaseError> {
        let entries = files::entries(&self.folder)?;
        let mut versions: Vec<u64> = entries.iter().filter_map(|path| version_of(path)).collect();
        versions.sort_unstable_by(|one, other| other.cmp(one));
        Ok(versions)
    }

    /// The newest version.
    ///
    /// # Errors
    ///
    /// The catalogue is empty, or the version cannot be read.
    pub fn latest(&self) -> Result<Base, BaseError> {
        let newest = self.versions()?.first().copied();
        self.get(newest.ok_or_else(|| BaseError::Empty(self.folder.clone()))?)
    }

    /// Opens a version.
    ///
    /// # Errors
    ///
    /// The version does not exist or cannot be read.
    pub fn get(&self, version: u64) -> Result<Base, BaseError> {
        let folder = self.folder.join(version.to_string());
        if !folder.is_dir() {
            return Err(BaseError::NoVersion { catalogue: self.folder.clone(), version });
        }
        let path = folder.join(manifest::FILE);
        let manifest = Manifest::read(&path)?;
        if manifest.version != version {
            return Err(BaseError::unusable(&path, format!("it is of version {}", manifest.version)));
        }
        if let Some(missing) = FILES.iter().find(|name| !manifest.files.contains_key(**name)) {
            return Err(BaseError::unusable(&path, format!("it has no {missing}")));
        }
        Ok(Base { version, manifest, folder })
    }

    /// Adds the version that `make` assembles in the folder that it is given: the files of [`FILES`] and [`LATER_FILES`], and a manifest,
    /// in which version and files are filled in here. If the newest version has exactly the same files, nothing is added.
    /// Returns the newest version, and whether it is new.
    pub(crate) fn add(
        &self,
        progress: Progress<'_>,
        make: impl FnOnce(&Path) -> Result<Manifest, BaseError>,
    ) -> Result<(Base, bool), BaseError> {
        let _lock = files::lock(&self.folder.join(LOCK), progress)?;
        let partial = self.folder.join(PARTIAL);
        if partial.symlink_metadata().is_ok() {
            progress("removing what an interrupted build has left");
            files::remove(&partial)?;
        }
        files::create_folder(&partial)?;
        let result = self.complete(&partial, make);
        if !matches!(result, Ok((_, true))) {
            // If this fails, the next call removes the folder.
            let _ = files::remove(&partial);
        }
        result
    }

    fn complete(
        &self,
        partial: &Path,
        make: impl FnOnce(&Path) -> Result<Manifest, BaseError>,
    ) -> Result<(Base, bool), BaseError> {
        let mut manifest = make(partial)?;
        let record = |name: &str| Ok((name.to_owned(), FileRecord::read(&partial.join(name))?));
        manifest.files = FILES
            .into_iter()
            .chain(LATER_FILES)
            .map(record)
            .collect::<Result<BTreeMap<_, _>, BaseError>>()?;
        // A version that cannot be read must not prevent that another one is added.
        let newest = self.versions()?.first().copied().unwrap_or(0);
        if let Ok(same) = self.get(newest)
            && same.manifest.files == manifest.files
        {
            return Ok((same, false));
        }
        manifest.version = newest + 1;
        let text = serde_json::to_string_pretty(&manifest);
        let text = text.map_err(|error| BaseError::unusable(partial, error.to_string()))?;
        files::write(&partial.join(manifest::FILE), text + "\n")?;
        files::sync_tree(partial)?;
        let folder = self.folder.join(manifest.version.to_string());
        fs::rename(partial, &folder).map_err(BaseError::file("cannot make", &folder))?;
        files::sync(&self.folder)?;
        Ok((Base { version: manifest.version, manifest, folder }, true))
    }
}

/// The version number in the name of a folder in a catalogue.
fn version_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let version: u64 = name.parse().ok()?;
    (version > 0 && version.to_string() == name && path.is_dir()).then_some(version)
}

impl Base {
    /// The guest's kernel, an arm64 `Image`.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(KERNEL)
    }

    /// The guest's initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join(INITRAMFS)
    }

    /// The builder's root disk.
    #[must_use]
    pub fn builder(&self) -> PathBuf {
        self.folder.join(BUILDER)
    }

    /// The disk with the container bases' OCI image layouts.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.folder.join(CONTAINERS)
    }

    /// The provider of OpenSSL; none in versions of earlier releases.
    #[must_use]
    pub fn openssl(&self) -> Option<PathBuf> {
        self.manifest.files.contains_key(OPENSSL).then(|| self.folder.join(OPENSSL))
    }

    /// Whether images can be built on it: its builder is the one that this release's scripts know.
    ///
    /// # Errors
    ///
    /// [`BaseError::OtherBuilder`].
    pub fn builds(&self) -> Result<(), BaseError> {
        let packages = &self.manifest.inputs.builder_packages;
        if packages.iter().any(|package| package.name == PROGRAM) {
            return Ok(());
        }
        Err(BaseError::OtherBuilder { version: self.version, program: PROGRAM })
    }

    /// Reads every file and compares it with what is recorded. This takes seconds; the launch path never does it.
    ///
    /// # Errors
    ///
    /// A file is missing or differs.
    pub fn verify(&self) -> Result<(), BaseError> {
        for (name, recorded) in &self.manifest.files {
            let found = FileRecord::read(&self.folder.join(name))?;
            let damaged = |what, found, recorded| BaseError::Damaged {
                version: self.version,
                file: name.clone(),
                what,
                found,
                recorded,
            };
            if found.size != recorded.size {
                return Err(damaged("size", found.size.to_string(), recorded.size.to_string()));
            }
            if found.sha256 != recorded.sha256 {
                return Err(damaged("SHA-256", found.sha256, recorded.sha256.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Package;
    use crate::manifest::tests::manifest;

    fn add(catalogue: &Catalogue, content: &str) -> (Base, bool) {
        let make = |folder: &Path| {
            FILES
                .iter()
                .chain(&LATER_FILES)
                .try_for_each(|name| files::write(&folder.join(name), content))?;
            Ok(manifest(BTreeMap::new()))
        };
        catalogue.add(&|_| {}, make).unwrap()
    }

    #[test]
    fn versions_count_up_and_the_same_files_make_no_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(&folder.path().join("catalogue")).unwrap();
        assert!(matches!(catalogue.latest(), Err(BaseError::Empty(_))));
        assert_eq!((add(&catalogue, "a").0.version, add(&catalogue, "a").1), (1, false));
        let (second, new) = add(&catalogue, "b");
        assert!(new && second.version == 2);
        assert_eq!(add(&catalogue, "a").0.version, 3, "only the newest is compared with");
        assert_eq!(catalogue.versions().unwrap(), [3, 2, 1]);
        assert_eq!(files::read(&catalogue.get(2).unwrap().kernel()).unwrap(), b"b");
        assert!(matches!(catalogue.get(4), Err(BaseError::NoVersion { version: 4, .. })));
    }

    #[test]
    fn tenth_versions_come_before_second_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["2", "10", "010", "x", "0", ".new"] {
            files::create_folder(&folder.path().join(name)).unwrap();
        }
        files::write(&folder.path().join("11"), "no folder").unwrap();
        assert_eq!(Catalogue::open(folder.path()).unwrap().versions().unwrap(), [10, 2]);
    }

    #[test]
    fn what_failed_or_was_killed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(folder.path()).unwrap();
        let failed = catalogue.add(&|_| {}, |partial| {
            files::write(&partial.join(KERNEL), "half")?;
            Err(BaseError::Recipe("no luck".into()))
        });
        assert!(failed.is_err() && !folder.path().join(PARTIAL).exists());
        // The state that a killed process leaves.
        files::write(&folder.path().join(PARTIAL).join("rest"), "x").unwrap();
        let (base, _) = add(&catalogue, "a");
        assert_eq!(base.version, 1);
        assert!(!base.kernel().with_file_name("rest").exists());
        assert!(catalogue.versions().unwrap() == [1] && !folder.path().join(PARTIAL).exists());
    }

    #[test]
    fn a_base_of_an_earlier_release_builds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut base, _) = add(&Catalogue::create(folder.path()).unwrap(), "a");
        let package =
            |name: &str| Package { name: name.into(), version: "1".into(), architecture: "arm64".into() };
        base.manifest.inputs.builder_packages = vec![package("buildah")];
        let error = base.builds().unwrap_err().to_string();
        assert!(error.starts_with("base image version 1 is of an earlier release"), "{error}");
        base.manifest.inputs.builder_packages.push(package(PROGRAM));
        base.builds().unwrap();
    }

    #[test]
    fn a_base_without_the_provider_of_openssl_is_one_of_an_earlier_release() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(folder.path()).unwrap();
        let (base, _) = add(&catalogue, "a");
        assert_eq!(files::read(&base.openssl().unwrap()).unwrap(), b"a");
        let path = folder.path().join("1").join(manifest::FILE);
        let mut manifest = base.manifest;
        manifest.files.remove(OPENSSL);
        files::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
        assert_eq!(catalogue.get(1).unwrap().openssl(), None);
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::create(folder.path()).unwrap();
        let (base, _) = add(&catalogue, "abc");
        base.verify().unwrap();
        files::write(&base.builder(), "abd").unwrap();
        let error = base.verify().unwrap_err().to_string();
        assert!(error.contains("builder.erofs") && error.contains("SHA-256"), "{error}");
        files::write(&base.builder(), "abcd").unwrap();
        assert!(base.verify().unwrap_err().to_string().contains("size 4, recorded is 3"));
        files::remove(&base.builder()).unwrap();
        assert!(base.verify().is_err());
    }
}
