//! Errors of base images.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a base image cannot be made, found or used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What failed, as in `cannot read`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Required programs are not installed.
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
        /// Name of the program.
        program: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}); the end of what it said:\n{output}")]
    Failed {
        /// Name of the program.
        program: String,
        /// Exit status of the program.
        status: ExitStatus,
        /// The last lines of its output.
        output: String,
    },
    /// A mirror does not have packages that its suite should have.
    #[error(
        "the mirror {mirror} does not give {packages} of Debian {suite}. Unreleased suites change daily: make the base image again, name \
         another mirror or a snapshot of one, or put into the recipe what the suite has now"
    )]
    Vanished {
        /// The packages, or the files that were asked for.
        packages: String,
        /// Name of the suite.
        suite: String,
        /// The mirror.
        mirror: String,
    },
    /// Root's privileges are missing.
    #[error("{0} needs root, since it makes files of other owners; run it as root")]
    NotRoot(&'static str),
    /// This machine cannot run arm64 programs.
    #[error("this machine cannot run arm64 programs: {0}")]
    NoEmulation(String),
    /// A recipe is invalid.
    #[error("the recipe cannot be followed: {0}")]
    Recipe(String),
    /// A file is unusable.
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
        /// The requested version.
        version: u64,
    },
    /// The catalogue has no versions.
    #[error("the catalogue {} is empty; `hearth-image-builder base build` makes a base image", .0.display())]
    Empty(PathBuf),
    /// A version is of an earlier release, whose builder is another program.
    #[error(
        "base image version {version} is of an earlier release: its builder has no {program}, which builds images now; make a new one with \
         `hearth-image-builder base build` and build again"
    )]
    OtherBuilder {
        /// The version.
        version: u64,
        /// The package of the program that builds.
        program: &'static str,
    },
    /// A file of a version differs from its record.
    #[error(
        "base image version {version} is damaged: {file} has {what} {found}, recorded is {recorded}; remove the folder and build it anew"
    )]
    Damaged {
        /// The version.
        version: u64,
        /// The file.
        file: String,
        /// The property that differs.
        what: &'static str,
        /// The value that was found.
        found: String,
        /// The recorded value.
        recorded: String,
    },
}

impl BaseError {
    /// For `map_err`: makes the error of a file operation on `path`.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { what, path, source }
    }

    /// Makes the error of an unusable file.
    pub(crate) fn unusable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_path_buf(), reason: reason.into() }
    }
}
