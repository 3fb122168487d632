//! Tests of the drivers on a double of the host, in simulated time.

mod faults;
mod full_disk;
mod gate;
mod scenarios;
mod unresponsive;
mod usage;
mod wrong_results;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hearth_proto::microvms::v1::{IdlePolicy, Microvm, MicrovmState};
use hearth_proto::store::v1::{ArtifactRecord, MicrovmRecord, Phase};

use super::context::NoObserver;
use super::deadlines::Deadlines;
use super::faults::Faults;
use super::{Capacity, DriverConfig, LaunchError, Microvms, RequestError, record};
use crate::clock::Clock;
use crate::lifecycle::microvm::{Request, Rules};
use crate::platform::double::{Deviation, Double, Point};
use crate::records;
use crate::store::{Batch, Db, MemoryStore, Table};

const ACCOUNT: &str = "111122223333";
const BUILD: &str = "b-1";
/// How long any operation of the host takes; a save takes twice as long.
const STEP: Duration = Duration::from_millis(100);

/// The daemon, and the parts that outlive it.
struct Host {
    store: Arc<MemoryStore>,
    platform: Double,
    clock: Clock,
    rules: Rules,
    microvms: Microvms,
    db: Db,
}

/// The host's memory for microVMs in MiB.
const CAPACITY: u64 = 4096;

const CONFIG: DriverConfig = DriverConfig {
    max_memory_mib: None,
    rules: DEFAULT,
    retention: Duration::from_secs(86_400),
    drain: Duration::from_secs(5),
    deadlines: DEADLINES,
};
const DEADLINES: Deadlines = Deadlines { launch: Duration::from_secs(30), suspend: Duration::from_secs(600) };
const DEFAULT: Rules = Rules { failed_suspend_hook_terminates: false, resume_cancels_suspend: true };

impl Host {
    async fn new(rules: Rules, faults: Faults) -> Self {
        let store = Arc::new(MemoryStore::default());
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let platform = Double::paced(STEP);
        let (microvms, db) = daemon(&store, clock, &platform, rules, faults);
        let artifact =
            records::encode(&ArtifactRecord { build_id: BUILD.into(), ..ArtifactRecord::default() });
        db.commit(Batch::new().put(Table::Artifacts, records::artifact(BUILD), artifact)).await.unwrap();
        Self { store, platform, clock, rules, microvms, db }
    }

    /// Kills the daemon and starts it again.
    async fn restart(&mut self) {
        (self.microvms, self.db) =
            daemon(&self.store, self.clock, &self.platform, self.rules, Faults::none());
        self.microvms.recover(HashSet::new()).await.unwrap();
    }

    fn record(&self, id: &str) -> Option<MicrovmRecord> {
        self.db.get(Table::Microvms, &records::microvm(ACCOUNT, id)).unwrap()
    }

    fn microvm(&self, id: &str) -> Microvm {
        self.record(id).unwrap().microvm.unwrap()
    }

    async fn run(&self, id: &str) -> Result<(), LaunchError> {
        self.microvms.launch(new(id, self.clock), Batch::new()).await
    }

    async fn ask(&self, id: &str, request: Request) -> Result<(), RequestError> {
        self.microvms.request(ACCOUNT, id, request).await
    }

    /// Waits until clients see `state`.
    async fn until(&self, id: &str, state: MicrovmState) -> Microvm {
        for _ in 0..10_000 {
            if self.microvm(id).state() == state {
                return self.microvm(id);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} stays {:?} at {:?}", self.record(id).unwrap(), self.clock.now());
    }
}

fn daemon(
    store: &Arc<MemoryStore>,
    clock: Clock,
    platform: &Double,
    rules: Rules,
    faults: Faults,
) -> (Microvms, Db) {
    let db = Db::direct(Arc::clone(store) as Arc<dyn crate::store::Store>);
    let config = DriverConfig { rules, ..CONFIG };
    let platform = Arc::new(platform.clone());
    let capacity = Capacity::new(CAPACITY);
    (Microvms::new(config, capacity, db.clone(), clock, platform, Arc::new(NoObserver), faults), db)
}

/// A microVM's record as RunMicrovm creates it.
fn new(id: &str, clock: Clock) -> MicrovmRecord {
    let microvm = Microvm {
        microvm_id: id.to_owned(),
        state: MicrovmState::Pending.into(),
        started_at: Some(clock.timestamp()),
        maximum_duration_in_seconds: 28_800,
        idle_policy: Some(IdlePolicy {
            max_idle_duration_seconds: Some(900),
            suspended_duration_seconds: Some(1800),
            auto_resume_enabled: Some(true),
        }),
        ..Microvm::default()
    };
    MicrovmRecord {
        account: ACCOUNT.to_owned(),
        microvm: Some(microvm),
        phase: Phase::Launching.into(),
        image_name: "app".to_owned(),
        image_uid: "uid".to_owned(),
        build_id: BUILD.to_owned(),
        memory_mib: 2048,
        run_hook_payload: "secret".to_owned(),
        ..MicrovmRecord::default()
    }
}
