//! A store in memory, for tests; its contents are lost with the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::{Batch, CommitError, Entry, Expect, Scan, Store, StoreError, Table, Write};
use crate::panics::poisoned;

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(poisoned)
    }
}

impl Store for MemoryStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables().get(&table).and_then(|entries| entries.get(key)).cloned())
    }

    fn scan(&self, scan: &Scan<'_>) -> Result<Vec<Entry>, StoreError> {
        let from = match scan.after {
            Some(after) if after >= scan.prefix => Bound::Excluded(after),
            _ => Bound::Included(scan.prefix),
        };
        let tables = self.tables();
        let Some(entries) = tables.get(&scan.table) else { return Ok(Vec::new()) };
        Ok(entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(scan.prefix))
            .take(scan.limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        let mut tables = self.tables();
        batches.iter().map(|batch| apply(&mut tables, batch)).collect()
    }

    fn back_up(&self, _to: &Path) -> Result<u64, StoreError> {
        Err(StoreError::InMemory)
    }
}

fn apply(tables: &mut Tables, batch: &Batch) -> Result<(), CommitError> {
    let holds = batch.expects.iter().all(|expect| match expect {
        Expect::Absent(table, key) => tables.get(table).is_none_or(|entries| !entries.contains_key(key)),
        Expect::Value(table, key, value) => {
            tables.get(table).and_then(|entries| entries.get(key)) == Some(value)
        }
    });
    if !holds {
        return Err(CommitError::Conflict);
    }
    for write in &batch.writes {
        match write {
            Write::Put(table, key, value) => {
                tables.entry(*table).or_default().insert(key.clone(), value.clone());
            }
            Write::Delete(table, key) => {
                tables.entry(*table).or_default().remove(key);
            }
        }
    }
    Ok(())
}
