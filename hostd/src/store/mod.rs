//! Durable state: tables of keys and values, changed by atomic batches.
//!
//! A [`Store`] is simple and blocking: RocksDB, or memory ([`MemoryStore`]) for tests; both pass the same contract
//! tests. [`Db`] is what the daemon uses: commits of all tasks go through one thread, which writes what is waiting as one group
//! with one fsync. A commit that was answered is durable.

mod db;
mod memory;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod schema;
// Its tests need no RocksDB, and run natively.
#[cfg(any(test, feature = "rocksdb"))]
mod torn_log;

use std::path::Path;

pub use db::Db;
pub use memory::MemoryStore;
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksOptions, RocksStore};
pub use schema::meta;

/// The tables. Keys are ordered bytewise within a table; see [`crate::records`] for what they are.
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
    /// Which microVMs use which files.
    ArtifactUses,
    /// Client tokens.
    ClientTokens,
    /// What is to be removed, by time.
    Expiries,
}

impl Table {
    /// All of them.
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

    /// Its name on disk.
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

/// What must hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is nothing under the key.
    Absent(Table, Vec<u8>),
    /// There is exactly this value under the key.
    Value(Table, Vec<u8>, Vec<u8>),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key, if it is there.
    Delete(Table, Vec<u8>),
}

/// Changes that happen together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold, all of it.
    pub expects: Vec<Expect>,
    /// What is changed, in this order.
    pub writes: Vec<Write>,
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

    /// Is applied only if there is nothing under the key.
    #[must_use]
    pub fn expect_absent(mut self, table: Table, key: Vec<u8>) -> Self {
        self.expects.push(Expect::Absent(table, key));
        self
    }

    /// Is applied only if the key has this value.
    #[must_use]
    pub fn expect_value(mut self, table: Table, key: Vec<u8>, value: Vec<u8>) -> Self {
        self.expects.push(Expect::Value(table, key, value));
        self
    }

    /// This batch and another one as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.expects.extend(other.expects);
        self.writes.extend(other.writes);
        self
    }
}

/// Which part of a table to read: keys that begin with `prefix`, in order.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    /// The table.
    pub table: Table,
    /// What keys begin with.
    pub prefix: &'a [u8],
    /// Only keys behind this one.
    pub after: Option<&'a [u8]>,
    /// At most so many.
    pub limit: usize,
}

/// Why the store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// What is on disk is damaged.
    #[error(
        "the store in {path} is damaged: {why}; restore a backup (`hearthd store restore`), or move the folder away"
    )]
    Damaged {
        /// Its folder.
        path: String,
        /// What was found.
        why: String,
    },
    /// Another process has it.
    #[error("the store in {path} is in use: is another hearthd running?")]
    InUse {
        /// Its folder.
        path: String,
    },
    /// It was written by a newer release.
    #[error(
        "the store in {path} has schema version {found}, and this release knows {known}: use a newer release"
    )]
    TooNew {
        /// Its folder.
        path: String,
        /// The version it has.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The system, or the database.
    #[error("cannot {what} the store: {why}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What happened.
        why: String,
    },
}

/// Why a batch was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold; nothing was changed.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The store failed; nothing was changed as far as is known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store. All of it blocks.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keys and values in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError>;

    /// Applies batches one after another, each as a whole or not at all, and makes them durable together. A batch sees what
    /// the batches before it have changed. One result per batch, in order.
    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>>;

    /// Writes a consistent copy into the folder `to`, which must not exist; its size in bytes.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is left at `to` then.
    fn back_up(&self, to: &Path) -> Result<u64, StoreError>;
}
