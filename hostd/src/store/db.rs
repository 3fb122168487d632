//! The store as tasks use it: typed records, and commits that share their fsyncs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Batch, CommitError, Entry, Scan, Store, StoreError, Table, Write};
use crate::panics;

/// Most batches that may wait for the commit thread; further callers wait for room.
const WAITING: usize = 1024;
/// Most batches in one group.
const GROUP: usize = 512;
/// Number of entries that [`Db::each`] reads at a time.
const PAGE: usize = 256;
/// Size in bytes from which on a group takes no further batch. A single batch may be larger.
const GROUP_BYTES: usize = 4 << 20;

/// A store, shared by all tasks. Clones are cheap.
///
/// Reads block for as long as the store needs: microseconds, mostly from memory. Commits are written by a thread that ends when
/// the last clone is dropped; that drop waits until everything that was accepted is written.
#[derive(Clone, Debug)]
pub struct Db {
    store: Arc<dyn Store>,
    committer: Arc<Committer>,
}

#[derive(Debug)]
struct Committer {
    sender: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Request {
    batch: Batch,
    response: oneshot::Sender<Result<(), CommitError>>,
}

impl Db {
    /// Starts the commit thread of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::observed(store, |_, _| {})
    }

    /// Starts the commit thread of a store. `committed` is called after each group, with its number of batches and
    /// the time until it was durable.
    #[must_use]
    pub fn observed(store: Arc<dyn Store>, committed: impl Fn(usize, Duration) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let written = Arc::clone(&store);
        // Without a thread the receiver is dropped, and each commit returns an error.
        let thread = thread::Builder::new()
            .name("store-commits".to_owned())
            .spawn(move || write_groups(written.as_ref(), receiver, &committed))
            .inspect_err(|error| tracing::error!(%error, "the commit thread of the store cannot be started"))
            .ok();
        Self { store, committer: Arc::new(Committer { sender: Some(sender), thread }) }
    }

    /// A store whose commits happen on the caller's thread. For a store that does not block, in tests with simulated
    /// time, which does not wait for other threads.
    #[must_use]
    pub fn direct(store: Arc<dyn Store>) -> Self {
        Self { store, committer: Arc::new(Committer { sender: None, thread: None }) }
    }

    /// The record under a key.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] if the value is not such a record.
    pub fn get<M: prost::Message + Default>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<M>, StoreError> {
        self.get_bytes(table, key)?.map(|value| self.decode(table, key, &value)).transpose()
    }

    /// The bytes under a key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get_bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    /// Reads keys and values in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError> {
        self.store.scan(scan)
    }

    /// Passes all entries under a prefix to `take`, in order, until it fails. The entries are read page by page, so
    /// that commits and other readers proceed meanwhile; what is written meanwhile may be seen or not.
    ///
    /// # Errors
    /// [`StoreError`], and the error of `take`.
    pub fn each(
        &self,
        table: Table,
        prefix: &[u8],
        mut take: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(&Scan { table, prefix, after: after.as_deref(), limit: PAGE })?;
            let full = page.len() == PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                take(key, value)?;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Decodes a value that was read from `table` under `key`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], which names table and key.
    pub fn decode<M: prost::Message + Default>(
        &self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<M, StoreError> {
        M::decode(value).map_err(|error| self.damaged(table, key, &error))
    }

    /// The error for a record that was read from `table` under `key` and is damaged, as `error` says.
    #[must_use]
    pub fn damaged(&self, table: Table, key: &[u8], error: &dyn std::error::Error) -> StoreError {
        let why =
            format!("the record {} in table {} cannot be read: {error}", key.escape_ascii(), table.name());
        StoreError::Damaged { path: self.store.place(), why }
    }

    /// Applies a batch as a whole, or not at all. When this has returned `Ok`, the batch is durable. If the caller
    /// stops waiting, the batch may or may not be applied; an accepted batch is written whether or not the caller
    /// waits.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let (response, received) = oneshot::channel();
        let Some(sender) = self.committer.sender.as_ref() else {
            return self.store.commit(&[batch]).pop().unwrap_or_else(|| Err(StoreError::NoCommits.into()));
        };
        sender.send(Request { batch, response }).await.map_err(|_| StoreError::NoCommits)?;
        received.await.map_err(|_| StoreError::NoCommits)?
    }

    /// Writes a consistent copy to a folder that does not exist yet; returns its size in bytes. Commits continue
    /// meanwhile. A backup is completed even if its caller stops waiting.
    ///
    /// # Errors
    /// [`StoreError`]; in that case nothing is left at `to`.
    pub async fn back_up(&self, to: PathBuf) -> Result<u64, StoreError> {
        let db = self.clone();
        panics::blocking(move || db.back_up_here(&to)).await
    }

    /// [`Self::back_up`] on this thread, which blocks.
    ///
    /// # Errors
    /// [`StoreError`]; in that case nothing is left at `to`.
    pub fn back_up_here(&self, to: &Path) -> Result<u64, StoreError> {
        self.store.back_up(to)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread of the store has panicked");
        }
    }
}

/// Writes groups until all senders are gone and no batch is waiting.
fn write_groups(
    store: &dyn Store,
    mut requests: mpsc::Receiver<Request>,
    committed: &dyn Fn(usize, Duration),
) {
    while let Some(first) = requests.blocking_recv() {
        let mut bytes = 0;
        let mut batches = Vec::new();
        let mut responses = Vec::new();
        let mut next = Some(first);
        while let Some(Request { batch, response }) = next.take() {
            bytes += size(&batch);
            batches.push(batch);
            responses.push(response);
            if batches.len() < GROUP && bytes < GROUP_BYTES {
                next = requests.try_recv().ok();
            }
        }
        let begun = Instant::now();
        let results = store.commit(&batches);
        committed(batches.len(), begun.elapsed());
        for (response, result) in responses.into_iter().zip(results) {
            // A caller that has stopped waiting needs no result.
            let _ = response.send(result);
        }
    }
}

fn size(batch: &Batch) -> usize {
    batch
        .writes
        .iter()
        .map(|write| match write {
            Write::Put(_, key, value) => key.len() + value.len(),
            Write::Delete(_, key) => key.len(),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::sync::{Condvar, Mutex};
    use std::task::{Context, Waker};

    use super::*;
    use crate::store::{MemoryStore, Over};

    const T: Table = Table::Images;

    /// A store whose commits wait until the test opens it, and that records the sizes of groups.
    #[derive(Debug, Default)]
    struct Gated {
        store: MemoryStore,
        groups: Mutex<Vec<usize>>,
        begun: Condvar,
        open: Mutex<bool>,
        opened: Condvar,
    }

    impl Gated {
        fn open(&self) {
            *self.open.lock().unwrap() = true;
            self.opened.notify_all();
        }

        /// Waits until the first group is being written.
        fn busy(&self) {
            drop(self.begun.wait_while(self.groups.lock().unwrap(), |groups| groups.is_empty()).unwrap());
        }

        fn keys(&self) -> usize {
            self.store.scan(&Scan { table: T, prefix: &[], after: None, limit: usize::MAX }).unwrap().len()
        }
    }

    impl Over for Gated {
        fn below(&self) -> &dyn Store {
            &self.store
        }

        fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
            self.groups.lock().unwrap().push(batches.len());
            self.begun.notify_all();
            drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
            self.store.commit(batches)
        }
    }

    fn put(key: u32, bytes: usize) -> Batch {
        Batch::new().put(T, key.to_be_bytes().to_vec(), vec![0; bytes])
    }

    /// Starts a commit and stops waiting for it.
    fn give_up(db: &Db, batch: Batch) {
        let mut commit = pin!(db.commit(batch));
        assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[test]
    fn what_is_waiting_is_written_as_one_group() {
        let store = Arc::new(Gated::default());
        let db = Db::new(Arc::clone(&store) as Arc<dyn Store>);
        give_up(&db, put(0, 1));
        store.busy();
        (1..=20).for_each(|key| give_up(&db, put(key, 1)));
        store.open();
        drop(db);
        assert_eq!(*store.groups.lock().unwrap(), [1, 20]);
    }

    #[test]
    fn groups_are_bounded_by_number_and_by_bytes() {
        let store = Arc::new(Gated::default());
        let db = Db::new(Arc::clone(&store) as Arc<dyn Store>);
        give_up(&db, put(0, 1));
        store.busy();
        (0..600).for_each(|key| give_up(&db, put(key, 1)));
        (600..603).for_each(|key| give_up(&db, put(key, GROUP_BYTES / 2)));
        store.open();
        drop(db);
        // The last batch of a group may exceed the limit in bytes, since a single batch may be larger than any limit.
        assert_eq!(*store.groups.lock().unwrap(), [1, GROUP, 600 - GROUP + 2, 1]);
    }

    #[test]
    fn the_last_drop_waits_for_what_was_accepted_even_if_nobody_else_does() {
        let store = Arc::new(Gated::default());
        let db = Db::new(Arc::clone(&store) as Arc<dyn Store>);
        let other = db.clone();
        give_up(&db, put(0, 1));
        store.busy();
        (1..=20).for_each(|key| give_up(&other, put(key, 1)));
        drop(db);
        let ended = thread::spawn(move || drop(other));
        store.open();
        ended.join().unwrap();
        assert_eq!(store.keys(), 21);
        // The commit thread has released its reference to the store.
        assert_eq!(Arc::strong_count(&store), 1);
    }

    #[test]
    fn a_caller_that_finds_no_room_waits_and_has_committed_nothing_when_it_gives_up() {
        let store = Arc::new(Gated::default());
        let db = Db::new(Arc::clone(&store) as Arc<dyn Store>);
        give_up(&db, put(0, 1));
        store.busy();
        let room = u32::try_from(WAITING).unwrap();
        (1..=room).for_each(|key| give_up(&db, put(key, 1)));
        give_up(&db, put(room + 1, 1));
        store.open();
        // There is room again.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(db.commit(put(room + 2, 1))).unwrap();
        assert_eq!(store.store.get(T, &(room + 1).to_be_bytes()).unwrap(), None);
        assert_eq!(store.keys(), WAITING + 2);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_damage_and_is_named() {
        let db = Db::new(Arc::new(MemoryStore::new()));
        let time = prost_types::Timestamp { seconds: 5, nanos: 6 };
        let key = b"123456789012/app".to_vec();
        db.commit(Batch::new().put(T, key.clone(), prost::Message::encode_to_vec(&time))).await.unwrap();
        assert_eq!(db.get::<prost_types::Timestamp>(T, &key).unwrap(), Some(time));
        assert_eq!(db.get::<prost_types::Timestamp>(T, b"other").unwrap(), None);
        db.commit(Batch::new().put(T, key.clone(), vec![0xff])).await.unwrap();
        let damaged = db.get::<prost_types::Timestamp>(T, &key).unwrap_err();
        let StoreError::Damaged { path, why } = damaged else { panic!("{damaged}") };
        assert_eq!(path, "memory");
        assert!(why.contains("123456789012/app in table images"), "{why}");
    }
}
