//! The store refuses every write, as on a full disk: microVMs end nevertheless, and their ends are stored later.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{sleep, timeout};

use super::*;
use crate::store::{CommitError, Over, Store, StoreError};
use Request::{Resume, Suspend, Terminate};

const ID: &str = "microvm-vm";
/// Longer than any effect takes that does not hang.
const LONG: Duration = Duration::from_secs(20);
/// Longer than all of a story.
const LIFETIME: Duration = Duration::from_secs(300);

/// A store that can be read only, when it is told so.
#[derive(Debug, Default)]
struct Refusing {
    store: MemoryStore,
    refuses: AtomicBool,
}

impl Over for Refusing {
    fn below(&self) -> &dyn Store {
        &self.store
    }

    fn commits(&self, batches: &[Batch]) -> Vec<Result<(), CommitError>> {
        if self.refuses.load(Ordering::SeqCst) {
            return batches.iter().map(|_| Err(StoreError::NoRoom { path: self.place() }.into())).collect();
        }
        self.store.commit(batches)
    }
}

struct Site {
    store: Arc<Refusing>,
    platform: Double,
    clock: Clock,
    db: Db,
    microvms: Microvms,
    /// Kills the daemon when it becomes true.
    killed: Arc<AtomicBool>,
}

impl Site {
    /// A daemon with one microVM, which is being launched.
    async fn new() -> Self {
        let store = Arc::new(Refusing::default());
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let platform = Double::paced(STEP);
        let (microvms, db, killed) = start(&store, clock, &platform);
        let artifact = ArtifactRecord { build_id: BUILD.into(), ..ArtifactRecord::default() };
        let artifact =
            Batch::new().put(Table::Artifacts, records::artifact(BUILD), records::encode(&artifact));
        db.commit(artifact).await.unwrap();
        let mut record = new(ID, clock);
        let microvm = record.microvm.as_mut().unwrap();
        microvm.maximum_duration_in_seconds = i32::try_from(LIFETIME.as_secs()).unwrap();
        microvms.launch(record, Batch::new()).await.unwrap();
        Self { store, platform, clock, db, microvms, killed }
    }

    fn refuse(&self, refuses: bool) {
        self.store.refuses.store(refuses, Ordering::SeqCst);
    }

    async fn ask(&self, request: Request) -> Result<(), RequestError> {
        let answered = timeout(Duration::from_secs(1), self.microvms.request(ACCOUNT, ID, request)).await;
        answered.expect("it is answered at once")
    }

    fn phase(&self) -> Phase {
        let record: MicrovmRecord =
            self.db.get(Table::Microvms, &records::microvm(ACCOUNT, ID)).unwrap().unwrap();
        record.phase()
    }

    /// Whether nothing of the microVM is left on the host.
    fn is_gone(&self) -> bool {
        !self.platform.world().vms.contains_key(ID)
    }
}

fn start(store: &Arc<Refusing>, clock: Clock, platform: &Double) -> (Microvms, Db, Arc<AtomicBool>) {
    let db = Db::direct(Arc::clone(store) as Arc<dyn Store>);
    let (platform, killed) = (Arc::new(platform.clone()), Arc::new(AtomicBool::default()));
    let stops = Arc::clone(&killed);
    let faults = Faults::stopping(move |_| stops.load(Ordering::SeqCst));
    let capacity = Capacity::new(CAPACITY);
    let microvms = Microvms::new(CONFIG, capacity, db.clone(), clock, platform, Arc::new(NoObserver), faults);
    (microvms, db, killed)
}

fn is_not_stored(result: &Result<(), RequestError>) -> bool {
    matches!(result, Err(RequestError::Store(StoreError::NoRoom { .. })))
}

/// Brings a microVM to some moment of its life – launch, running, suspend, suspended, resume, running –, where the store
/// begins to refuse.
async fn at(moment: u64) -> Site {
    let site = Site::new().await;
    let story = async {
        sleep(STEP * 5).await;
        site.ask(Suspend).await.unwrap();
        sleep(STEP * 6).await;
        site.ask(Resume).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = story => {}
        () = sleep(Duration::from_millis(moment)) => {}
    }
    site.refuse(true);
    site
}

/// Moments of that story, in milliseconds: each step takes 100 ms.
fn moments() -> impl Iterator<Item = u64> {
    (10..1_600).step_by(45)
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_refuses_a_microvm_ends_and_its_end_is_stored_later() {
    // At once, and when what was under way has come to its end, which cannot be stored.
    for (moment, later) in moments().flat_map(|moment| [(moment, Duration::ZERO), (moment, LONG)]) {
        let site = at(moment).await;
        sleep(later).await;
        let before = site.phase();
        let answer = site.ask(Terminate).await;
        assert!(is_not_stored(&answer), "{moment}, {before:?}: {answer:?}");
        sleep(LONG).await;
        assert!(site.is_gone(), "{moment}, {before:?}: nothing is left of it");
        assert_eq!(site.phase(), before, "{moment}: nothing was stored");
        let answer = site.ask(Terminate).await;
        assert!(is_not_stored(&answer), "{moment}, {before:?}: {answer:?}");
        site.refuse(false);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(site.phase(), Phase::Terminated, "{moment}, {before:?}");
        site.ask(Terminate).await.unwrap();
        assert_eq!(site.microvms.capacity().1, 0, "{moment}, {before:?}");
        site.microvms.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_before_an_end_is_stored_leaves_nothing_that_cannot_be_ended() {
    for moment in moments() {
        let site = at(moment).await;
        site.ask(Terminate).await.unwrap_err();
        sleep(LONG).await;
        site.killed.store(true, Ordering::SeqCst);
        site.refuse(false);
        let (microvms, db, killed) = start(&site.store, site.clock, &site.platform);
        let before = site.phase();
        let site = Site { microvms, db, killed, ..site };
        site.microvms.recover(HashSet::new()).await.unwrap();
        sleep(LONG).await;
        site.ask(Terminate).await.unwrap();
        sleep(LONG).await;
        assert_eq!((site.phase(), site.is_gone()), (Phase::Terminated, true), "{moment}, {before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_also_while_nothing_can_be_stored() {
    for moment in moments() {
        let site = at(moment).await;
        sleep(LIFETIME + LONG).await;
        assert!(site.is_gone(), "{moment}, {:?}", site.phase());
        site.refuse(false);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(site.phase(), Phase::Terminated, "{moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_refused_and_the_daemon_can_stop_while_nothing_can_be_stored() {
    for moment in moments() {
        let site = at(moment).await;
        sleep(LONG).await; // for what is under way, which then waits to be stored
        let (before, processes) = (site.phase(), site.platform.world().vms[ID].process);
        for request in [Suspend, Resume] {
            if let Ok(()) = site.ask(request).await {
                assert_eq!(site.phase(), before, "{moment}: what is there already");
            }
        }
        sleep(LONG).await;
        assert_eq!(
            site.platform.world().vms[ID].process,
            processes,
            "{moment}, {before:?}: nothing has begun"
        );
        timeout(LONG, site.microvms.stop()).await.expect("it stops");
    }
}
