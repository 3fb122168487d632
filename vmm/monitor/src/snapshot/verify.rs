//! Reads all files of a snapshot, or of an image, and finds what is damaged.
//!
//! A restore reads little of a snapshot, and compares no checksums of what is large. So a bit that has flipped on a disk is
//! found here, or by the guest.
//!
//! | File | What is compared, since when |
//! |---|---|
//! | `state` | all of it, since it was written |
//! | `memory`, `working-set` | each page, since it was written; those of 0.2 as all others |
//! | `disk<N>` | its block map, since it was frozen; its data, since there are `sums` |
//! | all others | all of them, since there are `sums` |
//!
//! `sums` are made when an image is built, and by `hearth-vmm verify --make-sums`. What has no checksums is named.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1::{SavedMachine, SavedMap};
use hearth_vmm_api::scrub::files_of;
use hearth_vmm_api::snapshot::bulk::Bulk;
use hearth_vmm_api::snapshot::folder::{BASE, IMAGE_SNAPSHOT, MEMORY, STATE, WORKING_SET, layer_name};
use hearth_vmm_api::snapshot::memory_file::{self, MemoryFileError};
use hearth_vmm_api::snapshot::state_file::{self, StateError};
use hearth_vmm_api::snapshot::sums::{FileSums, SUMS, Sums, SumsError};

use super::working_set::{WorkingSet, WorkingSetError};
use super::{PAGE, layer_maps};
use crate::devices::virtio::block::{OverlayError, read_layer_map};

/// A folder cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("opening {path}: {source}; is that the folder of a snapshot or an image?")]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file is not there.
    #[error("the file is missing")]
    Missing,
    /// The state is damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// The memory is damaged.
    #[error(transparent)]
    Memory(#[from] MemoryFileError),
    /// The working set is damaged.
    #[error(transparent)]
    WorkingSet(#[from] WorkingSetError),
    /// A layer is not usable.
    #[error(transparent)]
    Layer(#[from] OverlayError),
    /// The block map of a layer is not what it was when the layer was frozen.
    #[error("its block map is damaged: which of the sectors {0} to {1} it has is not what was written")]
    Map(u64, u64),
    /// The file is not what its checksums say.
    #[error(transparent)]
    Sums(#[from] SumsError),
}

/// What was found of a folder's files, by their names in it.
#[derive(Debug, Default)]
pub struct Report {
    /// What is as it was written.
    pub whole: Vec<(String, String)>,
    /// What has no checksums: it may be damaged or not.
    pub uncovered: Vec<(String, &'static str)>,
    /// What is damaged: of each file the first thing.
    pub damage: Vec<(String, Damage)>,
    /// Checksums of the files that had none.
    pub made: Sums,
}

/// Files that belong together: those of an image or of a snapshot.
#[derive(Debug)]
pub struct Subject {
    /// By name. Those of an image's snapshot begin with the name of its folder.
    files: BTreeMap<String, File>,
    /// Files of checksums, with the part of the names in them that stands for this folder.
    sums: Vec<(String, File, &'static str)>,
    /// What the names of the snapshot's files begin with.
    snapshot: &'static str,
}

impl Subject {
    /// Files by their names, and files of checksums beside those.
    #[must_use]
    pub fn new(mut files: BTreeMap<String, File>, sums: Vec<File>) -> Self {
        let own = files.remove(SUMS).map(|file| (SUMS.to_owned(), file, ""));
        let named = sums.into_iter().map(|file| ("checksums".to_owned(), file, ""));
        let image = files.keys().any(|name| name.starts_with(IMAGE_SNAPSHOT));
        Self {
            files,
            sums: own.into_iter().chain(named).collect(),
            snapshot: if image { IMAGE_SNAPSHOT } else { "" },
        }
    }

    /// Opens the folder of a snapshot or an image, and the one on which it builds.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path) -> Result<Vec<(PathBuf, Self)>, OpenError> {
        let mut opened = vec![(folder.to_owned(), Self::open_one(folder)?)];
        let base = folder.join(BASE);
        if base.symlink_metadata().is_ok() {
            opened.push((base.clone(), Self::open_one(&base)?));
        }
        Ok(opened)
    }

    fn open_one(folder: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError { path: folder.to_owned(), source };
        let mut subject = Self::new(files_of(folder).map_err(failed)?, Vec::new());
        // The checksums of an image's snapshot are beside it.
        let whole = fs::canonicalize(folder).map_err(failed)?;
        if subject.snapshot.is_empty()
            && whole.ends_with(IMAGE_SNAPSHOT)
            && let Some(image) = whole.parent()
            && let Ok(sums) = File::open(image.join(SUMS))
        {
            subject.sums.push((format!("../{SUMS}"), sums, IMAGE_SNAPSHOT));
        }
        Ok(subject)
    }

    /// Reads all files, and makes checksums of those that have none if `make`.
    pub fn verify(&self, make: bool, bulk: &mut Bulk<'_>) -> Report {
        let mut report = Report::default();
        let sums = self.sums(&mut report);
        let mut own = Vec::new();
        let state = self.verify_snapshot(&mut report, &mut own, bulk);
        for name in sums.keys().filter(|name| !self.files.contains_key(*name)) {
            report.damage.push((name.clone(), Damage::Missing));
        }
        for (name, file) in self.files.iter().filter(|(name, _)| !own.contains(*name)) {
            let map = self.in_snapshot(name).and_then(layer_index).zip(state.as_ref());
            let checked = match map {
                Some((index, state)) => verify_map(file, state, index),
                None => Ok(None),
            };
            let (map, checked) = match checked {
                Ok(map) => (map, Ok(())),
                Err(error) => (None, Err(error)),
            };
            let checked = checked.and_then(|()| match sums.get(name) {
                Some(sums) => Ok(Some(sums.check(file, name, bulk)?)),
                None if make => {
                    let made = FileSums::make(file, name, bulk)?;
                    report.made.files.insert(name.clone(), made);
                    Ok(None)
                }
                None => Ok(None),
            });
            match (checked, map) {
                (Err(error), _) => report.damage.push((name.clone(), error)),
                (Ok(Some(bytes)), _) => report.whole(name, &format!("{} KiB", bytes.div_ceil(1024))),
                (Ok(None), Some(sectors)) => {
                    report.whole(name, &format!("the block map, of {sectors} sectors,"));
                    report.uncovered.push((name.clone(), "what those sectors hold"));
                }
                (Ok(None), None) => report.uncovered.push((name.clone(), "all of it")),
            }
        }
        report
    }

    /// Reads the checksums that are not in the files themselves.
    fn sums(&self, report: &mut Report) -> BTreeMap<String, FileSums> {
        let mut all = BTreeMap::new();
        for (name, file, prefix) in &self.sums {
            match Sums::read(file, name) {
                Ok(sums) => all.extend(
                    sums.files
                        .into_iter()
                        .filter_map(|(name, sums)| Some((name.strip_prefix(prefix)?.to_owned(), sums))),
                ),
                Err(error) => report.damage.push((name.clone(), error.into())),
            }
        }
        all
    }

    /// The name of a file in the snapshot's own folder.
    fn in_snapshot<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.snapshot)
    }

    /// Verifies the files of a snapshot that have checksums of their own, and adds their names to `own`. Those of older
    /// releases have none.
    fn verify_snapshot(
        &self,
        report: &mut Report,
        own: &mut Vec<String>,
        bulk: &mut Bulk<'_>,
    ) -> Option<SavedMachine> {
        let name = |name: &str| format!("{}{name}", self.snapshot);
        let file = |own: &str| self.files.get(&name(own));
        own.push(name(STATE));
        let state = match file(STATE).map(state_file::read) {
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                report.damage.push((name(STATE), error.into()));
                return None;
            }
            None => {
                report.damage.push((name(STATE), Damage::Missing));
                return None;
            }
        };
        report.whole(&name(STATE), "all of it");
        let bytes = state.memory.as_ref().map_or(0, |memory| memory.bytes);
        let memory = file(MEMORY).ok_or(Damage::Missing).and_then(|file| {
            memory_file::check(file, MEMORY, bytes, &state.snapshot_id)?;
            Ok(memory_file::verify(file, MEMORY, bulk)?)
        });
        let working_set = file(WORKING_SET)
            .map(|file| Ok(WorkingSet::verify(file, &state.snapshot_id, bytes / PAGE, bulk)?));
        for (file, pages) in [(MEMORY, Some(memory)), (WORKING_SET, working_set)] {
            match pages {
                Some(Ok(Some(pages))) => report.whole(&name(file), &format!("{pages} pages")),
                Some(Err(error)) => report.damage.push((name(file), error)),
                Some(Ok(None)) | None => continue,
            }
            own.push(name(file));
        }
        Some(state)
    }
}

impl Report {
    fn whole(&mut self, name: &str, what: &str) {
        self.whole.push((name.to_owned(), what.to_owned()));
    }
}

/// The index of the disk to which a layer of this name belongs.
fn layer_index(name: &str) -> Option<usize> {
    let index = name.strip_prefix("disk")?.parse().ok()?;
    (layer_name(index) == name).then_some(index)
}

/// Compares the map of a layer with its checksums; returns how many sectors it has. `None` if the state has no checksums.
fn verify_map(file: &File, state: &SavedMachine, index: usize) -> Result<Option<u64>, Damage> {
    let map = read_layer_map(file)?;
    let sums = state.board.as_ref().map(layer_maps::of).unwrap_or_default();
    let sums: Option<SavedMap> = sums.into_iter().nth(index).flatten();
    match sums.as_ref().map(|sums| map.difference(sums)) {
        Some(Some(sectors)) => Err(Damage::Map(sectors.start, sectors.end)),
        Some(None) => Ok(Some(map.count())),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
