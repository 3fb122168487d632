//! The counted memory of accounts equals what a scan of the store finds, after any operations, failures and kills.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::platform::Exit;
use Request::{Resume, Suspend, Terminate};
use hearth_model::hooks::{Hook, HookOutcome};

const ACCOUNTS: [&str; 2] = [ACCOUNT, "444455556666"];
/// Memory that the microVMs of an account may have together, in MiB.
const LIMIT: u64 = 4096;

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    /// Microvms of this memory are launched for an account, one after another.
    Launch { account: usize, mib: u32, times: u8 },
    /// A client asks something of the microVM with this number.
    Ask(usize, Request),
    /// The microVM with this number exits by itself.
    Exits(usize),
    /// The next operation of the host at this point fails.
    Fails(Point),
    /// Time passes, in milliseconds.
    Passes(u64),
    /// The daemon is killed when it has passed so many fault points, or at once.
    Killed(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let request = prop_oneof![Just(Suspend), Just(Resume), Just(Terminate)];
    let point = prop_oneof![
        Just(Point::Launch),
        Just(Point::Resume),
        Just(Point::Discard),
        Just(Point::Save),
        Just(Point::Hook(Hook::Run)),
    ];
    let mib = prop_oneof![Just(512), Just(1024), Just(2048)];
    let act = prop_oneof![
        4 => (0..2usize, mib, 1..4u8).prop_map(|(account, mib, times)| Act::Launch { account, mib, times }),
        4 => (0..12usize, request).prop_map(|(number, request)| Act::Ask(number, request)),
        1 => (0..12usize).prop_map(Act::Exits),
        1 => point.prop_map(Act::Fails),
        3 => (0..700u64).prop_map(Act::Passes),
        1 => (0..6usize).prop_map(Act::Killed),
    ];
    prop::collection::vec(act, 1..40)
}

/// A daemon with a quota, and the parts that outlive it.
struct Site {
    store: Arc<MemoryStore>,
    platform: Double,
    clock: Clock,
    db: Db,
    microvms: Microvms,
    /// Number of fault points that the daemon passes before it is killed.
    fuse: Arc<AtomicUsize>,
    /// The accounts of all launched microVMs, by number.
    launched: Vec<&'static str>,
}

const LONG: usize = usize::MAX / 2;

impl Site {
    async fn new() -> Self {
        let (store, platform) = (Arc::new(MemoryStore::default()), Double::paced(STEP));
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let (microvms, db, fuse) = start(&store, &platform, clock);
        db.commit(artifact()).await.unwrap();
        Self { store, platform, clock, db, microvms, fuse, launched: Vec::new() }
    }

    /// Does something; restarts the daemon if it has been killed meanwhile.
    async fn act(&mut self, act: Act) {
        match act {
            Act::Launch { account, mib, times } => {
                for _ in 0..times {
                    self.launch(ACCOUNTS[account], mib).await;
                }
            }
            Act::Ask(number, request) => {
                if let Some(account) = self.launched.get(number).copied() {
                    let id = id(number);
                    let request = self.microvms.request(account, &id, request);
                    let _ = timeout(Duration::from_secs(1), request).await; // refused, or the daemon is dead
                }
            }
            Act::Exits(number) => {
                let runs = |vm: &crate::platform::double::Vm| vm.process.is_some();
                if self.platform.world().vms.get(&id(number)).is_some_and(runs) {
                    self.platform.exit(&id(number), Exit::App(1));
                }
            }
            Act::Fails(Point::Hook(hook)) => {
                self.platform
                    .once(Point::Hook(hook), Deviation::Answers(HookOutcome::Failed("refused".into())));
            }
            Act::Fails(point) => self.platform.once(point, Deviation::Fails("on purpose")),
            Act::Passes(ms) => sleep(Duration::from_millis(ms)).await,
            Act::Killed(0) => self.restart().await,
            Act::Killed(points) => self.fuse.store(points, Ordering::SeqCst),
        }
        if self.fuse.load(Ordering::SeqCst) == 0 {
            self.restart().await;
        }
    }

    async fn launch(&mut self, account: &'static str, mib: u32) {
        let id = id(self.launched.len());
        self.launched.push(account);
        let record = MicrovmRecord { account: account.to_owned(), memory_mib: mib, ..new(&id, self.clock) };
        let before = self.microvms.context.usage.of(account);
        let launch = self.microvms.launch(record, Batch::new());
        let Ok(launched) = timeout(Duration::from_secs(1), launch).await else { return }; // the daemon is dead
        let fits = before + u64::from(mib) <= LIMIT;
        match launched {
            Ok(()) => assert!(fits, "{before} MiB were used"),
            Err(LaunchError::Quota { limit_mib: LIMIT, .. }) => assert!(!fits, "{before} MiB were used"),
            Err(error) => panic!("{error}"),
        }
    }

    async fn restart(&mut self) {
        (self.microvms, self.db, self.fuse) = start(&self.store, &self.platform, self.clock);
        self.microvms.recover(HashSet::new()).await.unwrap();
    }

    /// What each account uses, by the records of all microVMs that use the files of a build.
    fn scanned(&self) -> BTreeMap<&'static str, u64> {
        let mut used: BTreeMap<_, _> = ACCOUNTS.iter().map(|account| (*account, 0)).collect();
        self.db
            .each(Table::ArtifactUses, b"", |key, _| {
                let id = std::str::from_utf8(key.rsplit(|byte| *byte == b'/').next().unwrap()).unwrap();
                for account in ACCOUNTS {
                    let at = records::microvm(account, id);
                    let record: Option<MicrovmRecord> = self.db.get(Table::Microvms, &at)?;
                    *used.get_mut(account).unwrap() += record.map_or(0, |it| u64::from(it.memory_mib));
                }
                Ok(())
            })
            .unwrap();
        used
    }

    fn counted(&self) -> BTreeMap<&'static str, u64> {
        ACCOUNTS.iter().map(|account| (*account, self.microvms.context.usage.of(account))).collect()
    }
}

fn id(number: usize) -> String {
    format!("microvm-{number}")
}

fn artifact() -> Batch {
    let artifact = ArtifactRecord { build_id: BUILD.into(), ..ArtifactRecord::default() };
    Batch::new().put(Table::Artifacts, records::artifact(BUILD), records::encode(&artifact))
}

fn start(store: &Arc<MemoryStore>, platform: &Double, clock: Clock) -> (Microvms, Db, Arc<AtomicUsize>) {
    let fuse = Arc::new(AtomicUsize::new(LONG));
    let burning = Arc::clone(&fuse);
    let faults = Faults::stopping(move |_| {
        let left = burning.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        !matches!(left, Ok(2..))
    });
    let db = Db::direct(Arc::clone(store) as Arc<dyn crate::store::Store>);
    let config = DriverConfig { max_memory_mib: Some(LIMIT), ..CONFIG };
    let platform = Arc::new(platform.clone());
    let capacity = Capacity::new(1 << 20);
    (Microvms::new(config, capacity, db.clone(), clock, platform, Arc::new(NoObserver), faults), db, fuse)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn counted_memory_is_what_a_scan_of_the_store_finds(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let mut site = Site::new().await;
            for act in acts {
                site.act(act).await;
                let (counted, scanned) = (site.counted(), site.scanned());
                for account in ACCOUNTS {
                    assert!(counted[account] >= scanned[account], "{counted:?} {scanned:?}");
                    assert!(scanned[account] <= LIMIT, "{scanned:?}");
                }
            }
            site.restart().await;
            assert_eq!(site.counted(), site.scanned(), "after a start");
            sleep(Duration::from_secs(60)).await; // much longer than any effect takes
            assert_eq!(site.counted(), site.scanned(), "at rest");
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn launches_at_the_same_time_take_what_there_is_and_no_more() {
    let db = Db::new(Arc::new(MemoryStore::default()));
    db.commit(artifact()).await.unwrap();
    let config = DriverConfig { max_memory_mib: Some(LIMIT), ..CONFIG };
    let clock = Clock::system();
    let platform = Arc::new(Double::default());
    let capacity = Capacity::new(1 << 20);
    let microvms = Microvms::new(config, capacity, db, clock, platform, Arc::new(NoObserver), Faults::none());
    let mut launches = JoinSet::new();
    for number in 0..40 {
        let (microvms, record) =
            (microvms.clone(), MicrovmRecord { memory_mib: 512, ..new(&id(number), clock) });
        launches.spawn(async move { microvms.launch(record, Batch::new()).await });
    }
    let launched = launches.join_all().await;
    assert_eq!(launched.iter().filter(|launched| launched.is_ok()).count(), 8);
    let full = |launched: &Result<(), LaunchError>| matches!(launched, Err(LaunchError::Quota { .. }));
    assert_eq!(launched.iter().filter(|launched| full(launched)).count(), 32);
    assert_eq!(microvms.context.usage.of(ACCOUNT), LIMIT);
    microvms.stop().await;
    assert_eq!(microvms.context.usage.of(ACCOUNT), 0, "nothing is counted any more");
}
