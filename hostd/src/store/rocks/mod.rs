//! The store on disk: RocksDB in one folder, one column family per table.
//!
//! * **Commits.** A group of batches becomes one write batch, so one record in RocksDB's write-ahead log (WAL) and one fsync.
//!   Expectations are checked before that, against the database and what the group has changed so far.
//! * **Crashes.** The WAL is replayed at the next start. An incomplete record at its end is a group that was never
//!   acknowledged, and is dropped, whether it is cut off or has a hole (`torn_log.rs`). Anything else that cannot be
//!   read is damage: the store refuses to open rather than to lose acknowledged commits.
//! * **Damage.** Every block has a checksum. [`RocksStore::open`] verifies all of them, so that damage is found
//!   before the first request; [`backup`] describes recovery.
//! * **Schema.** [`super::schema`] migrates an older store when it is opened, and refuses a newer one.
//! * **A full disk.** What cannot be written is refused ([`StoreError::NoRoom`]). RocksDB accepts nothing more until it has found, at
//!   intervals of five seconds, as much room as one of its write buffers has; [`super::Reserved`] keeps that room.

pub mod backup;
mod options;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rocksdb::statistics::Histogram;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{Batch, CommitError, Entry, Expect, Scan, Store, StoreError, Table, Write, schema, torn_log};
use crate::panics::poisoned;
pub use options::RocksOptions;

/// Bytes to read ahead when a whole table is read.
const READ_AHEAD: usize = 2 << 20;

/// The system's words for a full disk, which are all that RocksDB's interface for C leaves of them. RocksDB goes on by itself
/// when there is room again, and repeats them until then.
const NO_ROOM: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// A RocksDB store.
pub struct RocksStore {
    path: PathBuf,
    db: DB,
    // Holds the statistics.
    options: Options,
    // The check of a group's expectations and its write must be one step.
    committing: Mutex<()>,
    backing_up: Mutex<()>,
}

/// Durations of the fsyncs of commits since the store was opened, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Syncs {
    /// Number of fsyncs.
    pub count: u64,
    /// Mean duration.
    pub mean: f64,
    /// Median duration.
    pub median: f64,
    /// 99th percentile of the durations.
    pub p99: f64,
    /// Longest duration.
    pub max: f64,
}

impl RocksStore {
    /// Opens the store in a folder, or creates an empty one if there is none. Only its owner may read the folder. A
    /// store that an older release has written is migrated.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process, or this one, has opened it; [`StoreError::Damaged`];
    /// [`StoreError::TooNew`]; [`StoreError::Failed`] for errors of the operating system.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        let exists = exists(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_failed("open", path))?;
        let mut database = options::database(options);
        database.create_if_missing(!exists);
        let mut names: BTreeSet<String> = Table::ALL.iter().map(|table| table.name().to_owned()).collect();
        if exists {
            // A newer release may have more tables. RocksDB opens all or none, and the schema version is inside the
            // store.
            names.extend(DB::list_cf(&database, path).map_err(|error| open_failed(path, &error))?);
        }
        let table = options::table(options);
        let open = || {
            let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, table.clone()));
            DB::open_cf_descriptors(&database, path, families).map_err(|error| open_failed(path, &error))
        };
        let db = match open() {
            Err(damaged @ StoreError::Damaged { .. }) => {
                let torn = torn_log::remove_torn_end(path).map_err(io_failed("open", path))?;
                let Some(bytes) = torn else { return Err(damaged) };
                tracing::warn!(
                    store = %path.display(),
                    bytes,
                    "the power has failed during a commit, which was never acknowledged: it is dropped"
                );
                open()?
            }
            opened => opened?,
        };
        let store = Self {
            path: path.to_owned(),
            db,
            options: database,
            committing: Mutex::new(()),
            backing_up: Mutex::new(()),
        };
        if options.verify {
            store.verify()?;
        }
        schema::migrate(&store)?;
        Ok(store)
    }

    /// Reads everything and verifies it against its checksums.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Failed`].
    pub fn verify(&self) -> Result<(), StoreError> {
        for table in Table::ALL {
            let mut options = ReadOptions::default();
            options.set_verify_checksums(true);
            options.fill_cache(false);
            options.set_readahead_size(READ_AHEAD);
            let mut entries = self.db.raw_iterator_cf_opt(self.family(table)?, options);
            entries.seek_to_first();
            while entries.valid() {
                entries.next();
            }
            entries.status().map_err(|error| self.failed("read", &error))?;
        }
        Ok(())
    }

    /// Durations of the fsyncs of commits.
    #[must_use]
    pub fn syncs(&self) -> Syncs {
        let data = self.options.get_histogram_data(Histogram::WalFileSyncMicros);
        Syncs {
            count: data.count(),
            mean: data.average(),
            median: data.median(),
            p99: data.p99(),
            max: data.max(),
        }
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(table.name()).ok_or_else(|| StoreError::Damaged {
            path: self.place(),
            why: format!("table {} is missing", table.name()),
        })
    }

    fn failed(&self, what: &'static str, error: &rocksdb::Error) -> StoreError {
        if error.kind() == ErrorKind::Corruption {
            return StoreError::Damaged { path: self.place(), why: error.to_string() };
        }
        if NO_ROOM.iter().any(|words| error.to_string().contains(words)) {
            return StoreError::NoRoom { path: self.place() };
        }
        StoreError::Failed { what, source: Arc::new(error.clone()) }
    }

    fn holds<'a>(&self, changed: &Changed<'a>, batch: &'a Batch) -> Result<bool, StoreError> {
        for expect in &batch.expects {
            let (table, key, wanted) = match expect {
                Expect::Absent(table, key) => (*table, key.as_slice(), None),
                Expect::Value(table, key, value) => (*table, key.as_slice(), Some(value.as_slice())),
            };
            let held = match changed.get(&(table, key)) {
                Some(value) => *value == wanted,
                None => {
                    self.db
                        .get_pinned_cf(self.family(table)?, key)
                        .map_err(|error| self.failed("read", &error))?
                        .as_deref()
                        == wanted
                }
            };
            if !held {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn add(&self, group: &mut WriteBatch, batch: &Batch) -> Result<(), StoreError> {
        // All tables are looked up before the first write is added: a batch is added as a whole.
        let families = batch
            .writes
            .iter()
            .map(|write| match write {
                Write::Put(table, ..) | Write::Delete(table, _) => self.family(*table),
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (family, write) in families.into_iter().zip(&batch.writes) {
            match write {
                Write::Put(_, key, value) => group.put_cf(family, key, value),
                Write::Delete(_, key) => group.delete_cf(family, key),
            }
        }
        Ok(())
    }

    fn write(&self, group: WriteBatch) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(group, &options).map_err(|error| self.failed("write to", &error))
    }
}

/// Changes by the batches of a group so far: `None` is a key that was removed.
type Changed<'a> = HashMap<(Table, &'a [u8]), Option<&'a [u8]>>;

impl Store for RocksStore {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(table)?, key).map_err(|error| self.failed("read", &error))
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError> {
        let mut options = ReadOptions::default();
        if let Some(end) = end_of(scan.prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut entries = self.db.raw_iterator_cf_opt(self.family(scan.table)?, options);
        match scan.after {
            // The smallest key after `after`.
            Some(after) if after >= scan.prefix => entries.seek([after, &[0]].concat()),
            _ => entries.seek(scan.prefix),
        }
        let mut found = Vec::new();
        while found.len() < scan.limit
            && let Some((key, value)) = entries.item()
        {
            found.push((key.to_vec(), value.to_vec()));
            entries.next();
        }
        entries.status().map_err(|error| self.failed("read", &error))?;
        Ok(found)
    }

    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        let _alone = self.committing.lock().unwrap_or_else(poisoned);
        // Changes after the last batch with expectations need not be recorded: a group that fills a store has no
        // expectations.
        let last_expecting = batches.iter().rposition(|batch| !batch.expects.is_empty()).unwrap_or(0);
        let mut changed = Changed::new();
        let mut group = WriteBatch::default();
        let mut results = Vec::with_capacity(batches.len());
        for (number, batch) in batches.iter().enumerate() {
            results.push(match self.holds(&changed, batch) {
                Ok(true) => self.add(&mut group, batch).map_err(CommitError::from),
                Ok(false) => Err(CommitError::Conflict),
                Err(error) => Err(error.into()),
            });
            if number < last_expecting && results.last().is_some_and(Result::is_ok) {
                changed.extend(batch.writes.iter().map(|write| match write {
                    Write::Put(table, key, value) => ((*table, key.as_slice()), Some(value.as_slice())),
                    Write::Delete(table, key) => ((*table, key.as_slice()), None),
                }));
            }
        }
        if let Err(error) = self.write(group) {
            // Conflicts may have been caused by writes of this group that failed.
            return batches.iter().map(|_| Err(error.clone().into())).collect();
        }
        results
    }

    fn back_up(&self, to: &Path) -> Result<u64, StoreError> {
        let _alone = self.backing_up.lock().unwrap_or_else(poisoned);
        // Damage is found now, while there may still be an older backup, and not when this backup is needed.
        self.verify()?;
        backup::write(&self.db, to)
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Whether there is a store in the folder. RocksDB takes a folder without a `CURRENT` file for an empty one, and
/// would create a new store over the remains of a damaged one.
fn exists(path: &Path) -> Result<bool, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_failed("open", path)(error)),
    };
    let mut data = None;
    for entry in entries {
        let entry = entry.map_err(io_failed("open", path))?;
        let name = entry.file_name();
        if name == "CURRENT" {
            return Ok(true);
        }
        // A store whose creation was interrupted has neither kind of file.
        if Path::new(&name).extension().is_some_and(|kind| kind == "sst" || kind == "log") {
            data = Some(name);
        }
    }
    match data {
        None => Ok(false),
        Some(name) => Err(StoreError::Damaged {
            path: path.display().to_string(),
            why: format!("there is {} but no CURRENT", name.display()),
        }),
    }
}

fn open_failed(path: &Path, error: &rocksdb::Error) -> StoreError {
    let why = error.to_string();
    let path = path.display().to_string();
    let missing = why.contains("No such file or directory");
    match error.kind() {
        // The messages for a lock of another process, and of this one.
        ErrorKind::IOError
            if why.contains("/LOCK: Resource temporarily unavailable")
                || why.contains("lock hold by current process") =>
        {
            StoreError::InUse { path }
        }
        ErrorKind::Corruption => StoreError::Damaged { path, why },
        // A file that other files refer to is missing.
        ErrorKind::IOError if missing => StoreError::Damaged { path, why },
        _ => StoreError::Failed { what: "open", source: Arc::new(error.clone()) },
    }
}

/// For `map_err`: converts an I/O error of the operation `what` on `path`.
fn io_failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { what, path: path.clone(), source: Arc::new(source) }
}

/// The first key after all keys that begin with `prefix`, if such a key is possible.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end)
}
