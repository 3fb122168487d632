//! What the bucket counts for each account is what a scan finds, and no account has more than it may.

use super::*;
use crate::disk::DiskConfig;

const ACCOUNTS: [&str; 2] = [ACCOUNT, OTHER];
const KEYS: [&str; 3] = ["a", "b/c", "d"];
/// What an account may have, in MiB and bytes.
const QUOTA: (u64, u64) = (1, 1 << 20);

/// A bucket with a quota, and its uploads in parts that have not ended.
struct Site {
    home: TempDir,
    artifacts: Artifacts,
    uploads: Vec<(&'static str, &'static str, UploadId)>,
}

fn open(folder: &Path) -> Artifacts {
    let disk = Disk::of(folder, DiskConfig { reserve_mib: Some(0), ..DiskConfig::default() }, Some(QUOTA.0))
        .unwrap();
    Artifacts::open("local", folder, 4 << 20, disk).unwrap()
}

/// What happens next. Accounts, keys and uploads are numbers, sizes are in KiB.
#[derive(Debug, Clone)]
enum Act {
    Put { account: usize, key: usize, kib: usize, given_up: bool },
    Remove { account: usize, key: usize },
    Begin { account: usize, key: usize },
    Part { upload: usize, number: u32, kib: usize },
    Complete { upload: usize, parts: Vec<u32> },
    Abort { upload: usize },
    Collect,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let (account, key, upload, kib) = (0..2usize, 0..3usize, 0..4usize, 0..700usize);
    let act = prop_oneof![
        4 => (account.clone(), key.clone(), kib.clone(), any::<bool>())
            .prop_map(|(account, key, kib, given_up)| Act::Put { account, key, kib, given_up }),
        2 => (account.clone(), key.clone()).prop_map(|(account, key)| Act::Remove { account, key }),
        2 => (account, key).prop_map(|(account, key)| Act::Begin { account, key }),
        4 => (upload.clone(), 1..4u32, kib).prop_map(|(upload, number, kib)| Act::Part { upload, number, kib }),
        2 => (upload.clone(), prop::collection::vec(1..4u32, 1..3))
            .prop_map(|(upload, parts)| Act::Complete { upload, parts }),
        1 => upload.prop_map(|upload| Act::Abort { upload }),
        1 => Just(Act::Collect),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..25)
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let artifacts = open(home.path());
        Self { home, artifacts, uploads: Vec::new() }
    }

    async fn act(&mut self, act: Act) {
        let artifacts = self.artifacts.clone();
        let key = |number: usize| Key::new(KEYS[number]).unwrap();
        let at = |upload: usize| self.uploads.get(upload).copied();
        match act {
            Act::Put { account, key: number, kib, given_up } => {
                let Ok(mut upload) = artifacts.begin(ACCOUNTS[account], false, None).await else { return };
                if upload.write(&vec![1; kib << 10]).await.is_ok() && !given_up {
                    let naming = Naming::Key(key(number));
                    let (about, none) = (About::default(), Condition::None);
                    artifacts.finish(ACCOUNTS[account], upload, &naming, about, none).await.unwrap();
                }
            }
            Act::Remove { account, key: number } => {
                artifacts.remove(ACCOUNTS[account], &key(number)).await.unwrap();
            }
            Act::Begin { account, key: number } => {
                let (account, name) = (ACCOUNTS[account], KEYS[number]);
                let begun = artifacts.begin_parts(account, &key(number), About::default()).await;
                let Ok(id) = begun else { return };
                self.uploads.push((account, name, id));
            }
            Act::Part { upload, number, kib } => {
                let Some((account, name, id)) = at(upload) else { return };
                let key = Key::new(name).unwrap();
                let begun = artifacts.begin_part(account, (&key, id), number, None).await;
                let Ok(mut part) = begun else { return };
                if part.write(&vec![2; kib << 10]).await.is_ok() {
                    artifacts.finish_part(account, (&key, id), number, part).await.unwrap();
                }
            }
            Act::Complete { upload, parts } => {
                let Some((account, name, id)) = at(upload) else { return };
                let key = Key::new(name).unwrap();
                let named = |number: u32| {
                    let path = id_folder(self.home.path(), account, id).join(format!("part-{number:05}"));
                    let etag = Object::open(&path).unwrap().map(|part| part.about.etag).unwrap_or_default();
                    PartName { number, etag }
                };
                let parts = parts.into_iter().map(named).collect();
                let none = Condition::None;
                if artifacts.complete_parts(account, (&key, id), parts, None, none).await.is_ok() {
                    self.uploads.remove(upload);
                }
            }
            Act::Abort { upload } => {
                let Some((account, name, id)) = at(upload) else { return };
                artifacts.abort_parts(account, (&Key::new(name).unwrap(), id)).await.unwrap();
                self.uploads.remove(upload);
            }
            Act::Collect => {
                let db = Db::direct(Arc::new(MemoryStore::default()));
                let later = SystemTime::now() + 2 * DAY;
                artifacts.collect(&db, later, Some(DAY), None).unwrap();
                self.uploads.clear();
            }
            Act::Restart => self.artifacts = open(self.home.path()),
        }
    }

    /// What each account has, as counted and as a scan finds it.
    fn counts(&self) -> [(u64, u64); 2] {
        ACCOUNTS.map(|account| (self.artifacts.usage().of(account), self.artifacts.scan(account).unwrap()))
    }
}

fn id_folder(home: &Path, account: &str, id: UploadId) -> PathBuf {
    home.join(account).join("uploads").join(id.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn counted_bytes_are_what_a_scan_of_the_bucket_finds(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut site = Site::new();
            for act in acts {
                site.act(act.clone()).await;
                for (counted, scanned) in site.counts() {
                    assert_eq!(counted, scanned, "after {act:?}");
                    // What is known of an artifact stands at its end, and is counted when it is complete.
                    assert!(scanned < QUOTA.1 + (64 << 10), "{scanned} bytes after {act:?}");
                }
            }
        });
    }
}

#[tokio::test]
async fn an_account_uploads_no_more_than_it_may_and_disturbs_no_other() {
    let site = Site::new();
    let put = async |account: &str, name: &str, kib: usize| {
        let mut upload = site.artifacts.begin(account, false, None).await?;
        for _ in 0..kib {
            upload.write(&[1; 1 << 10]).await?;
        }
        let naming = Naming::Key(Key::new(name).unwrap());
        site.artifacts.finish(account, upload, &naming, About::default(), Condition::None).await
    };
    put(ACCOUNT, "one", 600).await.unwrap();
    let error = put(ACCOUNT, "two", 600).await.unwrap_err();
    assert_eq!(error.exception().name, "ServiceQuotaExceededException");
    let said = "The MicroVMs, images and artifacts of this account take as much disk as they may: 1 MiB. Delete what is not needed";
    assert_eq!(error.to_string(), said);
    let taken = site.artifacts.scan(ACCOUNT).unwrap() >> 10;
    assert!((600..608).contains(&taken), "{taken} KiB: nothing of it is left");
    // One that is announced is refused before anything comes.
    site.artifacts.admit(ACCOUNT, 600 << 10).unwrap_err();
    site.artifacts.admit(ACCOUNT, 300 << 10).unwrap();
    // Parts count, too.
    let key = Key::new("big").unwrap();
    let id = site.artifacts.begin_parts(ACCOUNT, &key, About::default()).await.unwrap();
    let part = async |number: u32| {
        let mut part = site.artifacts.begin_part(ACCOUNT, (&key, id), number, None).await?;
        part.write(&[1; 300 << 10]).await?;
        site.artifacts.finish_part(ACCOUNT, (&key, id), number, part).await
    };
    part(1).await.unwrap();
    part(2).await.unwrap_err();
    put(OTHER, "one", 900).await.unwrap();
    site.artifacts.remove(ACCOUNT, &Key::new("one").unwrap()).await.unwrap();
    part(2).await.unwrap();
}

#[tokio::test]
async fn nothing_is_uploaded_to_a_disk_that_is_too_full() {
    let home = tempfile::tempdir().unwrap();
    // More than any disk has.
    let disk =
        Disk::of(home.path(), DiskConfig { reserve_mib: Some(1 << 40), ..DiskConfig::default() }, None)
            .unwrap();
    let artifacts = Artifacts::open("local", home.path(), 100, disk).unwrap();
    let Err(error) = artifacts.begin(ACCOUNT, false, None).await else { panic!("it was begun") };
    assert_eq!(error.exception().name, "InsufficientCapacityException");
    assert_eq!(artifacts.scan(ACCOUNT).unwrap(), 0);
}

#[tokio::test]
async fn a_small_artifact_counts_for_the_inode_that_it_takes() {
    let site = Site::new();
    let put = async |number: usize| {
        let mut upload = site.artifacts.begin(ACCOUNT, false, None).await?;
        upload.write(b"x").await?;
        let naming = Naming::Key(Key::new(&number.to_string()).unwrap());
        site.artifacts.finish(ACCOUNT, upload, &naming, About::default(), Condition::None).await
    };
    let mut stored = 0;
    while put(stored).await.is_ok() {
        stored += 1;
    }
    assert_eq!(stored, 63, "16 KiB each, and some bytes more while one is written");
}
