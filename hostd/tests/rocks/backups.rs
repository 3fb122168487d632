//! Backups: they are taken while the store is in use, and restored.

use hearth_hostd::store::rocks::backup::restore;

use super::super::*;

#[test]
fn a_backup_is_the_store_as_it_was_and_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let [path, backup, restored] = ["store", "backup", "restored"].map(|name| folder.path().join(name));
    filled(&path);
    let store = open(&path).unwrap();
    put(&store, b"before", b"1");
    let bytes = store.back_up(&backup).unwrap();
    let on_disk: u64 =
        fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bytes, on_disk);
    put(&store, b"after", b"1");
    let expected: Vec<_> = keys(&store, T).into_iter().filter(|key| key != b"after").collect();
    drop(store);
    // Damage of the store's files does not affect the backup's.
    for file in files(&path, "sst") {
        OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    damaged(open(&path), &path);

    restore(&backup, &restored, &RocksOptions::default()).unwrap();
    let store = open(&restored).unwrap();
    assert_eq!(keys(&store, T), expected);
    put(&store, b"goes on", b"1");
    // The backup can be used again.
    restore(&backup, &folder.path().join("again"), &RocksOptions::default()).unwrap();
    assert_eq!(names(folder.path()), ["again", "backup", "restored", "store"]);
}

#[test]
fn backups_are_taken_while_commits_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let [path, backup, restored] = ["store", "backup", "restored"].map(|name| folder.path().join(name));
    let db = Db::new(Arc::new(open(&path).unwrap()));
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
        let (ready, mut written) = tokio::sync::mpsc::channel(1);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writer = tokio::spawn({
            let db = db.clone();
            async move {
                let mut number = 0_u32;
                while stopped.try_recv().is_err() {
                    let key = number.to_be_bytes().to_vec();
                    let batch =
                        Batch::new().put(T, key.clone(), noise(number)).put(Table::Expiries, key, vec![]);
                    db.commit(batch).await.unwrap();
                    number += 1;
                    let _ = ready.try_send(number);
                }
            }
        });
        let before = written.recv().await.unwrap();
        db.back_up(backup.clone()).await.unwrap();
        stop.send(()).unwrap();
        writer.await.unwrap();
        restore(&backup, &restored, &RocksOptions::default()).unwrap();
        let store = open(&restored).unwrap();
        let found = keys(&store, T);
        assert_eq!(found, keys(&store, Table::Expiries));
        assert!(found.len() >= usize::try_from(before).unwrap());
        // Commits that were made one after another are present without a gap.
        for (number, key) in (0_u32..).zip(found) {
            assert_eq!(key, number.to_be_bytes());
        }
    });
}

#[test]
fn a_backup_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store")).unwrap();
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    assert!(matches!(store.back_up(&taken), Err(StoreError::BackupExists(_))));
    fs::remove_dir(&taken).unwrap();
    store.back_up(&taken).unwrap();
    assert_eq!(names(folder.path()), ["store", "taken"]);
}

#[test]
fn a_damaged_store_makes_no_backup() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path);
    let store = open(&path).unwrap();
    let largest =
        files(&path, "sst").into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    flip(&largest, fs::metadata(&largest).unwrap().len() / 2);
    let refused = store.back_up(&folder.path().join("backup")).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert_eq!(names(folder.path()), ["store"]);
}

#[test]
fn restoring_refuses_what_is_no_backup_and_what_would_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let [path, backup, target] = ["store", "backup", "target"].map(|name| folder.path().join(name));
    filled(&path);
    let store = open(&path).unwrap();
    store.back_up(&backup).unwrap();
    let refused = |from: &Path, to: &Path, why: &str| {
        let error = restore(from, to, &RocksOptions::default()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&backup, &path, "exists");
    refused(&path, &target, "is a store and not a backup");
    refused(&folder.path().join("nothing"), &target, "there is no backup");
    let largest =
        files(&backup, "sst").into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    flip(&largest, fs::metadata(&largest).unwrap().len() / 2);
    refused(&backup, &target, "is damaged");
    assert_eq!(names(folder.path()), ["backup", "store"]);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
