//! Durable state: tables of keys and values, changed by atomic batches.
//!
//! A [`Store`] is simple and blocking: RocksDB, or memory ([`MemoryStore`]) for tests; both pass the same contract
//! tests. The daemon uses a [`Db`]: commits of all tasks go through one thread, which writes all waiting batches as
//! one group with one fsync. A commit that has returned successfully is durable.

mod db;
mod memory;
mod over;
mod reserve;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod schema;
// The tests of `torn_log` need no RocksDB, and run natively.
#[cfg(any(test, feature = "rocksdb"))]
mod torn_log;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use db::Db;
pub use memory::MemoryStore;
pub(crate) use over::Over;
pub use reserve::Reserved;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksOptions, RocksStore};
pub use schema::meta;

/// The tables. Keys are ordered bytewise within a table; [`crate::records`] lists the keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Schema version, keys of cursors and tokens.
    Meta,
    /// MicroVMs by account and id.
    Microvms,
    /// MicroVMs by account and time, newest first.
    MicrovmsByTime,
    /// MicroVMs by account, image and time, newest first.
    MicrovmsByImage,
    /// Images by account and name.
    Images,
    /// Versions by account, image and number, newest first.
    Versions,
    /// Files of builds.
    Artifacts,
    /// Which microVMs use the files of which build.
    ArtifactUses,
    /// Client tokens.
    ClientTokens,
    /// Records to be removed, by time.
    Expiries,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 10] = [
        Self::Meta,
        Self::Microvms,
        Self::MicrovmsByTime,
        Self::MicrovmsByImage,
        Self::Images,
        Self::Versions,
        Self::Artifacts,
        Self::ArtifactUses,
        Self::ClientTokens,
        Self::Expiries,
    ];

    /// The table's name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Microvms => "microvms",
            Self::MicrovmsByTime => "microvms_by_time",
            Self::MicrovmsByImage => "microvms_by_image",
            Self::Images => "images",
            Self::Versions => "versions",
            Self::Artifacts => "artifacts",
            Self::ArtifactUses => "artifact_uses",
            Self::ClientTokens => "client_tokens",
            Self::Expiries => "expiries",
        }
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A condition for applying a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent(Table, Vec<u8>),
    /// The key has exactly this value.
    Value(Table, Vec<u8>, Vec<u8>),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key, if it exists.
    Delete(Table, Vec<u8>),
}

/// Changes that happen together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Conditions, all of which must hold.
    pub expects: Vec<Expect>,
    /// Changes, in this order.
    pub writes: Vec<Write>,
    /// Whether this ends or deletes something, and so is stored on a full disk, too ([`Reserved`]).
    pub ends: bool,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    #[must_use]
    pub fn put(mut self, table: Table, key: Vec<u8>, value: Vec<u8>) -> Self {
        self.writes.push(Write::Put(table, key, value));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, table: Table, key: Vec<u8>) -> Self {
        self.writes.push(Write::Delete(table, key));
        self
    }

    /// Adds the condition that the key does not exist.
    #[must_use]
    pub fn expect_absent(mut self, table: Table, key: Vec<u8>) -> Self {
        self.expects.push(Expect::Absent(table, key));
        self
    }

    /// Adds the condition that the key has this value.
    #[must_use]
    pub fn expect_value(mut self, table: Table, key: Vec<u8>, value: Vec<u8>) -> Self {
        self.expects.push(Expect::Value(table, key, value));
        self
    }

    /// Marks this batch as one that ends or deletes something.
    #[must_use]
    pub fn ending(mut self) -> Self {
        self.ends = true;
        self
    }

    /// Combines this batch and another one into one, which ends something if one of the two does.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ends |= other.ends;
        self.expects.extend(other.expects);
        self.writes.extend(other.writes);
        self
    }
}

/// The part of a table to read: keys that begin with `prefix`, in order.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    /// The table.
    pub table: Table,
    /// Prefix of the keys.
    pub prefix: &'a [u8],
    /// Only keys after this one.
    pub after: Option<&'a [u8]>,
    /// Most entries to return.
    pub limit: usize,
}

/// Why an operation of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store on disk is damaged.
    #[error(
        "the store in {path} is damaged: {why}; restore a backup (`hearthd store restore`), or move the folder away"
    )]
    Damaged {
        /// Folder of the store.
        path: String,
        /// What is damaged.
        why: String,
    },
    /// Another process has opened the store.
    #[error("the store in {path} is in use: is another hearthd running?")]
    InUse {
        /// Folder of the store.
        path: String,
    },
    /// The store was written by a newer release.
    #[error(
        "the store in {path} has schema version {found}, and this release knows {known}: use a newer release"
    )]
    TooNew {
        /// Folder of the store.
        path: String,
        /// Schema version of the store.
        found: u32,
        /// Newest schema version that this release knows.
        known: u32,
    },
    /// The disk has no room for what is to be stored.
    #[error(
        "the disk of the store in {path} is full: terminate microVMs, delete images or artifacts, or enlarge the disk"
    )]
    NoRoom {
        /// Folder of the store.
        path: String,
    },
    /// The database reported an error.
    #[error("cannot {what} the store: {source}")]
    Failed {
        /// The operation that failed.
        what: &'static str,
        /// The error of the database.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The operating system reported an error.
    #[error("cannot {what} the store: {path}: {source}", path = .path.display())]
    File {
        /// The operation that failed.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The thread that commits has ended, for example because it could not be started.
    #[error("cannot write to the store: its commit thread has ended; the daemon's log says why")]
    NoCommits,
    /// The store was changed by somebody else while it was migrated.
    #[error("cannot migrate the store: it was changed on its way from version {before} to {after}")]
    Migration {
        /// Schema version before.
        before: u32,
        /// Schema version after.
        after: u32,
    },
    /// There is something at the place for a backup.
    #[error("cannot back up the store: {path} exists already", path = .0.display())]
    BackupExists(PathBuf),
    /// A backup cannot be restored.
    #[error("cannot restore the store: {0}")]
    Restore(#[from] RestoreError),
    /// A store that is kept in memory has no backups.
    #[error("cannot back up the store: it is kept in memory only")]
    InMemory,
}

/// Why a backup cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The folder holds no store.
    #[error("there is no backup in {path}", path = .0.display())]
    NoBackup(PathBuf),
    /// The folder holds a store in use, whose files may change.
    #[error("{path} is a store and not a backup of one", path = .0.display())]
    NotABackup(PathBuf),
    /// There is a store already.
    #[error("{path} exists: stop hearthd and move it away first", path = .0.display())]
    Exists(PathBuf),
    /// The backup is damaged.
    #[error("the backup in {path} is damaged: {why}; use another one", path = .path.display())]
    Damaged {
        /// Folder of the backup.
        path: PathBuf,
        /// What is damaged.
        why: String,
    },
}

/// Why a batch was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold; nothing was changed.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The store failed; as far as is known, nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store. All methods block.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The location of the store, for messages.
    fn place(&self) -> String;

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads keys and values in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError>;

    /// Applies batches one after another, each as a whole or not at all, and makes them durable together. A batch sees what
    /// the batches before it have changed. One result per batch, in order.
    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>>;

    /// Writes a consistent copy to the folder `to`, which must not exist; returns its size in bytes.
    ///
    /// # Errors
    /// [`StoreError`]; in that case nothing is left at `to`.
    fn back_up(&self, to: &Path) -> Result<u64, StoreError>;
}
