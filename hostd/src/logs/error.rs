//! What can go wrong with logs.

use std::io;
use std::path::PathBuf;

/// Why something about logs did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// No folder or file can have this name.
    #[error("a log group or stream cannot be named like this: it must have 1 to 2048 bytes, and has {0}")]
    Name(usize),
    /// A folder cannot be made, or what lies in it cannot be looked at.
    #[error("cannot use {path} for logs: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line was not stored, and nothing of it is left. The next one may be.
    #[error(
        "cannot write to the log stream {stream} in {path}: {source}; lines are taken again when this is mended"
    )]
    Write {
        /// Which stream.
        stream: String,
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no such group in the account.
    #[error("the log group {0} does not exist")]
    NoGroup(String),
    /// There is no such stream in the group.
    #[error("the log stream {stream} does not exist in the log group {group}")]
    NoStream {
        /// Group.
        group: String,
        /// Stream.
        stream: String,
    },
    /// What lines are to contain is too long.
    #[error("lines can be searched for at most {0} bytes")]
    Filter(usize),
}
