//! Tests of the bucket on disk.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use hearth_proto::microvms::v1::{CodeArtifact, MicrovmImageVersion, code_artifact};
use hearth_proto::store::v1::VersionRecord;
use proptest::prelude::*;
use prost::Message as _;
use tempfile::TempDir;

mod hanging;

use super::collect::{Adopted, Collected, Referred};
use super::key::ArtifactName;
use super::list::Listing;
use super::multipart::{PartName, UploadId};
use super::object::About;
use super::upload::{Condition, Naming, Stored};
use super::*;
use crate::aside::Aside;
use crate::store::{Batch, Db, MemoryStore, Over, Store, StoreError, Table};

mod counts;

const ACCOUNT: &str = "111122223333";
const OTHER: &str = "444455556666";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Home {
    folder: TempDir,
    artifacts: Artifacts,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open("local", folder.path(), 100, Disk::unlimited()).unwrap();
        Self { folder, artifacts }
    }

    async fn put(&self, account: &str, key: &str, data: &[u8]) -> Result<Stored, ServiceError> {
        self.put_if(account, key, data, Condition::None).await
    }

    async fn put_if(
        &self,
        account: &str,
        key: &str,
        data: &[u8],
        condition: Condition,
    ) -> Result<Stored, ServiceError> {
        let mut upload = self.artifacts.begin(account, false, None).await.unwrap();
        upload.write(data).await?;
        let naming = Naming::Key(Key::new(key).unwrap());
        self.artifacts.finish(account, upload, &naming, About::default(), condition).await
    }

    async fn get(&self, account: &str, key: &str) -> Option<Vec<u8>> {
        let object = self.artifacts.get(account, &Key::new(key).unwrap()).await.ok()?;
        let chunks: Vec<Bytes> = object.read(0, u64::MAX).try_collect().await.unwrap();
        Some(chunks.concat())
    }

    /// All files below the bucket.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(self.folder.path()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    async fn list(&self, listing: Listing) -> (Vec<String>, Vec<String>, Option<String>) {
        let found = self.artifacts.list(ACCOUNT, listing).await.unwrap();
        let keys = found.objects.into_iter().map(|object| object.about.key).collect();
        (keys, found.prefixes, found.next)
    }
}

fn listing(prefix: &str, delimiter: Option<&str>, limit: usize) -> Listing {
    let delimiter = delimiter.map(str::to_owned);
    Listing { prefix: prefix.into(), delimiter, after: None, limit, bytes: usize::MAX }
}

#[tokio::test]
async fn an_artifact_is_there_as_a_whole_or_not_at_all() {
    let home = Home::new();
    let name = || Naming::Content(ArtifactName::new("app.zip").unwrap());
    let finish = async |upload| {
        home.artifacts.finish(ACCOUNT, upload, &name(), About::default(), Condition::None).await
    };
    let mut upload = home.artifacts.begin(ACCOUNT, true, None).await.unwrap();
    upload.write(b"abc").await.unwrap();
    upload.write(b"def").await.unwrap();
    assert_eq!(home.files().len(), 1);
    let stored = finish(upload).await.unwrap();
    let digest = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";
    let etag = "e80b5017098950fc58aad83c8c14978e".to_owned();
    assert_eq!(stored, Stored { key: format!("{digest}-app.zip"), etag, bytes: 6 });
    assert_eq!(home.files(), [format!("{ACCOUNT}/objects/{digest}-app.zip")]);
    assert_eq!(home.get(ACCOUNT, &stored.key).await.unwrap(), b"abcdef");

    let mut too_large = home.artifacts.begin(ACCOUNT, true, None).await.unwrap();
    too_large.write(&[0; 101]).await.unwrap_err();
    drop(too_large);
    finish(home.artifacts.begin(ACCOUNT, true, None).await.unwrap()).await.unwrap_err();
    assert_eq!(home.files().len(), 1, "nothing is left");
}

#[tokio::test]
async fn what_was_not_finished_is_removed_at_the_next_start() {
    let home = Home::new();
    home.put(ACCOUNT, "key", b"data").await.unwrap();
    let key = Key::new("big").unwrap();
    let id = home.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap();
    let upload = home.artifacts.begin(ACCOUNT, false, None).await.unwrap();
    assert_eq!(home.files().len(), 3);
    std::mem::forget(upload); // as a daemon that is killed
    let again = Artifacts::open("local", home.folder.path(), 100, Disk::unlimited()).unwrap();
    assert_eq!(home.files().len(), 2);
    let mut part = again.begin_part(ACCOUNT, (&key, id), 1, None).await.unwrap();
    part.write(b"x").await.unwrap();
    again.finish_part(ACCOUNT, (&key, id), 1, part).await.unwrap();
}

#[tokio::test]
async fn accounts_see_their_own_artifacts_only() {
    let home = Home::new();
    home.put(ACCOUNT, "key", b"mine").await.unwrap();
    assert_eq!(home.get(OTHER, "key").await, None);
    home.put(OTHER, "key", b"theirs").await.unwrap();
    home.put(OTHER, "other", b"theirs").await.unwrap();
    assert_eq!(home.get(ACCOUNT, "key").await.unwrap(), b"mine");
    assert_eq!(home.list(listing("", None, 10)).await.0, ["key"]);
    home.artifacts.remove(OTHER, &Key::new("key").unwrap()).await.unwrap();
    assert_eq!(home.get(ACCOUNT, "key").await.unwrap(), b"mine");
    // Builds read in the same way.
    let bucket: &dyn LocalBucket = &home.artifacts;
    let (file, bytes) = bucket.open(ACCOUNT, "key").unwrap().unwrap();
    let mut data = String::new();
    file.take(bytes).read_to_string(&mut data).unwrap();
    assert_eq!((data.as_str(), bucket.name()), ("mine", "local"));
    for (account, key) in [(OTHER, "key"), (ACCOUNT, "nothing"), (ACCOUNT, "")] {
        assert!(bucket.open(account, key).unwrap().is_none());
    }
    for account in ["", "..", "../444455556666", "44445555666"] {
        assert!(bucket.open(account, "key").is_err(), "{account}");
    }
}

#[tokio::test]
async fn keys_lead_to_no_other_folder_and_do_not_meet() {
    let home = Home::new();
    let long = "k".repeat(1024);
    let keys = ["a", "a/b", "a/b/", "../a", "/a", ".", "..", "a%2fb", "ä ö", "A", "a~b", &long, &long[1..]];
    for key in keys {
        home.put(ACCOUNT, key, &key.as_bytes()[..key.len().min(9)]).await.unwrap();
    }
    for key in keys {
        let expected = Some(key.as_bytes()[..key.len().min(9)].to_vec());
        assert_eq!(home.get(ACCOUNT, key).await, expected, "{key}");
    }
    assert_eq!(home.files().len(), keys.len());
    assert!(
        home.files().iter().all(|file| file.starts_with(&format!("{ACCOUNT}/objects/"))),
        "{:?}",
        home.files()
    );
    for key in ["", "\0", &"k".repeat(1025)] {
        assert!(Key::new(key).is_err());
    }
    for key in ["a\nb", "\u{1}", "\u{1f}", "a\x7f", "\u{ffff}"] {
        let error = home.put(ACCOUNT, key, b"1").await.unwrap_err();
        assert!(error.to_string().contains("control character"), "{key:?}: {error}");
        let key = Key::new(key).unwrap();
        home.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap_err();
        home.artifacts.remove(ACCOUNT, &key).await.unwrap();
    }
}

#[tokio::test]
async fn conditions_are_about_what_is_there() {
    let home = Home::new();
    let present = |etag: &str| Condition::Present(Some(etag.to_owned()));
    home.put_if(ACCOUNT, "key", b"1", Condition::Present(None)).await.unwrap_err();
    let first = home.put_if(ACCOUNT, "key", b"1", Condition::Absent).await.unwrap();
    home.put_if(ACCOUNT, "key", b"2", Condition::Absent).await.unwrap_err();
    home.put_if(ACCOUNT, "key", b"2", present("other")).await.unwrap_err();
    home.put_if(ACCOUNT, "key", b"2", present(&first.etag)).await.unwrap();
    let error = home.put_if(ACCOUNT, "key", b"3", present(&first.etag)).await.unwrap_err();
    assert_eq!(error.exception().name, "ConflictException");
    assert_eq!(home.get(ACCOUNT, "key").await.unwrap(), b"2");
    assert_eq!(home.files().len(), 1);
}

#[tokio::test]
async fn parts_become_an_artifact() {
    let home = Home::new();
    let key = Key::new("big.zip").unwrap();
    let about = About { headers: [("content-type".to_owned(), "a/b".to_owned())].into(), ..About::default() };
    let id = home.artifacts.begin_parts(ACCOUNT, &key, about).await.unwrap();
    let of = (&key, id);
    let put = async |number: u32, data: &[u8]| {
        let mut part = home.artifacts.begin_part(ACCOUNT, of, number, None).await?;
        part.write(data).await?;
        home.artifacts
            .finish_part(ACCOUNT, of, number, part)
            .await
            .map(|stored| PartName { number, etag: stored.etag })
    };
    let complete = async |parts: Vec<PartName>| {
        home.artifacts.complete_parts(ACCOUNT, of, parts, None, Condition::None).await
    };
    let old = put(7, b"old").await.unwrap();
    let second = put(7, b" world").await.unwrap();
    let first = put(2, b"hello").await.unwrap();
    for number in [0, 10_001] {
        put(number, b"x").await.unwrap_err();
    }
    assert!(put(8, &[0; 100]).await.is_err(), "all parts together are bounded");
    let told = |error: ServiceError| error.to_string();
    assert!(
        told(complete(vec![second.clone(), first.clone()]).await.unwrap_err()).contains("ascending order")
    );
    assert!(
        told(complete(vec![first.clone(), old]).await.unwrap_err()).contains("Part 7 could not be found")
    );
    complete(vec![]).await.unwrap_err();
    let parts = vec![first, second];
    let stored = complete(parts.clone()).await.unwrap();
    // MD5 of the parts' MD5s.
    assert_eq!((stored.etag.as_str(), stored.bytes), ("a56979024342128ecebc884e3442121b-2", 11));
    assert_eq!(home.get(ACCOUNT, "big.zip").await.unwrap(), b"hello world");
    let object = home.artifacts.get(ACCOUNT, &key).await.unwrap();
    assert_eq!(
        (object.about.headers["content-type"].as_str(), object.about.etag.clone()),
        ("a/b", stored.etag)
    );
    assert!(told(complete(parts).await.unwrap_err()).starts_with("The specified upload does not exist"));
    assert_eq!(home.files(), [format!("{ACCOUNT}/objects/big.zip")]);
}

#[tokio::test]
async fn an_upload_in_parts_belongs_to_its_account_and_key_and_can_be_given_up() {
    let home = Home::new();
    let (key, other) = (Key::new("key").unwrap(), Key::new("other").unwrap());
    let id = home.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap();
    assert_eq!(UploadId::new(&id.to_string()).unwrap(), id);
    assert!(UploadId::new("../../objects").is_err());
    for (account, key) in [(OTHER, &key), (ACCOUNT, &other)] {
        assert!(home.artifacts.begin_part(account, (key, id), 1, None).await.is_err());
        home.artifacts.abort_parts(account, (key, id)).await.unwrap_err();
    }
    let mut part = home.artifacts.begin_part(ACCOUNT, (&key, id), 1, None).await.unwrap();
    part.write(b"x").await.unwrap();
    home.artifacts.abort_parts(ACCOUNT, (&key, id)).await.unwrap();
    home.artifacts.finish_part(ACCOUNT, (&key, id), 1, part).await.unwrap_err();
    assert!(home.files().is_empty());
    for _ in 0..100 {
        home.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap();
    }
    let error = home.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap_err();
    assert!(error.to_string().contains("100 unfinished uploads"));
}

#[tokio::test]
async fn keys_are_listed_in_order_with_common_prefixes_page_by_page() {
    let home = Home::new();
    let long = format!("z/{}", "l".repeat(300));
    for key in ["b", "a/2", "a/1", "a", "c/x/y", "c/z", &long] {
        home.put(ACCOUNT, key, b"1").await.unwrap();
    }
    let (keys, prefixes, next) = home.list(listing("", None, 10)).await;
    assert_eq!(keys, ["a", "a/1", "a/2", "b", "c/x/y", "c/z", &long]);
    assert!(prefixes.is_empty() && next.is_none());
    let (keys, prefixes, _) = home.list(listing("", Some("/"), 10)).await;
    assert_eq!((keys, prefixes), (vec!["a".into(), "b".into()], vec!["a/".into(), "c/".into(), "z/".into()]));
    let (keys, prefixes, _) = home.list(listing("c/", Some("/"), 10)).await;
    assert_eq!((keys, prefixes), (vec!["c/z".to_owned()], vec!["c/x/".to_owned()]));
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let (keys, prefixes, next) = home.list(Listing { after, ..listing("", Some("/"), 2) }).await;
        assert!(keys.len() + prefixes.len() <= 2);
        seen.extend(keys.into_iter().chain(prefixes));
        after = next;
        if after.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["a", "a/", "b", "c/", "z/"]);
}

#[tokio::test]
async fn a_page_of_keys_ends_with_its_bytes_too() {
    let home = Home::new();
    let keys: Vec<String> = (0..9).map(|number| format!("{number}{}", "k".repeat(999))).collect();
    for key in &keys {
        home.put(ACCOUNT, key, b"1").await.unwrap();
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        // Two keys of 1000 bytes, each of which stands in its URI again.
        let (keys, _, next) = home.list(Listing { after, bytes: 5000, ..listing("", None, 100) }).await;
        seen.extend(keys);
        pages += 1;
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (keys.clone(), 5));
    let (first, _, next) = home.list(Listing { bytes: 1, ..listing("", None, 100) }).await;
    assert_eq!(first, keys[..1], "one has room whatever its size");
    assert_eq!(next.as_ref(), Some(&keys[0]));
}

#[tokio::test]
async fn what_is_old_and_not_referred_to_is_collected() {
    let home = Home::new();
    for key in ["old", "used", "young"] {
        home.put(ACCOUNT, key, b"1").await.unwrap();
    }
    home.put(OTHER, "used", b"1").await.unwrap();
    let now = SystemTime::now();
    let age = |path: &str, age: Duration| {
        let path = home.folder.path().join(path);
        fs::File::open(path).unwrap().set_modified(now - age).unwrap();
    };
    for path in
        [format!("{ACCOUNT}/objects/old"), format!("{ACCOUNT}/objects/used"), format!("{OTHER}/objects/used")]
    {
        age(&path, 31 * DAY);
    }
    let key = Key::new("key").unwrap();
    let ids = [(); 2].map(|()| home.artifacts.begin_parts(ACCOUNT, &key, About::default()));
    for (id, hours) in ids.into_iter().zip([23, 25]) {
        age(&format!("{ACCOUNT}/uploads/{}", id.await.unwrap()), Duration::from_secs(hours * 3600));
    }
    // An upload that ends between the look at the folder and that at the upload.
    std::os::unix::fs::symlink("nowhere", home.folder.path().join(ACCOUNT).join("uploads/ended")).unwrap();
    let late = home.folder.path().join(ACCOUNT).join("objects/late");
    let store = Late { store: MemoryStore::new(), late, modified: now - 31 * DAY };
    let (account, uri) =
        (ACCOUNT.to_owned(), Some(code_artifact::Artifact::Uri("s3://local/used".to_owned())));
    let version =
        MicrovmImageVersion { code_artifact: Some(CodeArtifact { artifact: uri }), ..Default::default() };
    let record = VersionRecord { account, version: Some(version), ..Default::default() };
    let batch = Batch::new().put(Table::Versions, b"version".to_vec(), record.encode_to_vec());
    store.commit(&[batch]).remove(0).unwrap();
    let db = Db::direct(Arc::new(store));
    let for_ever = home.artifacts.collect(&db, now, None, None).unwrap();
    assert_eq!(for_ever, Collected { artifacts: 0, uploads: 1 });
    let removed = home.artifacts.collect(&db, now, Some(30 * DAY), None).unwrap();
    assert_eq!(removed, Collected { artifacts: 2, uploads: 0 });
    let left = home.files().into_iter().filter(|file| file.contains("objects")).collect::<Vec<_>>();
    // What came while the store was asked was not looked at.
    assert_eq!(left, ["late", "used", "young"].map(|key| format!("{ACCOUNT}/objects/{key}")));
}

#[tokio::test]
async fn what_came_before_the_stores_restoration_is_set_aside() {
    let home = Home::new();
    for key in ["before", "after"] {
        home.put(ACCOUNT, key, b"1").await.unwrap();
    }
    let (data, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    for (key, days) in [("before", 41), ("after", 39)] {
        let path = home.folder.path().join(format!("{ACCOUNT}/objects/{key}"));
        fs::File::open(path).unwrap().set_modified(now - days * DAY).unwrap();
    }
    let aside = Aside::announce(data.path(), now - 40 * DAY).unwrap();
    let db = Db::direct(Arc::new(MemoryStore::new()));
    let collected = home.artifacts.collect(&db, now, Some(30 * DAY), Some(&aside)).unwrap();
    assert_eq!(collected, Collected { artifacts: 2, uploads: 0 });
    assert!(home.files().iter().all(|file| !file.contains("objects/")), "{:?}", home.files());
    let kept: Vec<_> = fs::read_dir(aside.folder().join("artifacts").join(ACCOUNT)).unwrap().collect();
    assert_eq!(kept.into_iter().map(|file| file.unwrap().file_name()).collect::<Vec<_>>(), ["before"]);
}

/// A store that is asked for versions while an old artifact comes.
#[derive(Debug)]
struct Late {
    store: MemoryStore,
    late: PathBuf,
    modified: SystemTime,
}

impl Over for Late {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    fn reads(&self, _key_or_prefix: &[u8]) -> Result<(), StoreError> {
        File::create(&self.late).unwrap().set_modified(self.modified).unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn artifacts_of_an_earlier_release_go_to_the_accounts_that_use_them() {
    let home = Home::new();
    for name in ["aa-app.zip", "bb-unused.zip"] {
        fs::write(home.folder.path().join(name), name).unwrap();
    }
    let uses = |account: &str| (account.to_owned(), "aa-app.zip".to_owned());
    let referred: Referred = HashSet::from([uses(ACCOUNT), uses(OTHER)]);
    let adopted = |given, left| Adopted { given, left };
    assert_eq!(home.artifacts.adopt(&referred, None, None).unwrap(), adopted(2, 1));
    for account in [ACCOUNT, OTHER] {
        assert_eq!(home.get(account, "aa-app.zip").await.unwrap(), b"aa-app.zip");
    }
    // Nobody knows whose the other one is, so it is lost to nobody and seen by nobody.
    let unused = home.folder.path().join("bb-unused.zip");
    assert_eq!(fs::read(&unused).unwrap(), b"bb-unused.zip");
    assert!(home.get(OTHER, "bb-unused.zip").await.is_none());
    // With one account it is that account's.
    assert_eq!(home.artifacts.adopt(&referred, Some(ACCOUNT), None).unwrap(), adopted(1, 0));
    assert_eq!(home.get(ACCOUNT, "bb-unused.zip").await.unwrap(), b"bb-unused.zip");
    assert!(home.get(OTHER, "bb-unused.zip").await.is_none() && !unused.exists());
    assert_eq!(home.artifacts.adopt(&referred, Some(ACCOUNT), None).unwrap(), adopted(0, 0));
}

#[tokio::test]
async fn a_damaged_file_is_no_artifact() {
    let home = Home::new();
    home.put(ACCOUNT, "key", b"data").await.unwrap();
    let path = home.folder.path().join(ACCOUNT).join("objects/key");
    let whole = fs::read(&path).unwrap();
    let key = Key::new("key").unwrap();
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(home.artifacts.get(ACCOUNT, &key).await.is_err(), "cut at {end}");
    }
    for index in 4..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(home.artifacts.get(ACCOUNT, &key).await.is_err(), "changed at {index}");
    }
}

#[test]
fn names_are_checked() {
    for name in ["", ".hidden", "../up", "a/b", "a b", &"a".repeat(129)] {
        assert!(ArtifactName::new(name).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn every_key_has_a_file_of_its_own(one in "\\PC{1,300}", other in "\\PC{1,300}") {
        let folder = Path::new("/objects");
        let [first, second] = [&one, &other].map(|key| Key::new(key).unwrap().path(folder));
        prop_assert_eq!(first == second, one == other);
        prop_assert_eq!(first.parent(), Some(folder));
        let name = first.file_name().unwrap().to_str().unwrap();
        prop_assert!(name.len() <= 200);
        if let Some(back) = Key::of_file_name(name) {
            prop_assert_eq!(back.as_str(), one);
        }
    }
}
