//! Room on the disk that is kept for ending and deleting.
//!
//! A full disk must not keep clients from what frees it: TerminateMicrovm and the deletion of images need the store. So a
//! file beside the store holds blocks that are of no other use. When the store has no room for a commit, the file goes,
//! and the batches that end or delete something ([`Batch::ending`]) are committed again, now with room. All others are
//! refused ([`StoreError::NoRoom`]) until the file is back: it is made again as soon as there is room for it and as much
//! again, so that what was just freed does not fill the disk a moment later.
//!
//! The file is of no use against somebody who writes at that very moment: its room is everybody's. What then helps is that
//! the end of a microVM needs no store ([`crate::driver`]).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Batch, CommitError, Over, Store, StoreError};
use crate::disk::free;
use crate::panics::poisoned;

/// Name of the file in the store's folder.
const FILE: &str = "reserve";
/// Smallest size of the file, in bytes.
const SMALLEST: u64 = 64 << 20;
/// Unit of [`MetadataExt::blocks`], in bytes.
const BLOCK: u64 = 512;
/// How long batches that end or delete something are tried again after the file has gone. RocksDB looks every five
/// seconds whether it has room again (`SstFileManagerImpl::ClearError`).
const PATIENCE: Duration = Duration::from_secs(12);
/// Pause between two of these attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Least time between two attempts to make the file again.
const BETWEEN: Duration = Duration::from_secs(1);

/// A store with a reserve.
#[derive(Debug)]
pub struct Reserved<S> {
    store: S,
    path: PathBuf,
    bytes: u64,
    patience: Duration,
    reserve: Mutex<Reserve>,
}

/// Whether the file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserve {
    Held,
    /// It has gone.
    Out {
        /// When it was last tried to make it.
        tried: Option<Instant>,
        /// When it was given up to make room; none if it was not there.
        released: Option<Instant>,
    },
    /// The file system cannot reserve blocks, or the file cannot be made for another reason than a full disk.
    Impossible,
}

impl Reserve {
    /// It was not tried to make it yet.
    const NONE: Self = Self::Out { tried: None, released: None };
}

impl<S: Store> Reserved<S> {
    /// Opens a store in `folder` and keeps a reserve of `bytes`, or more, for it. A disk that is full already gives the
    /// reserve up, so that the store can be opened.
    ///
    /// # Errors
    /// The error of `open`.
    pub fn open(
        folder: &Path,
        bytes: u64,
        open: impl FnOnce() -> Result<S, StoreError>,
    ) -> Result<Self, StoreError> {
        let (path, bytes) = (folder.join(FILE), bytes.max(SMALLEST));
        if folder.exists() && free(folder).is_ok_and(|free| free < bytes) {
            give_up(&path);
        }
        Ok(Self::with(open()?, path, bytes))
    }

    fn with(store: S, path: PathBuf, bytes: u64) -> Self {
        let reserved = Self { store, path, bytes, patience: PATIENCE, reserve: Mutex::new(Reserve::NONE) };
        reserved.make(&mut reserved.lock());
        reserved
    }

    fn lock(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(poisoned)
    }

    /// Makes the file if it is not there and there is room.
    fn make(&self, reserve: &mut Reserve) {
        let Reserve::Out { tried, released } = *reserve else { return };
        if tried.is_some_and(|tried| tried.elapsed() < BETWEEN) {
            return;
        }
        *reserve = match make(&self.path, self.bytes) {
            Ok(true) => {
                if tried.is_some() {
                    tracing::info!(store = self.store.place(), "there is room on the disk again");
                }
                Reserve::Held
            }
            Ok(false) => {
                if tried.is_none() {
                    self.warn();
                }
                Reserve::Out { tried: Some(Instant::now()), released }
            }
            Err(error) => {
                tracing::warn!(
                    store = self.store.place(),
                    %error,
                    "the file system cannot reserve room: on a full disk nothing can be stored, not even deletions"
                );
                Reserve::Impossible
            }
        };
    }

    fn warn(&self) {
        tracing::error!(
            store = self.store.place(),
            "the disk is full: only ends and deletions are stored. Terminate microVMs, delete images and artifacts, or enlarge the disk"
        );
    }

    fn no_room(&self) -> CommitError {
        StoreError::NoRoom { path: self.store.place() }.into()
    }

    /// Commits the batches that end or delete something, and refuses the others. A store that has no room yet is tried again
    /// for a while after the file has gone.
    fn commit_endings(&self, batches: &[Batch], released: Option<Instant>) -> Vec<Result<(), CommitError>> {
        let endings: Vec<Batch> = batches.iter().filter(|batch| batch.ends).cloned().collect();
        let mut committed = loop {
            if endings.is_empty() {
                break Vec::new();
            }
            let results = self.store.commit(&endings);
            let waits = released.is_some_and(|released| released.elapsed() < self.patience);
            if !waits || !results.iter().any(is_full) {
                break results;
            }
            thread::sleep(PAUSE);
        }
        .into_iter();
        let mut next = || committed.next().unwrap_or_else(|| Err(self.no_room()));
        batches.iter().map(|batch| if batch.ends { next() } else { Err(self.no_room()) }).collect()
    }
}

impl<S: Store> Over for Reserved<S> {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        let mut reserve = self.lock();
        self.make(&mut reserve);
        if let Reserve::Out { released, .. } = *reserve {
            return self.commit_endings(batches, released);
        }
        let results = self.store.commit(batches);
        if *reserve == Reserve::Held && results.iter().any(is_full) {
            self.warn();
            give_up(&self.path);
            let now = Some(Instant::now());
            *reserve = Reserve::Out { tried: now, released: now };
            return self.commit_endings(batches, now);
        }
        results
    }
}

fn is_full(result: &Result<(), CommitError>) -> bool {
    matches!(result, Err(CommitError::Store(StoreError::NoRoom { .. })))
}

/// Makes a file that holds `bytes`, if there is room for it and as much again; returns whether it is there.
fn make(path: &Path, bytes: u64) -> io::Result<bool> {
    if path.metadata().is_ok_and(|data| data.blocks().saturating_mul(BLOCK) >= bytes) {
        return Ok(true);
    }
    if free(path.parent().unwrap_or(path))? < bytes.saturating_mul(2) {
        return Ok(false);
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from);
    // A power failure must not leave an empty file.
    match made.and_then(|()| file.sync_all()) {
        Ok(()) => Ok(true),
        Err(error) => {
            give_up(path);
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if full.contains(&error.kind()) { Ok(false) } else { Err(error) }
        }
    }
}

fn give_up(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(file = %path.display(), %error, "the store's reserve cannot be given up");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::store::{MemoryStore, Table};

    /// A store on a disk that is full, but for what the reserve gives up.
    #[derive(Debug, Default)]
    struct Crowded {
        store: MemoryStore,
        full: AtomicBool,
        reserve: PathBuf,
        /// Number of commits that fail although the reserve has gone, as RocksDB takes a while.
        slow: AtomicU32,
    }

    impl Over for Crowded {
        fn below(&self) -> &dyn Store {
            &self.store
        }

        fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
            let has_room = !self.full.load(Ordering::SeqCst)
                || !self.reserve.exists()
                    && self
                        .slow
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                        .is_err();
            if has_room {
                return self.store.commit(batches);
            }
            batches.iter().map(|_| Err(StoreError::NoRoom { path: self.place() }.into())).collect()
        }
    }

    /// A small reserve in a new folder.
    fn crowded(slow: u32) -> (Reserved<Crowded>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let store = Crowded { reserve: path.clone(), slow: AtomicU32::new(slow), ..Crowded::default() };
        (Reserved::with(store, path, 1 << 20), folder)
    }

    fn put(key: u8) -> Batch {
        Batch::new().put(Table::Microvms, vec![key], vec![])
    }

    /// Whether each batch was stored, was refused for want of room, or neither.
    fn outcomes(results: &[Result<(), CommitError>]) -> Vec<Option<bool>> {
        results
            .iter()
            .map(|result| if is_full(result) { Some(false) } else { result.is_ok().then_some(true) })
            .collect()
    }

    #[test]
    fn on_a_full_disk_ends_and_deletions_are_stored_and_nothing_else() {
        let (store, _folder) = crowded(1);
        assert!(store.path.metadata().unwrap().blocks() * BLOCK >= 1 << 20);
        assert_eq!(outcomes(&store.commit(&[put(1)])), [Some(true)]);
        store.store.full.store(true, Ordering::SeqCst);
        let results = store.commit(&[put(2), put(3).ending(), put(4)]);
        assert_eq!(outcomes(&results), [Some(false), Some(true), Some(false)]);
        assert!(!store.path.exists(), "the reserve has gone");
        assert_eq!(outcomes(&store.commit(&[put(5), put(6).ending()])), [Some(false), Some(true)]);
        for (key, stored) in [(1, true), (2, false), (3, true), (4, false), (5, false), (6, true)] {
            assert_eq!(store.get(Table::Microvms, &[key]).unwrap().is_some(), stored, "{key}");
        }
    }

    #[test]
    fn everything_is_stored_again_when_there_is_room_for_the_reserve() {
        let (store, _folder) = crowded(0);
        store.store.full.store(true, Ordering::SeqCst);
        assert_eq!(outcomes(&store.commit(&[put(1)])), [Some(false)]);
        store.store.full.store(false, Ordering::SeqCst);
        assert_eq!(outcomes(&store.commit(&[put(2)])), [Some(false)], "it was tried a moment ago");
        *store.lock() = Reserve::NONE;
        assert_eq!(outcomes(&store.commit(&[put(3)])), [Some(true)]);
        assert!(store.path.exists(), "the reserve is back");
    }

    #[test]
    fn a_store_that_stays_without_room_refuses_everything_in_the_end() {
        let (store, _folder) = crowded(u32::MAX);
        let store = Reserved { patience: Duration::ZERO, ..store };
        store.store.full.store(true, Ordering::SeqCst);
        assert_eq!(outcomes(&store.commit(&[put(1), put(2).ending()])), [Some(false), Some(false)]);
    }

    #[test]
    fn a_store_that_is_opened_on_a_full_disk_has_what_was_reserved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "reserved").unwrap();
        // More than any disk has.
        let opened = Reserved::open(folder.path(), u64::MAX / 4, || {
            assert!(!path.exists());
            Ok(MemoryStore::new())
        });
        let store = opened.unwrap();
        assert!(!path.exists());
        assert_eq!(outcomes(&store.commit(&[put(1), put(2).ending()])), [Some(false), Some(true)]);
    }

    #[test]
    fn conflicts_are_conflicts_with_and_without_room() {
        let (store, _folder) = crowded(0);
        let late = || put(1).expect_absent(Table::Microvms, vec![1]).ending();
        assert_eq!(outcomes(&store.commit(&[put(1)])), [Some(true)]);
        assert_eq!(outcomes(&store.commit(&[late()])), [None]);
        store.store.full.store(true, Ordering::SeqCst);
        assert_eq!(outcomes(&store.commit(&[late(), put(2).ending()])), [None, Some(true)]);
    }
}
