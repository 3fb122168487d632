//! Packs a folder into a zip with the same files: for uploads by clients, and for builds by hand.
//!
//! * [`ignore`] – `.dockerignore`: what is left out, by Docker's rules
//! * [`listing`] – the folder's files without those: what is left out is neither judged nor walked
//! * [`mod@pack`] – the zip
#![forbid(unsafe_code)]

pub mod ignore;
mod listing;
mod pack;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use ignore::IgnoreError;
pub use listing::{Special, SpecialKind};
pub use pack::{Packed, pack, pack_within};

/// What a host accepts of a zip. Folders with more are refused before anything is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of all files, unpacked.
    pub unpacked_bytes: u64,
    /// Bytes of the zip's directory: names, and some 50 bytes for each.
    pub directory_bytes: u64,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { entries: u64::MAX, unpacked_bytes: u64::MAX, directory_bytes: u64::MAX };
}

/// Progress of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The folder is being walked.
    Listing {
        /// Files, folders and links so far.
        entries: u64,
    },
    /// Files are being read.
    Packing {
        /// Bytes so far.
        bytes: u64,
        /// Bytes that there will be.
        total: u64,
    },
}

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A name, or a link's target, cannot be part of a zip.
    #[error("{} {what}; rename it, or leave it out in .dockerignore", path.display())]
    Name {
        /// The file or link.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The ignore file is wrong.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
    /// The folder has more than the host accepts.
    #[error(
        "{} has {found} {what}, and the host accepts {limit}; leave out in .dockerignore what the build does not need",
        folder.display()
    )]
    Limit {
        /// The folder.
        folder: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// The zip cannot be written.
    #[error("writing the zip: {0}")]
    Write(#[source] io::Error),
}

impl PackError {
    /// Makes the error for a file that cannot be read.
    fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.into(), source }
    }
}
