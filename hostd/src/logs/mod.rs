//! Log groups and streams on disk.
//!
//! ```text
//! LOGS/ACCOUNT/GROUP/STREAM/SEGMENT.log      (names: names.rs)
//! ```
//!
//! A stream is a sequence of *segments*, files to which lines are appended until they are full. The time of a line
//! grows within its stream by at least a nanosecond: it is the time that the writer gave, unless that is before the
//! previous line's time, in the future, or more than a day in the past. Hence a segment is named after its first
//! line's time, streams are merged by comparing times, and a [`Position`] – a time and a stream – stays valid while
//! lines are added and segments removed.
//!
//! A line is in the kernel's page cache before it is acknowledged, and is not fsynced: a power failure that loses
//! lines also stops the microVMs that wrote them. A line that a killed daemon has half written is cut off when the
//! stream is opened again.
//!
//! * [`config`] – limits; [`names`] – names of groups and streams, and their file names; [`error`] – errors
//! * `record` – a line in a file; `segment` – a file of a stream
//! * [`writer`] – appending; `handles` – limits the number of open files
//! * `cursor` – reading a stream forwards and backwards; [`read`] – pages of a group; [`tail`] – the end of a group,
//!   and new lines
//! * [`pattern`] – filter patterns of CloudWatch Logs; `filter` – which lines are read
//! * [`list`] – lists of groups and streams; `sweep` – removal of segments that are too old or too many

pub mod config;
mod cursor;
pub mod error;
mod filter;
mod handles;
pub mod list;
pub mod names;
pub mod pattern;
pub mod read;
mod record;
mod segment;
mod sweep;
pub mod tail;
#[cfg(test)]
mod tests;
pub mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::panics::poisoned;
use crate::turns::{AccountTurns, Limits, Turns};
pub use config::LogsConfig;
pub use error::LogError;
use handles::Handles;
pub use list::{GroupInfo, StreamInfo, StreamKey, StreamOrder};
pub use read::{LogEvent, Page, Position, Query, Streams};
pub use record::Source;
pub use sweep::Swept;
use writer::Stream;
pub use writer::{Line, Writer};

/// All logs of a host. Clones are cheap and share the same logs.
#[derive(Debug, Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

/// State that all clones, writers and readers share.
#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    config: LogsConfig,
    clock: Clock,
    /// Groups that are written or followed, by account and name.
    groups: Mutex<HashMap<(String, String), Weak<Group>>>,
    handles: Handles,
    /// Turns at reading files for clients.
    turns: Turns,
    /// Bytes of all segments, as the last sweep has found them.
    bytes: AtomicU64,
    /// Notified when a segment is full, since its group may have become too large.
    segment_full: Notify,
}

/// A group that is written or followed.
#[derive(Debug)]
struct Group {
    name: String,
    folder: PathBuf,
    /// Streams that are written, by name.
    streams: Mutex<HashMap<Arc<str>, Weak<Stream>>>,
    followers: Mutex<Vec<Weak<tail::Follower>>>,
}

impl Logs {
    /// Opens the logs in `folder`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`LogError::Config`], or [`LogError::Open`] if the folder cannot be created.
    pub fn open(folder: &Path, config: LogsConfig, clock: Clock) -> Result<Self, LogError> {
        config.check()?;
        segment::make_folder(folder).map_err(|source| LogError::Open { path: folder.to_owned(), source })?;
        let shared = Shared {
            folder: folder.to_owned(),
            handles: Handles::new(config.max_open_files),
            turns: Turns::new(Limits::FILES),
            config,
            clock,
            groups: Mutex::default(),
            bytes: AtomicU64::new(0),
            segment_full: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Days after which lines are removed; `None` if they are kept until there are too many.
    #[must_use]
    pub fn retention_days(&self) -> Option<u32> {
        Some(self.shared.config.retention_days).filter(|days| *days > 0)
    }

    /// Bytes of all segments, as the last sweep has found them; 0 before the first.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A group, to be written or followed.
    fn group(&self, account: &str, group: &str) -> Result<Arc<Group>, LogError> {
        let folder = self.group_folder(account, group)?;
        let mut groups = lock(&self.groups);
        let entry = groups.entry((account.to_owned(), group.to_owned())).or_default();
        if let Some(known) = entry.upgrade() {
            return Ok(known);
        }
        let new = Arc::new(Group {
            name: group.to_owned(),
            folder,
            streams: Mutex::default(),
            followers: Mutex::default(),
        });
        *entry = Arc::downgrade(&new);
        Ok(new)
    }

    fn account_folder(&self, account: &str) -> Result<PathBuf, LogError> {
        Ok(self.folder.join(names::file_name(account)?))
    }

    fn group_folder(&self, account: &str, group: &str) -> Result<PathBuf, LogError> {
        Ok(self.account_folder(account)?.join(names::file_name(group)?))
    }
}

/// Locks a mutex; a poisoned one aborts the daemon.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(poisoned)
}
