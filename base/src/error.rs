//! What can go wrong with base images.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a base image cannot be made, found or used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried, as in `cannot read`.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Programs of other packages are not installed.
    #[error("missing programs: {programs}; install their Debian packages: apt-get install {packages}")]
    Missing {
        /// The programs, separated by commas.
        programs: String,
        /// The packages, separated by spaces.
        packages: String,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    NotStarted {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("{program} failed ({status}); the end of what it said:\n{said}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its output.
        said: String,
    },
    /// Root's privileges are needed and not there.
    #[error("{0} needs root, since it makes files of other owners; run it as root")]
    NotRoot(&'static str),
    /// This machine cannot run arm64 programs.
    #[error("this machine cannot run arm64 programs: {0}")]
    NoEmulation(String),
    /// A recipe cannot be followed.
    #[error("the recipe cannot be followed: {0}")]
    Recipe(String),
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The catalogue has no such version.
    #[error("the catalogue {} has no base image of version {version}", catalogue.display())]
    NoVersion {
        /// The catalogue.
        catalogue: PathBuf,
        /// The version that was asked for.
        version: u64,
    },
    /// The catalogue has no version at all.
    #[error("the catalogue {} is empty; `hearth-image-builder base build` makes a base image", .0.display())]
    Empty(PathBuf),
    /// A file of a version is not the one that was recorded.
    #[error(
        "base image version {version} is damaged: {file} has {what} {found}, recorded is {recorded}; remove the folder and build it anew"
    )]
    Damaged {
        /// The version.
        version: u64,
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        recorded: String,
    },
}

impl BaseError {
    /// For `map_err`: a file operation on `path` that failed.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { what, path, source }
    }

    /// A file that is not what it should be.
    pub(crate) fn unusable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), reason: reason.into() }
    }
}
