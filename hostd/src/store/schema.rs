//! Versions of the store's schema.
//!
//! [`Table::Meta`] holds the version. A store of an older version is migrated when it is opened, one version after
//! another. Each step is one batch together with its version: a crash leaves a store of one version or of the next. A
//! store of a newer version is refused. Fields that are added to records need no new version; a change of keys or of
//! meaning does.

use super::{Batch, CommitError, Scan, Store, StoreError, Table};

/// The store's own keys of [`Table::Meta`]; [`crate::records`] has the others.
pub mod meta {
    /// The schema version: 4 bytes, big-endian.
    pub const SCHEMA_VERSION: &[u8] = b"schema_version";
}

/// Reads a store of one version and returns the changes that make it one of the next version.
type Migration = fn(&dyn Store) -> Result<Batch, StoreError>;

/// From version 0 (a store without a version) to 1, from 1 to 2, and so on.
const MIGRATIONS: &[Migration] = &[begin];

/// Migrates a store to the newest version; returns that version.
///
/// # Errors
/// [`StoreError::TooNew`], or the store's error.
pub fn migrate(store: &dyn Store) -> Result<u32, StoreError> {
    migrate_with(store, MIGRATIONS)
}

fn migrate_with(store: &dyn Store, migrations: &[Migration]) -> Result<u32, StoreError> {
    let found = version(store)?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(StoreError::TooNew { path: store.place(), found, known });
    }
    for (before, migration) in (0..known).zip(migrations).skip_while(|(before, _)| *before < found) {
        let after = before + 1;
        let number = after.to_be_bytes().to_vec();
        let batch = migration(store)?.put(Table::Meta, meta::SCHEMA_VERSION.to_vec(), number);
        store.commit(&[batch]).into_iter().collect::<Result<(), _>>().map_err(|error| match error {
            CommitError::Store(error) => error,
            CommitError::Conflict => StoreError::Migration { before, after },
        })?;
        tracing::info!(
            store = store.place(),
            from = before,
            to = after,
            "the store has a new schema version"
        );
    }
    Ok(known)
}

fn version(store: &dyn Store) -> Result<u32, StoreError> {
    let Some(value) = store.get(Table::Meta, meta::SCHEMA_VERSION)? else { return Ok(0) };
    <[u8; 4]>::try_from(value.as_slice()).map(u32::from_be_bytes).map_err(|_| StoreError::Damaged {
        path: store.place(),
        why: format!("its schema version has {} bytes instead of 4", value.len()),
    })
}

/// 0 → 1: a new store. No release has written a store without a version, so it is empty or damaged.
fn begin(store: &dyn Store) -> Result<Batch, StoreError> {
    for table in Table::ALL {
        let any = Scan { table, prefix: &[], after: None, limit: 1 };
        if !store.scan(&any)?.is_empty() {
            return Err(StoreError::Damaged {
                path: store.place(),
                why: format!("there are entries in table {} but there is no schema version", table.name()),
            });
        }
    }
    Ok(Batch::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Entry, MemoryStore};

    fn all(store: &dyn Store, table: Table) -> Vec<Entry> {
        store.scan(&Scan { table, prefix: &[], after: None, limit: usize::MAX }).unwrap()
    }

    fn number(store: &dyn Store) -> u32 {
        version(store).unwrap()
    }

    fn put(store: &dyn Store, table: Table, key: &[u8], value: &[u8]) {
        store.commit(&[Batch::new().put(table, key.to_vec(), value.to_vec())]).remove(0).unwrap();
    }

    /// Prepends an `x` to each key of `images`, so that a repeated migration would be visible.
    fn prefix(store: &dyn Store) -> Result<Batch, StoreError> {
        let scan = Scan { table: Table::Images, prefix: &[], after: None, limit: usize::MAX };
        Ok(store.scan(&scan)?.into_iter().fold(Batch::new(), |batch, (key, value)| {
            batch.delete(Table::Images, key.clone()).put(
                Table::Images,
                [b"x", key.as_slice()].concat(),
                value,
            )
        }))
    }

    /// Moves `images` to `versions`.
    fn move_over(store: &dyn Store) -> Result<Batch, StoreError> {
        let scan = Scan { table: Table::Images, prefix: &[], after: None, limit: usize::MAX };
        Ok(store.scan(&scan)?.into_iter().fold(Batch::new(), |batch, (key, value)| {
            batch.delete(Table::Images, key.clone()).put(Table::Versions, key, value)
        }))
    }

    fn fails(_: &dyn Store) -> Result<Batch, StoreError> {
        Err(StoreError::Failed {
            what: "migrate",
            source: std::sync::Arc::new(std::io::Error::other("it is a test")),
        })
    }

    #[test]
    fn an_empty_store_gets_the_newest_version_once() {
        let store = MemoryStore::new();
        assert_eq!(migrate(&store).unwrap(), 1);
        assert_eq!(migrate(&store).unwrap(), 1);
        assert_eq!(all(&store, Table::Meta), [(b"schema_version".to_vec(), vec![0, 0, 0, 1])]);
    }

    #[test]
    fn an_older_store_takes_each_step_to_the_newest_version_once() {
        let store = MemoryStore::new();
        migrate_with(&store, &[begin]).unwrap();
        put(&store, Table::Images, b"a", b"1");
        put(&store, Table::Images, b"b", b"2");
        for _ in 0..2 {
            assert_eq!(migrate_with(&store, &[begin, prefix]).unwrap(), 2);
            let moved = [(b"xa".to_vec(), b"1".to_vec()), (b"xb".to_vec(), b"2".to_vec())];
            assert_eq!(all(&store, Table::Images), moved);
        }
        // Two migrations at once.
        assert_eq!(migrate_with(&store, &[begin, prefix, prefix, move_over]).unwrap(), 4);
        assert_eq!(number(&store), 4);
        assert!(all(&store, Table::Images).is_empty());
        let moved = [(b"xxa".to_vec(), b"1".to_vec()), (b"xxb".to_vec(), b"2".to_vec())];
        assert_eq!(all(&store, Table::Versions), moved);
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before_it() {
        let store = MemoryStore::new();
        migrate_with(&store, &[begin]).unwrap();
        put(&store, Table::Images, b"a", b"1");
        migrate_with(&store, &[begin, prefix, fails, prefix]).unwrap_err();
        assert_eq!(number(&store), 2);
        assert_eq!(all(&store, Table::Images), [(b"xa".to_vec(), b"1".to_vec())]);
        // The next start continues there.
        migrate_with(&store, &[begin, prefix, move_over]).unwrap();
        assert_eq!(all(&store, Table::Versions), [(b"xa".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn a_newer_store_is_refused_and_left_alone() {
        let store = MemoryStore::new();
        migrate_with(&store, &[begin, prefix]).unwrap();
        put(&store, Table::Images, b"a", b"1");
        let refused = migrate_with(&store, &[begin]).unwrap_err();
        assert!(matches!(refused, StoreError::TooNew { found: 2, known: 1, .. }), "{refused}");
        assert_eq!(all(&store, Table::Images), [(b"a".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn entries_without_a_version_and_versions_that_are_none_are_damage() {
        let store = MemoryStore::new();
        put(&store, Table::Expiries, b"a", b"1");
        let refused = migrate(&store).unwrap_err();
        assert!(
            matches!(&refused, StoreError::Damaged { why, .. } if why.contains("table expiries")),
            "{refused}"
        );
        put(&store, Table::Meta, meta::SCHEMA_VERSION, b"1");
        assert!(matches!(migrate(&store), Err(StoreError::Damaged { .. })));
    }
}
