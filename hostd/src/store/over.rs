//! Stores over other stores.

use std::path::Path;

use super::{Batch, CommitError, Entry, Scan, Store, StoreError, Table};

/// A store over another one, which does all that it does not do itself.
pub(crate) trait Over: Send + Sync + std::fmt::Debug {
    /// The other store.
    fn below(&self) -> &dyn Store;

    /// Comes before a key, or the keys with a prefix, are read.
    ///
    /// # Errors
    /// [`StoreError`]; in that case nothing is read.
    fn reads(&self, _key_or_prefix: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    /// [`Store::commit`].
    fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        self.below().commit(batches)
    }

    /// [`Store::back_up`].
    ///
    /// # Errors
    /// [`StoreError`]; in that case nothing is left at `to`.
    fn copies(&self, to: &Path) -> Result<u64, StoreError> {
        self.below().back_up(to)
    }
}

impl<T: Over> Store for T {
    fn place(&self) -> String {
        self.below().place()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reads(key)?;
        self.below().get(table, key)
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError> {
        self.reads(scan.prefix)?;
        self.below().scan(scan)
    }

    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        self.commits(batches)
    }

    fn back_up(&self, to: &Path) -> Result<u64, StoreError> {
        self.copies(to)
    }
}
