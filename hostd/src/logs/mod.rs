//! Log groups and streams on disk.
//!
//! ```text
//! LOGS/ACCOUNT/GROUP/STREAM/SEGMENT.log      (names: names.rs)
//! ```
//!
//! A stream is a row of *segments*, files that lines are appended to until they are full. A line has a time that grows within its
//! stream by at least a nanosecond: the time that its writer gave it, unless that is before the line ahead of it, or off the
//! host's clock. Hence a segment is named after its first line's time, streams are merged by comparing times, and a
//! [`Position`] – a time and a stream – stays good while lines are added and segments removed.
//!
//! Lines reach the kernel before they are acknowledged, and are not fsynced: what a power failure takes of them, it takes with the
//! microVMs that wrote them. What a killed daemon has half written is cut off when the stream is opened again.
//!
//! * [`config`] – limits; [`names`] – names of groups and streams, and how they become file names; [`error`]
//! * `record` – a line in a file; `segment` – a file
//! * [`writer`] – appending; `handles` – how many files are open
//! * `cursor` – a stream forwards and backwards; [`read`] – pages of a group; [`tail`] – the end of a group, and what comes
//! * [`list`] – groups and streams; `sweep` – what is too old or too much

pub mod config;
mod cursor;
pub mod error;
mod handles;
pub mod list;
pub mod names;
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
pub use config::LogsConfig;
pub use error::LogError;
use handles::Handles;
pub use list::{GroupInfo, StreamInfo};
pub use read::{LogEvent, Page, Position, Query};
pub use record::Source;
pub use sweep::Swept;
use writer::Stream;
pub use writer::{Line, Writer};

/// All logs of a host. Copies are cheap and reach the same.
#[derive(Debug, Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

/// What all copies, writers and readers share.
#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    config: LogsConfig,
    clock: Clock,
    /// Groups that are written or followed, by account and name.
    groups: Mutex<HashMap<(String, String), Weak<Group>>>,
    handles: Handles,
    /// What the last sweep has found.
    bytes: AtomicU64,
    /// A segment is full: somebody should look whether its group is too large.
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
    /// The logs in `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// [`LogError::Config`], or [`LogError::Open`] when the folder cannot be made.
    pub fn open(folder: &Path, config: LogsConfig, clock: Clock) -> Result<Self, LogError> {
        config.check().map_err(LogError::Config)?;
        segment::make_folder(folder).map_err(|source| LogError::Open { path: folder.to_owned(), source })?;
        let shared = Shared {
            folder: folder.to_owned(),
            handles: Handles::new(config.max_open_files),
            config,
            clock,
            groups: Mutex::default(),
            bytes: AtomicU64::new(0),
            segment_full: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Bytes of all segments, as the last sweep has found them; 0 before the first.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// A group that is about to be written or followed.
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

/// The lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(poisoned)
}
