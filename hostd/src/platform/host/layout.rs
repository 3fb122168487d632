//! Paths of the host's files.
//!
//! ```text
//! DATA/images/ACCOUNT/UID/VERSION/BUILD/   files of a build
//! DATA/microvms/ID/overlay-N               disk writes since the launch (0) or since the resume from suspended-N
//! DATA/microvms/ID/suspended-N/            suspended state number N
//! RUN/microvms/ID/                         its monitor: control.sock, console.log, monitor.log, exit.json, the records
//! RUN/pool/vm-UID/                         a monitor in the pool, without a microVM; renamed when it gets one
//! ```
//!
//! User ids, control groups (`vm-UID`) and networks (`vm-NUMBER`) belong to the monitor, whichever microVM it runs;
//! the records in the run directory of a microVM name them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_model::build::ImageBuild;
use hearth_model::id::MicrovmId;

/// Prefix of the names of networks, control groups and run directories in the pool.
pub(super) const PREFIX: &str = "vm-";
const OVERLAY: &str = "overlay-";
const SUSPENDED: &str = "suspended-";

/// The host's folders.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    data: PathBuf,
    run: PathBuf,
}

impl Layout {
    pub(super) fn new(data: &Path, run: &Path) -> Self {
        Self { data: data.to_owned(), run: run.to_owned() }
    }

    /// Makes missing folders, accessible by root only.
    pub(super) fn make(&self) -> Result<(), (PathBuf, io::Error)> {
        let folders = [self.images(), self.states(), self.runs(), self.pool()];
        folders.into_iter().try_for_each(|folder| make_folder(&folder).map_err(|error| (folder, error)))
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Folders of microVMs, whose contents outlive a reboot.
    pub(super) fn states(&self) -> PathBuf {
        self.data.join("microvms")
    }

    /// Run directories of microVMs.
    pub(super) fn runs(&self) -> PathBuf {
        self.run.join("microvms")
    }

    /// Run directories of monitors without a microVM.
    pub(super) fn pool(&self) -> PathBuf {
        self.run.join("pool")
    }

    /// The folder of a build's files.
    pub(super) fn build(&self, build: &ImageBuild) -> PathBuf {
        self.images().join(build.folder())
    }

    /// The folders of a microVM.
    pub(super) fn microvm(&self, id: &MicrovmId) -> Place {
        Place { state: self.states().join(id.as_str()), run: self.runs().join(id.as_str()) }
    }
}

/// Which part of a microVM's folder is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing.
    Nothing,
    /// One suspended state.
    State(u64),
    /// All suspended states.
    States,
}

/// The folders of a microVM.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Folder of files that outlive a reboot.
    pub(super) state: PathBuf,
    /// Run directory of the monitor.
    pub(super) run: PathBuf,
}

impl Place {
    /// The overlay of a microVM that was made from suspended state `number`; 0 stands for the image.
    pub(super) fn overlay(&self, number: u64) -> PathBuf {
        self.state.join(format!("{OVERLAY}{number}"))
    }

    /// The folder of suspended state `number`.
    pub(super) fn suspended(&self, number: u64) -> PathBuf {
        self.state.join(format!("{SUSPENDED}{number}"))
    }

    /// Whether suspended state `number` exists: folders of snapshots appear as a whole.
    pub(super) fn is_suspended(&self, number: u64) -> bool {
        number > 0 && self.suspended(number).is_dir()
    }

    /// Removes overlays, half-written states, and the suspended states that are not to be kept.
    pub(super) fn tidy(&self, keep: Keep) -> io::Result<()> {
        let entries = match fs::read_dir(&self.state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(SUSPENDED)?.parse::<u64>().ok());
            let kept = match keep {
                Keep::Nothing => false,
                Keep::State(kept) => number == Some(kept),
                Keep::States => number.is_some(),
            };
            if kept {
                continue;
            }
            if entry.file_type()?.is_dir() {
                remove_folder(&entry.path())?;
            } else {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Makes a folder with its parents, accessible by root only.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The names in a folder; none if the folder does not exist.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes a folder with its contents; it may be gone already.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file; it may be gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_ids() {
        let layout = Layout::new(Path::new("/data"), Path::new("/run/hearth"));
        let build = ImageBuild::parse("111122223333", "uid", 1, "b").unwrap();
        assert_eq!(layout.build(&build), Path::new("/data/images/111122223333/uid/1/b"));
        let place = layout.microvm(&"microvm-1".parse().unwrap());
        assert_eq!(place.overlay(2), Path::new("/data/microvms/microvm-1/overlay-2"));
        assert_eq!(place.run, Path::new("/run/hearth/microvms/microvm-1"));
    }

    #[test]
    fn tidying_leaves_the_state_that_is_to_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), folder.path());
        let place = layout.microvm(&"microvm-1".parse().unwrap());
        place.tidy(Keep::Nothing).unwrap();
        for number in [1, 2] {
            make_folder(&place.suspended(number)).unwrap();
            fs::write(place.suspended(number).join("state"), "").unwrap();
        }
        make_folder(&place.state.join(".suspended-3.tmp-1-0")).unwrap();
        fs::write(place.overlay(1), "").unwrap();
        place.tidy(Keep::States).unwrap();
        assert_eq!(names(&place.state).unwrap().len(), 2);
        place.tidy(Keep::State(2)).unwrap();
        assert_eq!(names(&place.state).unwrap(), ["suspended-2"]);
        assert!(place.is_suspended(2) && !place.is_suspended(1) && !place.is_suspended(0));
        place.tidy(Keep::Nothing).unwrap();
        assert!(names(&place.state).unwrap().is_empty());
    }
}
