//! The contract of every store. `contract_tests!` makes a test of each rule for one kind of store.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_hostd::store::{Batch, CommitError, Db, Entry, Expect, Scan, Store, Table, Write};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// `contract_tests!(make)`: `make` returns an `Arc<dyn Store>` that is empty except for its schema version, and a
/// guard for its folder.
macro_rules! contract_tests {
    ($make:path) => {
        contract_tests!($make:
            what_is_put_is_got_and_what_is_deleted_is_gone,
            writes_of_a_batch_happen_in_their_order,
            a_batch_whose_expectation_fails_changes_nothing,
            a_batch_expects_what_batches_before_it_have_left,
            expectations_are_of_the_state_before_their_own_batch,
            an_empty_value_is_there,
            tables_do_not_share_keys,
            keys_come_in_bytewise_order,
            a_scan_stays_within_its_prefix,
            a_scan_goes_on_behind_a_key_even_if_that_is_gone,
            prefixes_of_0xff_have_an_end,
            any_groups_leave_what_a_model_holds,
            one_of_many_conflicting_commits_wins,
            counters_lose_no_increment,
        );
    };
    ($make:path: $($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                let (store, _guard) = $make();
                contract::$name(store);
            }
        )*
    };
}

const T: Table = Table::Microvms;

fn put(key: &[u8], value: &[u8]) -> Batch {
    Batch::new().put(T, key.to_vec(), value.to_vec())
}

fn scan(store: &dyn Store, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
    let scan = Scan { table: T, prefix, after, limit };
    store.scan(&scan).unwrap().into_iter().map(|(key, _)| key).collect()
}

/// Whether each of the batches was applied; anything but a conflict fails.
fn commit(store: &dyn Store, batches: &[Batch]) -> Vec<bool> {
    let results = store.commit(batches);
    assert_eq!(results.len(), batches.len());
    results
        .into_iter()
        .map(|result| match result {
            Ok(()) => true,
            Err(CommitError::Conflict) => false,
            Err(CommitError::Store(error)) => panic!("{error}"),
        })
        .collect()
}

pub(crate) fn what_is_put_is_got_and_what_is_deleted_is_gone(store: Arc<dyn Store>) {
    assert_eq!(store.get(T, b"a").unwrap(), None);
    assert_eq!(commit(&*store, &[put(b"a", b"1"), put(b"b", b"2")]), [true, true]);
    assert_eq!(store.get(T, b"a").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(commit(&*store, &[put(b"a", b"3").delete(T, b"b".to_vec()).delete(T, b"c".to_vec())]), [true]);
    assert_eq!(store.get(T, b"a").unwrap().as_deref(), Some(b"3".as_slice()));
    assert_eq!(store.get(T, b"b").unwrap(), None);
}

pub(crate) fn writes_of_a_batch_happen_in_their_order(store: Arc<dyn Store>) {
    let batch = put(b"a", b"1").delete(T, b"a".to_vec()).and(put(b"b", b"1")).and(put(b"b", b"2"));
    assert_eq!(commit(&*store, &[batch]), [true]);
    assert_eq!(store.get(T, b"a").unwrap(), None);
    assert_eq!(store.get(T, b"b").unwrap().as_deref(), Some(b"2".as_slice()));
}

pub(crate) fn a_batch_whose_expectation_fails_changes_nothing(store: Arc<dyn Store>) {
    commit(&*store, &[put(b"a", b"1")]);
    let results = commit(
        &*store,
        &[
            put(b"b", b"x").expect_absent(T, b"a".to_vec()),
            put(b"b", b"x").expect_value(T, b"a".to_vec(), b"2".to_vec()),
            put(b"b", b"x").expect_value(T, b"c".to_vec(), Vec::new()),
            // One of several expectations fails.
            put(b"b", b"x").expect_value(T, b"a".to_vec(), b"1".to_vec()).expect_absent(T, b"a".to_vec()),
            put(b"d", b"ok").expect_value(T, b"a".to_vec(), b"1".to_vec()).expect_absent(T, b"b".to_vec()),
        ],
    );
    assert_eq!(results, [false, false, false, false, true]);
    assert_eq!(scan(&*store, b"", None, 10), [b"a", b"d"]);
}

pub(crate) fn a_batch_expects_what_batches_before_it_have_left(store: Arc<dyn Store>) {
    commit(&*store, &[put(b"old", b"1")]);
    let results = commit(
        &*store,
        &[
            put(b"a", b"1").expect_absent(T, b"a".to_vec()),
            put(b"a", b"2").expect_absent(T, b"a".to_vec()),
            put(b"a", b"3").expect_value(T, b"a".to_vec(), b"1".to_vec()),
            // The next batch does not see the writes of a refused one.
            put(b"a", b"4").expect_value(T, b"a".to_vec(), b"2".to_vec()),
            Batch::new().delete(T, b"old".to_vec()),
            put(b"b", b"1").expect_value(T, b"old".to_vec(), b"1".to_vec()),
            put(b"c", b"1").expect_absent(T, b"old".to_vec()),
        ],
    );
    assert_eq!(results, [true, false, true, false, true, false, true]);
    assert_eq!(store.get(T, b"a").unwrap().as_deref(), Some(b"3".as_slice()));
    assert_eq!(scan(&*store, b"", None, 10), [b"a", b"c"]);
}

pub(crate) fn expectations_are_of_the_state_before_their_own_batch(store: Arc<dyn Store>) {
    let results = commit(
        &*store,
        &[
            put(b"a", b"1").expect_absent(T, b"a".to_vec()),
            put(b"b", b"1").expect_value(T, b"b".to_vec(), b"1".to_vec()),
        ],
    );
    assert_eq!(results, [true, false]);
}

pub(crate) fn an_empty_value_is_there(store: Arc<dyn Store>) {
    assert_eq!(commit(&*store, &[put(b"a", b"")]), [true]);
    assert_eq!(store.get(T, b"a").unwrap().as_deref(), Some(b"".as_slice()));
    assert_eq!(commit(&*store, &[Batch::new().expect_absent(T, b"a".to_vec())]), [false]);
    let expecting = Batch::new().expect_value(T, b"a".to_vec(), Vec::new());
    assert_eq!(commit(&*store, &[expecting]), [true]);
}

pub(crate) fn tables_do_not_share_keys(store: Arc<dyn Store>) {
    let batch = Table::ALL.into_iter().fold(Batch::new(), |batch, table| {
        batch.put(table, b"key".to_vec(), table.name().as_bytes().to_vec())
    });
    assert_eq!(commit(&*store, &[batch]), [true]);
    for table in Table::ALL {
        let value = store.get(table, b"key").unwrap();
        assert_eq!(value.as_deref(), Some(table.name().as_bytes()));
        let found = store.scan(&Scan { table, prefix: b"key", after: None, limit: 9 }).unwrap();
        assert_eq!(found, [(b"key".to_vec(), table.name().as_bytes().to_vec())]);
    }
}

pub(crate) fn keys_come_in_bytewise_order(store: Arc<dyn Store>) {
    let keys: [&[u8]; 7] = [b"\x00", b"\x00\x00", b"A", b"a", b"a\x00", b"\x7f", b"\x80"];
    for key in keys.iter().rev() {
        commit(&*store, &[put(key, b"v")]);
    }
    assert_eq!(scan(&*store, b"", None, usize::MAX), keys);
}

pub(crate) fn a_scan_stays_within_its_prefix(store: Arc<dyn Store>) {
    for key in [b"a".as_slice(), b"a/", b"a/1", b"a/2", b"a/\xff", b"a/\xff\xff", b"a0", b"b"] {
        commit(&*store, &[put(key, b"v")]);
    }
    let all: [&[u8]; 5] = [b"a/", b"a/1", b"a/2", b"a/\xff", b"a/\xff\xff"];
    assert_eq!(scan(&*store, b"a/", None, 10), all);
    assert_eq!(scan(&*store, b"a/", None, 5), all);
    assert_eq!(scan(&*store, b"a/", None, 2), all[..2]);
    assert!(scan(&*store, b"a/", None, 0).is_empty());
    assert!(scan(&*store, b"c", None, 10).is_empty());
    // Scans after keys outside of the prefix.
    assert_eq!(scan(&*store, b"a/", Some(b""), 10), all);
    assert_eq!(scan(&*store, b"a/", Some(b"a"), 10), all);
    assert!(scan(&*store, b"a/", Some(b"a0"), 10).is_empty());
    assert!(scan(&*store, b"a/", Some(b"zz"), 10).is_empty());
}

pub(crate) fn a_scan_goes_on_behind_a_key_even_if_that_is_gone(store: Arc<dyn Store>) {
    for key in [b"p".as_slice(), b"p1", b"p1\x00", b"p3", b"p\xff"] {
        commit(&*store, &[put(key, b"v")]);
    }
    assert_eq!(scan(&*store, b"p", Some(b"p"), 2), [b"p1".as_slice(), b"p1\x00"]);
    assert_eq!(scan(&*store, b"p", Some(b"p1"), 1), [b"p1\x00"]);
    assert_eq!(scan(&*store, b"p", Some(b"p2"), 10), [b"p3".as_slice(), b"p\xff"]);
    assert!(scan(&*store, b"p", Some(b"p\xff"), 10).is_empty());
}

pub(crate) fn prefixes_of_0xff_have_an_end(store: Arc<dyn Store>) {
    let keys: [&[u8]; 6] = [b"\xfe", b"\xfe\xff", b"\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\xff"];
    for key in keys {
        commit(&*store, &[put(key, b"v")]);
    }
    assert_eq!(scan(&*store, b"\xfe\xff", None, 10), keys[1..2]);
    assert_eq!(scan(&*store, b"\xfe", None, 10), keys[..2]);
    assert_eq!(scan(&*store, b"\xff", None, 10), keys[2..]);
    assert_eq!(scan(&*store, b"\xff\xff", None, 10), keys[4..]);
    assert_eq!(scan(&*store, b"\xff\xff", Some(b"\xff\xff"), 10), keys[5..]);
    assert_eq!(scan(&*store, b"", Some(b"\xff\x00"), 10), keys[4..]);
}

/// The simplest possible store, as a model.
#[derive(Default)]
pub(crate) struct Model(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Model {
    pub(crate) fn commit(&mut self, batch: &Batch) -> bool {
        for expect in &batch.expects {
            let holds = match expect.clone() {
                Expect::Absent(table, key) => !self.0.contains_key(&(table, key)),
                Expect::Value(table, key, value) => self.0.get(&(table, key)) == Some(&value),
            };
            if !holds {
                return false;
            }
        }
        for write in batch.writes.clone() {
            match write {
                Write::Put(table, key, value) => drop(self.0.insert((table, key), value)),
                Write::Delete(table, key) => drop(self.0.remove(&(table, key))),
            }
        }
        true
    }

    fn scan(&self, scan: &Scan<'_>) -> Vec<Entry> {
        let mut found: Vec<Entry> = Vec::new();
        for ((table, key), value) in &self.0 {
            if *table == scan.table
                && key.starts_with(scan.prefix)
                && scan.after.is_none_or(|after| key.as_slice() > after)
            {
                found.push((key.clone(), value.clone()));
            }
        }
        found.truncate(scan.limit);
        found
    }

    /// Checks that the store holds exactly the contents of the model.
    pub(crate) fn compare(&self, store: &dyn Store) {
        for table in TABLES {
            let all = Scan { table, prefix: b"", after: None, limit: usize::MAX };
            assert_eq!(store.scan(&all).unwrap(), self.scan(&all));
        }
    }
}

/// Few tables, and below few keys and values, so that batches affect the same entries.
const TABLES: [Table; 2] = [Table::Microvms, Table::Expiries];

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, b'a', 0xff]), 0..3)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![b"".to_vec(), b"1".to_vec(), b"2".to_vec()])
}

fn batch() -> impl Strategy<Value = Batch> {
    let table = || prop::sample::select(TABLES.to_vec());
    let expect = prop_oneof![
        (table(), key()).prop_map(|(table, key)| Expect::Absent(table, key)),
        (table(), key(), value()).prop_map(|(table, key, value)| Expect::Value(table, key, value)),
    ];
    let write = prop_oneof![
        3 => (table(), key(), value()).prop_map(|(table, key, value)| Write::Put(table, key, value)),
        1 => (table(), key()).prop_map(|(table, key)| Write::Delete(table, key)),
    ];
    (prop::collection::vec(expect, 0..2), prop::collection::vec(write, 0..4))
        .prop_map(|(expects, writes)| Batch { expects, writes, ends: false })
}

/// Groups of batches.
pub(crate) fn groups() -> impl Strategy<Value = Vec<Vec<Batch>>> {
    prop::collection::vec(prop::collection::vec(batch(), 0..8), 1..6)
}

/// Runs a property with this number of cases.
pub(crate) fn property<S: Strategy>(cases: u32, of: S, test: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&of, |value| {
            test(value);
            Ok(())
        })
        .unwrap();
}

pub(crate) fn any_groups_leave_what_a_model_holds(store: Arc<dyn Store>) {
    property(48, (groups(), key(), key(), 0..5_usize), |(groups, prefix, after, limit)| {
        let mut model = Model::default();
        // Entries that the previous case has left.
        let left = TABLES.into_iter().flat_map(|table| {
            let all = Scan { table, prefix: b"", after: None, limit: usize::MAX };
            store.scan(&all).unwrap().into_iter().map(move |(key, _)| (table, key))
        });
        let clear = left.fold(Batch::new(), |batch, (table, key)| batch.delete(table, key));
        commit(&*store, &[clear]);
        for group in groups {
            let expected: Vec<_> = group.iter().map(|batch| model.commit(batch)).collect();
            assert_eq!(commit(&*store, &group), expected);
            model.compare(&*store);
            for table in TABLES {
                for after in [None, Some(after.as_slice())] {
                    let scan = Scan { table, prefix: &prefix, after, limit };
                    assert_eq!(store.scan(&scan).unwrap(), model.scan(&scan));
                }
            }
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap()
}

pub(crate) fn one_of_many_conflicting_commits_wins(store: Arc<dyn Store>) {
    let db = Db::new(store);
    runtime().block_on(async {
        let tasks: Vec<_> = (0..64_u32)
            .map(|number| {
                let db = db.clone();
                let batch = Batch::new()
                    .expect_absent(T, b"winner".to_vec())
                    .put(T, b"winner".to_vec(), number.to_be_bytes().to_vec())
                    .put(T, number.to_be_bytes().to_vec(), Vec::new());
                tokio::spawn(async move { (number, db.commit(batch).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                (number, Ok(())) => winners.push(number),
                (_, Err(CommitError::Conflict)) => {}
                (_, Err(CommitError::Store(error))) => panic!("{error}"),
            }
        }
        let [winner] = winners[..] else { panic!("{winners:?} have won") };
        let winner = winner.to_be_bytes().to_vec();
        assert_eq!(db.get_bytes(T, b"winner").unwrap(), Some(winner.clone()));
        let all = Scan { table: T, prefix: b"", after: None, limit: 100 };
        assert_eq!(db.scan(&all).unwrap(), [(winner.clone(), Vec::new()), (b"winner".to_vec(), winner)]);
    });
}

pub(crate) fn counters_lose_no_increment(store: Arc<dyn Store>) {
    const TASKS: u32 = 8;
    const EACH: u32 = 10;
    let db = Db::new(store);
    runtime().block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    for _ in 0..EACH {
                        while !increment(&db).await {}
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let counted = db.get_bytes(T, b"counter").unwrap().unwrap();
        assert_eq!(counted, (TASKS * EACH).to_be_bytes());
    });
}

async fn increment(db: &Db) -> bool {
    let key = b"counter".to_vec();
    let batch = match db.get_bytes(T, &key).unwrap() {
        None => Batch::new().expect_absent(T, key.clone()).put(T, key, 1_u32.to_be_bytes().to_vec()),
        Some(value) => {
            let next = u32::from_be_bytes(value.clone().try_into().unwrap()) + 1;
            Batch::new().expect_value(T, key.clone(), value).put(T, key, next.to_be_bytes().to_vec())
        }
    };
    match db.commit(batch).await {
        Ok(()) => true,
        Err(CommitError::Conflict) => false,
        Err(CommitError::Store(error)) => panic!("{error}"),
    }
}
