//! State that the operations and the tasks of all images share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hearth_image_builder::build::settings::BuilderLimits;
use hearth_model::build::ImageBuild;
use hearth_model::shape::Burst;
use tokio::sync::watch;

use super::build::{Build, BuildObserver};
use super::key::{Key, Locks};
use super::progress::Progress;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::driver::Capacity;
use crate::driver::faults::Faults;
use crate::events::Events;
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::store::Db;
use crate::turns::{Limits, Turns};

/// Pause before a task retries an operation of the store that failed.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The area of the fault points at which tests simulate crashes.
pub(super) const AREA: &str = "image";

/// Settings and limits.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Region for apps' environments.
    pub region: String,
    /// How many times its memory class a guest gets.
    pub burst: Burst,
    /// The processor's generation: [`super::generation::of_host`].
    pub generation: String,
    /// Builds that run at a time on this host, at least 1; others wait, PENDING, and accounts take turns.
    pub concurrent_builds: usize,
    /// Images of an account; unlimited unless given.
    pub max_images: Option<u64>,
    /// Versions of an image; unlimited unless given.
    pub max_versions: Option<u64>,
    /// Builds of an account that run or wait; unlimited unless given.
    pub max_builds: Option<u64>,
    /// Limits of each build.
    pub limits: BuilderLimits,
    /// Whether the `stateReason` of a build says more than AWS's sentence.
    pub details: bool,
}

/// The components that [`super::Images`] uses.
pub struct Parts {
    /// The store.
    pub db: Db,
    /// The source of the current time.
    pub clock: Clock,
    /// Receives events about changes.
    pub events: Events,
    /// Removes the files of builds.
    pub platform: Arc<dyn Platform>,
    /// Whether there is room for a build when it begins.
    pub disk: Disk,
    /// The host's memory, which builds share with microVMs.
    pub capacity: Capacity,
    /// Builds images.
    pub build: Arc<dyn Build>,
    /// Observes builds: logs, metrics.
    pub observer: Arc<dyn BuildObserver>,
    /// Points at which tests simulate crashes.
    pub faults: Faults,
    /// Settings and limits.
    pub settings: Settings,
}

/// State that the operations and the tasks of all images share.
pub(super) struct Context {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) platform: Arc<dyn Platform>,
    pub(super) disk: Disk,
    pub(super) capacity: Capacity,
    pub(super) build: Arc<dyn Build>,
    pub(super) observer: Arc<dyn BuildObserver>,
    pub(super) faults: Faults,
    pub(super) settings: Settings,
    pub(super) locks: Locks,
    /// Held from the check of a quota until the new image or version is stored.
    pub(super) admission: tokio::sync::Mutex<()>,
    /// Turns at running a build. Who waits is bounded by `max_builds`, and waits for as long as it takes.
    pub(super) turns: Turns,
    /// The builds that wait or run, by image and version.
    active: Mutex<HashMap<(Key, u32), ActiveBuild>>,
    /// Builds that were stopped after they had begun: with image, version and build id.
    pub(super) interrupted: Mutex<Vec<(Key, u32, String)>>,
    /// Set to true to stop all tasks; each of them has a receiver.
    pub(super) stop: watch::Sender<bool>,
}

/// A build that waits or runs.
pub(super) struct ActiveBuild {
    pub(super) progress: Arc<Progress>,
    pub(super) build: ImageBuild,
}

impl Context {
    /// The state of a daemon that has no tasks yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { db, clock, events, platform, disk, capacity, build, observer, faults, settings } = parts;
        let places = settings.concurrent_builds;
        let limits = Limits { places, per_account: places, waiting: usize::MAX, patience: Duration::MAX };
        Self {
            turns: Turns::new(limits),
            db,
            clock,
            events,
            platform,
            disk,
            capacity,
            build,
            observer,
            faults,
            settings,
            locks: Locks::default(),
            admission: tokio::sync::Mutex::default(),
            active: Mutex::default(),
            interrupted: Mutex::default(),
            stop: watch::Sender::new(false),
        }
    }

    /// Runs a task until it is done or the daemon stops.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
        });
    }

    /// Registers a build as under way; returns false if it was registered before.
    pub(super) fn register(
        &self,
        key: &Key,
        number: u32,
        progress: Arc<Progress>,
        build: ImageBuild,
    ) -> bool {
        let mut active = self.active();
        let free = !active.contains_key(&(key.clone(), number));
        if free {
            active.insert((key.clone(), number), ActiveBuild { progress, build });
        }
        free
    }

    /// Called when a build that had begun is dropped. If the daemon is being stopped, the build is noted as
    /// interrupted; otherwise the daemon is crashing.
    pub(super) fn record_interruption(&self, key: &Key, number: u32, build_id: &str) {
        if *self.stop.borrow() {
            let mut interrupted = self.interrupted.lock().unwrap_or_else(poisoned);
            interrupted.push((key.clone(), number, build_id.to_owned()));
        }
    }

    /// Removes a finished build from those under way.
    pub(super) fn unregister(&self, key: &Key, number: u32) {
        self.active().remove(&(key.clone(), number));
    }

    pub(super) fn active(&self) -> MutexGuard<'_, HashMap<(Key, u32), ActiveBuild>> {
        self.active.lock().unwrap_or_else(poisoned)
    }
}
