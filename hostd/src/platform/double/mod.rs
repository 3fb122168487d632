//! The only double of a host, for tests and benches of all crates: microVMs and files in memory, apps that are
//! servers of the test.
//!
//! By default it behaves as [`Platform`] and [`Guest`](super::Guest) specify. A [`Deviation`] makes it fail, hang or report
//! wrong results at a [`Point`]: once, or until the point is released. Clones share one host, which outlives the
//! daemons that a test kills and starts.
//!
//! Time is tokio's, which may be simulated: the double waits for nothing but releases by the test, and for its
//! sockets when it has apps.
//!
//! | File | Contents |
//! |---|---|
//! | `script.rs` | where the host deviates from its contract, and how |
//! | `world.rs` | the state of the host: its microVMs and files |
//! | `guest.rs` | a microVM |
//! | `app.rs` | connections to the ports of apps |

mod app;
mod guest;
mod script;
#[cfg(test)]
mod tests;
mod world;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_model::build::ImageBuild;
use hearth_model::id::MicrovmId;
use tokio::sync::watch;

pub use script::{Deviation, FoundState, Point};
pub use world::{Vm, World};

use super::{Exit, Found, Guest, Platform, PlatformError, Spec};
use guest::DoubleGuest;

/// A simulated host.
#[derive(Debug, Clone, Default)]
pub struct Double {
    world: Arc<Mutex<World>>,
    /// Counts the operations that were requested.
    request_count: Arc<watch::Sender<u64>>,
    /// How long every operation takes.
    pace: Duration,
    /// Whether connections to apps are the sockets themselves.
    direct: bool,
}

impl Double {
    /// A host on which every operation that changes a microVM takes `pace`, and a save twice that.
    #[must_use]
    pub fn paced(pace: Duration) -> Self {
        Self { pace, ..Self::default() }
    }

    /// A host whose connections to apps are the sockets themselves, for benches: no relay passes their bytes on, as
    /// an agent does, and they outlive the microVM.
    #[must_use]
    pub fn direct() -> Self {
        Self { direct: true, ..Self::default() }
    }

    /// The state of the host, locked: no operation proceeds while the guard lives.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next operation at `point` deviate like this. Several calls take effect one after another.
    ///
    /// # Panics
    /// If `deviation` has no meaning at `point`.
    pub fn once(&self, point: Point, deviation: Deviation) {
        self.world().script.add(point, None, deviation, true);
    }

    /// Makes all operations at `point` deviate like this from now on.
    ///
    /// # Panics
    /// If `deviation` has no meaning at `point`.
    pub fn always(&self, point: Point, deviation: Deviation) {
        self.world().script.add(point, None, deviation, false);
    }

    /// Makes all operations at `point` for the microVM `id` deviate like this from now on.
    ///
    /// # Panics
    /// If `deviation` has no meaning at `point`.
    pub fn always_for(&self, id: &str, point: Point, deviation: Deviation) {
        self.world().script.add(point, Some(id), deviation, false);
    }

    /// Makes operations at `point` behave correctly from now on, and releases those that hang there.
    pub fn release(&self, point: Point) {
        self.world().script.release(|other| other == point);
    }

    /// Makes all operations behave correctly from now on, and releases those that hang.
    pub fn behave(&self) {
        self.world().script.release(|_| true);
    }

    /// Waits until an operation has hung at `point`.
    pub async fn hung(&self, point: Point) {
        let mut request_count = self.request_count.subscribe();
        while !self.world().script.has_hung(point) {
            let _ = request_count.changed().await; // never closed: `self` holds the sender
        }
    }

    /// A microVM or its app exits by itself.
    pub fn exit(&self, id: &str, exit: Exit) {
        self.claim_exit(id, exit.clone());
        if !matches!(exit, Exit::App(_)) {
            self.world().end_process(id);
        }
    }

    /// A wrong report: the host reports the exit of a microVM that runs on.
    pub fn claim_exit(&self, id: &str, exit: Exit) {
        let mut world = self.world();
        let process = world.vms.get(id).and_then(|vm| vm.process);
        if let Some(process) = process.and_then(|number| world.process(number)) {
            process.exit.send_replace(Some(exit));
        }
    }

    /// A missing report: a microVM's process exits, and the host does not report it.
    pub fn vanish(&self, id: &str) {
        self.world().end_process(id);
    }

    /// Records an operation, and returns how it deviates from the contract. An operation that hangs returns after its
    /// release.
    async fn request(&self, point: Point, id: Option<&str>) -> Option<Deviation> {
        let (deviation, held) = {
            let mut world = self.world();
            if !matches!(point, Point::Connect(_) | Point::Shell) {
                world.requests.push((point, id.map(str::to_owned)));
            }
            let deviation = world.script.next(point, id);
            let held = (deviation == Some(Deviation::Hangs)).then(|| world.script.hold(point));
            (deviation, held)
        };
        self.request_count.send_modify(|request_count| *request_count += 1);
        assert_ne!(deviation, Some(Deviation::Panics), "a test wants it");
        match held {
            Some(held) => {
                let _ = held.await; // released by being dropped
                None
            }
            None => deviation,
        }
    }

    /// Waits as long as every operation takes.
    async fn pace(&self) {
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
    }

    /// The guest of a microVM's present process, or of a process that does not exist.
    fn guest(&self, id: &str) -> Arc<dyn Guest> {
        let process = self.world().vms.get(id).and_then(|vm| vm.process);
        self.guest_with(id, process.unwrap_or(World::NOBODY))
    }

    fn guest_with(&self, id: &str, process: u64) -> Arc<dyn Guest> {
        Arc::new(DoubleGuest { host: self.clone(), id: id.to_owned(), process })
    }

    /// The result of a launch or a resume.
    fn launched(
        &self,
        deviation: Option<&Deviation>,
        id: &str,
        from: u64,
    ) -> Result<Arc<dyn Guest>, PlatformError> {
        let begin = || self.guest_with(id, self.world().begin(id, from));
        match deviation {
            Some(Deviation::Mistakes(other)) => Ok(self.guest(other)),
            Some(Deviation::Pretends) => Ok(self.guest_with(id, World::NOBODY)),
            deviation => done(deviation, failed, || Ok(begin())),
        }
    }
}

/// Carries out an operation unless it fails or is only pretended, and returns the result to report. `error` makes an
/// error from a reason.
fn done<T, E>(
    deviation: Option<&Deviation>,
    error: impl FnOnce(&str) -> E,
    act: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    match deviation {
        Some(Deviation::Fails(why)) => Err(error(why)),
        Some(Deviation::Denies(why)) => {
            let _ = act(); // carried out, but reported as failed
            Err(error(why))
        }
        _ => act(),
    }
}

fn failed(why: &str) -> PlatformError {
    PlatformError::Failed(why.into())
}

/// Removes something, with the deviations of [`done`].
fn removed(deviation: Option<&Deviation>, act: impl FnOnce()) -> Result<(), PlatformError> {
    let act = || {
        if deviation != Some(&Deviation::Pretends) {
            act()
        }
    };
    done(deviation, failed, || {
        act();
        Ok(())
    })
}

#[async_trait]
impl Platform for Double {
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        {
            let mut world = self.world();
            world.remove(spec.id.as_str());
            world.vms.insert(spec.id.to_string(), Vm::default()); // half made
        }
        let deviation = self.request(Point::Launch, Some(spec.id.as_str())).await;
        self.pace().await;
        self.launched(deviation.as_ref(), spec.id.as_str(), 0)
    }

    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.world().end_process(spec.id.as_str());
        let deviation = self.request(Point::Resume, Some(spec.id.as_str())).await;
        self.pace().await;
        let suspended = self.world().vms.get(spec.id.as_str()).and_then(|vm| vm.suspended);
        let honest =
            !matches!(deviation, Some(Deviation::Fails(_) | Deviation::Pretends | Deviation::Mistakes(_)));
        if honest && (suspended != Some(spec.suspends) || spec.suspends == 0) {
            return Err(failed(&format!("state {} is not there, but {suspended:?}", spec.suspends)));
        }
        self.launched(deviation.as_ref(), spec.id.as_str(), spec.suspends)
    }

    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError> {
        match self.request(Point::Find, Some(spec.id.as_str())).await {
            Some(Deviation::Fails(why)) => return Err(failed(why)),
            Some(Deviation::Mistakes(other)) => return Ok(Found::Running(self.guest(other))),
            Some(Deviation::Finds(FoundState::Running)) => {
                return Ok(Found::Running(self.guest(spec.id.as_str())));
            }
            Some(Deviation::Finds(FoundState::Suspended)) => return Ok(Found::Suspended),
            Some(Deviation::Finds(FoundState::Nothing)) => return Ok(Found::Nothing),
            _ => {}
        }
        let mut world = self.world();
        if world.is_committed(spec.id.as_str(), suspends) {
            world.end_process(spec.id.as_str());
        }
        let Some(vm) = world.vms.get(spec.id.as_str()) else { return Ok(Found::Nothing) };
        Ok(match (vm.process, vm.suspended) {
            (Some(process), _) => Found::Running(self.guest_with(spec.id.as_str(), process)),
            (None, Some(number)) if number == suspends => Found::Suspended,
            _ => Found::Nothing,
        })
    }

    async fn discard(&self, id: &MicrovmId) -> Result<(), PlatformError> {
        let id = id.as_str();
        let deviation = self.request(Point::Discard, Some(id)).await;
        self.pace().await;
        removed(deviation.as_ref(), || self.world().remove(id))
    }

    async fn remove_build(&self, build: &ImageBuild) -> Result<(), PlatformError> {
        let deviation = self.request(Point::RemoveBuild, None).await;
        removed(deviation.as_ref(), || {
            self.world().builds.remove(build);
        })
    }

    async fn sweep(
        &self,
        microvms: &HashSet<MicrovmId>,
        builds: &HashSet<ImageBuild>,
    ) -> Result<(), PlatformError> {
        let deviation = self.request(Point::Sweep, None).await;
        removed(deviation.as_ref(), || {
            let mut world = self.world();
            let orphans: Vec<String> =
                world.vms.keys().filter(|id| !microvms.contains(id.as_str())).cloned().collect();
            orphans.iter().for_each(|id| world.remove(id));
            world.builds.retain(|build| builds.contains(build));
        })
    }
}
