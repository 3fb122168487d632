//! Zip archives: checked on the host, unpacked only in a guest.
//!
//! An archive comes from a user. [`check`] reads all of it and decides whether an image may be built from it; [`write_tar`] streams
//! the same archive as a tar, which the builder microVM unpacks. No name in it becomes a path on the host.
//!
//! * [`names`] – names of entries, made into paths that cannot leave the root
//! * [`tree`] – the file tree: every path once, parents before children
//! * [`archive`] – the archive's directory, read within bounds, and the contents of entries
//! * [`to_tar`] – the tar
//! * [`pack`](mod@pack) – zips made of folders
//!
//! Refused are: paths out of the root, duplicate names, entries below files or links, devices, pipes and sockets,
//! encryption, methods other than *stored* and *deflate*, local headers that differ from the central directory, entries
//! that overlap, contents that differ from their checksum or size, more entries, bytes, or compression than the
//! [`Limits`] allow. Sizes are counted as they are read; sizes in headers only allow to refuse earlier.
//!
//! Links are content like that of files: they may lead anywhere, because nobody follows them on the host. What the archive's own
//! `.dockerignore` leaves out is judged like the rest; the builder applies it when it copies. `hearth image create` applies it before
//! it packs ([`mod@pack`]).

mod archive;
mod names;
mod pack;
#[cfg(test)]
mod tests;
mod to_tar;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use archive::{Archive, Body};
use names::shown;
pub use pack::pack;
use tree::{Kind, Tree};

use crate::failure::{FailureCode, is_full};

/// Limits of a zip's content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Files, directories and links of a zip.
    pub max_entries: u64,
    /// Bytes of all its files, unpacked.
    pub max_unpacked_bytes: u64,
    /// How many times the zip's own size that may be, once it is more than 64 MiB.
    pub max_ratio: u64,
    /// Bytes of the zip's directory; reading it takes some five times that of memory.
    pub max_directory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 250_000,
            max_unpacked_bytes: 16 << 30,
            max_ratio: 200,
            max_directory_bytes: 32 << 20,
        }
    }
}

/// The limit of the ratio applies only above this many unpacked bytes.
const RATIO_COUNTS_FROM: u64 = 64 << 20;

/// Counts of a checked archive's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ZipSummary {
    /// Regular files.
    pub files: u64,
    /// Directories, also those without an entry of their own; the root is not counted.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of all files and link targets together.
    pub unpacked_bytes: u64,
}

/// Why an archive is refused, or could not be read or streamed.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// The root has no regular file `Dockerfile`.
    #[error("The archive has no Dockerfile at its root{0}.")]
    NoDockerfile(String),
    /// A name cannot be a path below the root.
    #[error("The archive's entry \"{name}\" is refused: {why}.")]
    Name {
        /// The name, escaped and cut.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A link has a target that no link can have.
    #[error("The archive's link \"{name}\" to \"{target}\" is refused: {why}.")]
    Link {
        /// Path of the link.
        name: String,
        /// Target of the link.
        target: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path occurs twice.
    #[error("The archive has \"{name}\" twice.")]
    Duplicate {
        /// The path.
        name: String,
    },
    /// A path's parent is a file or a link.
    #[error("The archive's entry \"{name}\" lies below something that is not a directory.")]
    BelowNoDirectory {
        /// The path.
        name: String,
    },
    /// An entry is a device, pipe or socket, or contradicts itself about its kind.
    #[error("The archive's entry \"{name}\" is {what}; files, directories and symbolic links are allowed.")]
    Kind {
        /// The path.
        name: String,
        /// Description of its kind.
        what: &'static str,
    },
    /// An entry is encrypted, or compressed with a method that is not supported.
    #[error(
        "The archive's entry \"{name}\" is {how}; write the archive with deflate and without a password."
    )]
    Method {
        /// The path.
        name: String,
        /// Description of the method.
        how: String,
    },
    /// An entry's content is damaged.
    #[error("The archive's entry \"{name}\" is damaged: {why}.")]
    Content {
        /// The path.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Two entries share bytes of the archive.
    #[error("The archive's entries overlap at \"{name}\".")]
    Overlap {
        /// One of the entries.
        name: String,
    },
    /// The archive's structure is damaged, or the file is no archive.
    #[error("The archive cannot be read: {0}.")]
    Damaged(String),
    /// The archive has more entries than allowed.
    #[error(
        "The archive has more than {limit} entries, or their names are too long; leave out of it what the build does not need, also what its \
         .dockerignore names"
    )]
    TooManyEntries {
        /// [`Limits::max_entries`]
        limit: u64,
    },
    /// The archive's directory is larger than allowed.
    #[error("The archive's directory takes more than {limit} bytes.")]
    DirectoryTooLarge {
        /// [`Limits::max_directory_bytes`]
        limit: u64,
    },
    /// The archive unpacks to more bytes than allowed.
    #[error("The archive unpacks to more than {limit} bytes.")]
    TooLarge {
        /// [`Limits::max_unpacked_bytes`]
        limit: u64,
    },
    /// The archive is compressed more than allowed.
    #[error("The archive unpacks to more than {limit} times its size.")]
    Bomb {
        /// [`Limits::max_ratio`]
        limit: u64,
    },
    /// The file of the archive cannot be read.
    #[error("reading the archive's file: {0}")]
    Read(#[source] io::Error),
    /// The tar cannot be written: its reader has closed the stream, or its disk is full.
    #[error("passing on the archive as a tar: {0}")]
    Write(#[source] io::Error),
}

impl ZipError {
    /// The failure code of a build with this error.
    #[must_use]
    pub fn code(&self) -> FailureCode {
        match self {
            Self::NoDockerfile(_) => FailureCode::ArchiveDockerfileNotFound,
            Self::Read(error) | Self::Write(error) if is_full(error) => FailureCode::DiskStorageFull,
            Self::Read(_) | Self::Write(_) => FailureCode::InternalPlatformError,
            _ => FailureCode::ArchiveInvalid,
        }
    }
}

/// Reads and checks a whole archive, also that it has a `Dockerfile`.
///
/// Blocks as long as unpacking takes: call it on a thread for blocking work.
///
/// # Errors
///
/// The archive is refused, or its file cannot be read.
pub fn check(path: &Path, limits: &Limits) -> Result<ZipSummary, ZipError> {
    check_file(&File::open(path).map_err(ZipError::Read)?, limits, &|| ())
}

/// Like [`check`], for an open file; calls `goes_on` now and then.
pub(super) fn check_file(file: &File, limits: &Limits, goes_on: &dyn Fn()) -> Result<ZipSummary, ZipError> {
    let mut archive = Archive::open(file, limits)?;
    match archive.tree().kind(DOCKERFILE) {
        Some(Kind::File) => {}
        Some(Kind::Directory) => return Err(ZipError::NoDockerfile(": there it is a directory".to_owned())),
        Some(Kind::Link) => return Err(ZipError::NoDockerfile(": there it is a symbolic link".to_owned())),
        None => return Err(ZipError::NoDockerfile(elsewhere(archive.tree()))),
    }
    let mut buffer = vec![0; 128 << 10];
    let mut since = 0;
    let unpacked_bytes = archive.for_each(|_, _, body| {
        if let Body::File(content) = body {
            loop {
                let count = content.read(&mut buffer).map_err(ZipError::Read)?;
                if count == 0 {
                    break;
                }
                since += count;
                if since >= GOES_ON_EVERY {
                    since = 0;
                    goes_on();
                }
            }
        }
        Ok(())
    })?;
    Ok(summary(&archive, unpacked_bytes))
}

/// The file that every archive has at its root.
const DOCKERFILE: &str = "Dockerfile";

/// Where the Dockerfile is instead, and what to do: most archives without one have it in the folder that was archived.
fn elsewhere(tree: &Tree) -> String {
    let in_folder = |name: &&str| tree.kind(&format!("{name}/{DOCKERFILE}")) == Some(Kind::File);
    if let Some(folder) = tree.roots().find(in_folder) {
        let folder = shown(folder);
        return format!(
            ", but {folder}/{DOCKERFILE}: archive what is in {folder} instead of the folder itself, as (cd {folder} && zip -ry ../{folder}.zip .) does"
        );
    }
    if let Some(name) = tree.roots().find(|name| name.eq_ignore_ascii_case(DOCKERFILE)) {
        return format!(", but {}: write its name as {DOCKERFILE}", shown(name));
    }
    // What macOS adds is no content.
    let mut names = tree.roots().filter(|name| !matches!(*name, "__MACOSX" | ".DS_Store"));
    match (names.next(), names.next()) {
        (Some(folder), None) if tree.kind(folder) == Some(Kind::Directory) => {
            let folder = shown(folder);
            format!(", and its only folder has no {folder}/{DOCKERFILE} either")
        }
        _ => String::new(),
    }
}

/// Bytes after which a check says that it goes on.
const GOES_ON_EVERY: usize = 64 << 20;

fn summary(archive: &Archive<'_>, unpacked_bytes: u64) -> ZipSummary {
    let tree = archive.tree();
    ZipSummary {
        files: tree.count(Kind::File),
        directories: tree.count(Kind::Directory),
        links: tree.count(Kind::Link),
        unpacked_bytes,
    }
}

/// Writes an archive as a tar: entries sorted, parents before children, owner and group 0, the archive's modes and times.
/// The same archive gives the same bytes. Refuses the same archives as [`check`], but does not require a `Dockerfile`.
///
/// Blocks: call it on a thread for blocking work. After an error, the tar has no end, and its reader must not treat it as
/// complete: the caller has to pass the error on.
///
/// # Errors
///
/// The archive is refused, or its file or `out` fails.
pub fn write_tar(path: &Path, limits: &Limits, out: impl Write) -> Result<ZipSummary, ZipError> {
    write_tar_of(&File::open(path).map_err(ZipError::Read)?, limits, out)
}

/// Like [`write_tar`], for an open file.
pub(super) fn write_tar_of(file: &File, limits: &Limits, out: impl Write) -> Result<ZipSummary, ZipError> {
    to_tar::write(&mut Archive::open(file, limits)?, out)
}
