//! Errors of logs.

use std::io;
use std::path::PathBuf;

use super::pattern::PatternError;
use crate::setting::Problem;
use crate::turns::Busy;

/// Why an operation on logs failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] Problem),
    /// The name cannot be that of a folder or file.
    #[error("a log group or stream cannot be named like this: it must have 1 to 2048 bytes, and has {0}")]
    Name(usize),
    /// A folder cannot be made or read.
    #[error("cannot use {path} for logs: {source}")]
    Open {
        /// Path of the folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A line was not stored, and nothing of it is left. Later lines may be stored.
    #[error(
        "cannot write to the log stream {stream} in {path}: {source}; lines are taken again when this is mended"
    )]
    Write {
        /// Name of the stream.
        stream: String,
        /// Folder of the stream.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The account has no such group.
    #[error("the log group {0} does not exist")]
    NoGroup(String),
    /// The group has no such stream.
    #[error("the log stream {stream} does not exist in the log group {group}")]
    NoStream {
        /// Group.
        group: String,
        /// Stream.
        stream: String,
    },
    /// The text to search for is too long.
    #[error("lines can be searched for at most {0} bytes")]
    Filter(usize),
    /// Too many reads of the account wait.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The filter pattern is invalid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}
