//! The store on disk keeps the contract of stores, and its acknowledged commits: over restarts, kills and damage.
//! `rocks/backups.rs` tests backups, `rocks/full.rs` a full disk.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[macro_use]
mod contract;
/// Modules in the folder of this test.
mod rocks {
    mod backups;
    mod full;
}

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use hearth_hostd::store::{Batch, Db, RocksOptions, RocksStore, Scan, Store, StoreError, Table, meta};
use tempfile::TempDir;

const T: Table = Table::Microvms;

fn make() -> (Arc<dyn Store>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Arc::new(open(&folder.path().join("store")).unwrap()), folder)
}

contract_tests!(make);

fn open(path: &Path) -> Result<RocksStore, StoreError> {
    // Buffers are so small that table files are written, too.
    RocksStore::open(path, &RocksOptions { write_buffer_bytes: 1 << 20, ..RocksOptions::default() })
}

fn put(store: &RocksStore, key: &[u8], value: &[u8]) {
    for result in store.commit(&[Batch::new().put(T, key.to_vec(), value.to_vec())]) {
        result.unwrap();
    }
}

fn keys(store: &RocksStore, table: Table) -> Vec<Vec<u8>> {
    let all = Scan { table, prefix: b"", after: None, limit: usize::MAX };
    store.scan(&all).unwrap().into_iter().map(|(key, _)| key).collect()
}

/// Files of a store whose names end in `.kind`, or begin with `kind-`, the newest last.
fn files(store: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(&format!(".{kind}")) || name.starts_with(&format!("{kind}-"))
        })
        .collect();
    found.sort();
    found
}

/// Changes a byte of a file.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

fn damaged(result: Result<RocksStore, StoreError>, path: &Path) {
    match result {
        Err(error @ StoreError::Damaged { .. }) => {
            let message = error.to_string();
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(message.contains("hearthd store restore"), "{message}");
        }
        other => panic!("{other:?} instead of damage"),
    }
}

/// A store with 2000 keys in a table file, and three more that are only in the log.
fn filled(path: &Path) {
    let store = open(path).unwrap();
    let batches: Vec<_> = (0..2000_u32)
        .map(|number| Batch::new().put(T, number.to_be_bytes().to_vec(), noise(number)))
        .collect();
    assert!(store.commit(&batches).iter().all(Result::is_ok));
    drop(store);
    // Opening moves the contents of the log into tables.
    let store = open(path).unwrap();
    for key in [b"x", b"y", b"z"] {
        put(&store, key, b"1");
    }
    drop(store);
}

/// Data that compresses badly.
fn noise(number: u32) -> Vec<u8> {
    (0..50_u32).flat_map(|step| (number ^ step).wrapping_mul(2_654_435_769).to_be_bytes()).collect()
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    contract::property(6, contract::groups(), |groups| {
        let path = folder.path().join("store");
        let mut model = contract::Model::default();
        for group in groups {
            let store = open(&path).unwrap();
            let results = store.commit(&group);
            for (batch, result) in group.iter().zip(results) {
                assert_eq!(model.commit(batch), result.is_ok());
            }
        }
        model.compare(&open(&path).unwrap());
        fs::remove_dir_all(&path).unwrap();
    });
}

#[test]
fn each_group_is_synced_once_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).unwrap();
    let before = store.syncs().count;
    for group in 0..5_u8 {
        let batches: Vec<_> = (0..20_u8).map(|key| Batch::new().put(T, vec![group, key], vec![])).collect();
        assert!(store.commit(&batches).iter().all(Result::is_ok));
    }
    assert_eq!(store.syncs().count, before + 5);
    let refused = Batch::new().expect_absent(T, vec![0, 0]).put(T, vec![9], vec![]);
    assert!(store.commit(&[refused]).iter().all(Result::is_err));
    assert_eq!(store.syncs().count, before + 5);
}

#[test]
fn only_its_owner_may_read_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state").join("store");
    let store = open(&path).unwrap();
    let copy = folder.path().join("backups").join("1");
    store.back_up(&copy).unwrap();
    for path in [&path, &copy] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_store_is_opened_once_in_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::InUse { .. })));
    drop(first);
    open(folder.path()).unwrap();
}

// === kill -9 ===

const CHILD_STORE: &str = "HEARTH_TEST_CHILD_STORE";

/// Not a test but the process that tests kill: it commits from many tasks without end, and prints acknowledged
/// numbers.
#[test]
#[ignore = "run by other tests"]
fn child_that_commits() {
    let Some(path) = env::var_os(CHILD_STORE) else { return };
    let db = Db::new(Arc::new(open(Path::new(&path)).unwrap()));
    let started = u32::try_from(
        db.scan(&Scan { table: T, prefix: b"", after: None, limit: usize::MAX }).unwrap().len(),
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16_u32)
            .map(|task| {
                let db = db.clone();
                tokio::spawn(async move {
                    for step in 0.. {
                        let number = started + step * 16 + task;
                        let key = format!("{number:010}").into_bytes();
                        let batch = Batch::new().put(T, key.clone(), noise(number)).put(
                            Table::MicrovmsByTime,
                            key,
                            Vec::new(),
                        );
                        db.commit(batch).await.unwrap();
                        // A single write: lines of different tasks do not mix, and a line that was cut off can be
                        // recognized.
                        std::io::stdout()
                            .lock()
                            .write_all(format!("acknowledged {number:010}\n").as_bytes())
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

fn child(path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_that_commits", "--ignored", "--nocapture"])
        .env(CHILD_STORE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Numbers that the child has acknowledged, read from the rest of its output.
fn acknowledged(lines: impl Iterator<Item = String>) -> impl Iterator<Item = Vec<u8>> {
    lines.filter_map(|line| {
        let number = line.strip_prefix("acknowledged ")?;
        (number.len() == 10).then(|| number.as_bytes().to_vec())
    })
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_batches_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut all = BTreeSet::new();
    for enough in [1, 50, 700] {
        let mut child = child(&path);
        let mut numbers =
            acknowledged(BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap));
        all.extend(numbers.by_ref().take(enough));
        child.kill().unwrap();
        all.extend(numbers);
        child.wait().unwrap();

        let store = open(&path).unwrap();
        let records = keys(&store, T);
        let lost: Vec<_> = all.iter().filter(|number| records.binary_search(number).is_err()).collect();
        assert!(lost.is_empty(), "{lost:?} of {} are lost", all.len());
        assert_eq!(records, keys(&store, Table::MicrovmsByTime));
        for record in records {
            let number = std::str::from_utf8(&record).unwrap().parse().unwrap();
            assert_eq!(store.get(T, &record).unwrap(), Some(noise(number)));
        }
    }
}

#[test]
fn a_store_that_another_process_has_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child(folder.path());
    let mut numbers = acknowledged(BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap));
    assert!(numbers.next().is_some());
    let result = open(folder.path());
    assert!(matches!(result, Err(StoreError::InUse { .. })), "{result:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(folder.path()).unwrap();
}

// === damage ===

#[test]
fn a_damaged_table_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    let largest =
        files(&path, "sst").into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    flip(&largest, fs::metadata(&largest).unwrap().len() / 2);
    damaged(open(&path), &path);
    // A second attempt fails, too: nothing was repaired by dropping data.
    damaged(open(&path), &path);
}

#[test]
fn a_missing_table_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    fs::remove_file(&files(&path, "sst")[0]).unwrap();
    damaged(open(&path), &path);
}

#[test]
fn a_damaged_manifest_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    let manifest = files(&path, "MANIFEST").pop().unwrap();
    flip(&manifest, fs::metadata(&manifest).unwrap().len() / 2);
    damaged(open(&path), &path);
    fs::remove_file(manifest).unwrap();
    damaged(open(&path), &path);
}

#[test]
fn a_store_without_its_current_file_is_not_taken_for_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    fs::write(path.join("CURRENT"), b"rubbish").unwrap();
    damaged(open(&path), &path);
    fs::remove_file(path.join("CURRENT")).unwrap();
    damaged(open(&path), &path);
}

#[test]
fn a_damaged_log_is_refused_but_an_unfinished_group_at_its_end_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    let log = files(&path, "log").pop().unwrap();
    let whole = fs::read(&log).unwrap();
    // x, y and z are records of the same size.
    let each = whole.len() as u64 / 3;

    let copy = folder.path().join("cut");
    copy_store(&path, &copy);
    let cut = copy.join(log.file_name().unwrap());
    OpenOptions::new().write(true).open(cut).unwrap().set_len(whole.len() as u64 - 1).unwrap();
    let store = open(&copy).unwrap();
    assert!(store.get(T, b"y").unwrap().is_some());
    assert!(store.get(T, b"z").unwrap().is_none());

    flip(&log, each + each / 2);
    damaged(open(&path), &path);
}

#[test]
fn a_last_group_that_the_power_cut_a_hole_into_is_dropped_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    let store = open(&path).unwrap();
    put(&store, b"first", &noise(1).repeat(100));
    let first_end = fs::metadata(files(&path, "log").pop().unwrap()).unwrap().len();
    put(&store, b"second", &noise(2).repeat(500));
    drop(store);
    let log = files(&path, "log").pop().unwrap();
    let end = fs::metadata(&log).unwrap().len();
    let with_hole = |name: &str, from: u64, to: u64| {
        let copy = folder.path().join(name);
        copy_store(&path, &copy);
        let zeros = vec![0; usize::try_from(to - from).unwrap()];
        let log = OpenOptions::new().write(true).open(copy.join(log.file_name().unwrap())).unwrap();
        log.write_all_at(&zeros, from).unwrap();
        copy
    };
    let page = |at: u64| at.next_multiple_of(4096);
    let holes = [
        (page(first_end), end),
        (page(first_end), page(first_end) + 4096),
        (32 << 10, 36 << 10),
        (64 << 10, 96 << 10),
        (page(end) - 4096, end),
    ];
    for (number, (from, to)) in holes.into_iter().enumerate() {
        let copy = with_hole(&format!("torn-{number}"), from, to);
        let store = open(&copy).unwrap();
        assert!(store.get(T, b"first").unwrap().is_some());
        assert!(store.get(T, b"second").unwrap().is_none());
        put(&store, b"third", b"1");
        drop(store);
        assert!(open(&copy).unwrap().get(T, b"third").unwrap().is_some());
    }
    let copy = with_hole("damaged", 4096, 8192);
    damaged(open(&copy), &copy);
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    // The files that RocksDB has written if it is killed before it writes CURRENT.
    for file in ["IDENTITY", "LOCK", "MANIFEST-000001"] {
        fs::write(folder.path().join(file), b"").unwrap();
    }
    put(&open(folder.path()).unwrap(), b"a", b"1");
    assert!(open(folder.path()).unwrap().get(T, b"a").unwrap().is_some());
}

// === versions ===

#[test]
fn a_new_store_has_the_schema_version_and_a_newer_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let version = store.get(Table::Meta, meta::SCHEMA_VERSION).unwrap().unwrap();
    assert_eq!(version, 1_u32.to_be_bytes());
    let newer = Batch::new().put(Table::Meta, meta::SCHEMA_VERSION.to_vec(), 2_u32.to_be_bytes().to_vec());
    assert!(store.commit(&[newer]).iter().all(Result::is_ok));
    drop(store);
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(refused, StoreError::TooNew { found: 2, known: 1, .. }), "{refused}");
}

#[test]
fn a_store_with_tables_of_a_newer_release_is_opened_far_enough_to_say_so() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
    let mut db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
    db.create_cf("of_tomorrow", &options).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), meta::SCHEMA_VERSION, 7_u32.to_be_bytes()).unwrap();
    drop(db);
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(refused, StoreError::TooNew { found: 7, known: 1, .. }), "{refused}");
}

#[test]
fn records_without_a_schema_version_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    put(&store, b"a", b"1");
    let batch = Batch::new().delete(Table::Meta, meta::SCHEMA_VERSION.to_vec());
    assert!(store.commit(&[batch]).iter().all(Result::is_ok));
    drop(store);
    damaged(open(folder.path()), folder.path());
}

// === back-ups ===
