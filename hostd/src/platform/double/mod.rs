//! The only double of a host, for tests and benches of all crates: microVMs and files in memory, apps that are
//! servers of the test.
//!
//! By default it behaves as [`Platform`] and [`Guest`](super::Guest) specify. A [`Way`] makes it fail, hang or report
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
use hearth_model::build::Artifact;
use tokio::sync::watch;

pub use script::{Point, Sight, Way};
pub use world::{Vm, World};

use super::{Exit, Found, Guest, Platform, PlatformError, Spec};
use guest::Machine;

/// A simulated host.
#[derive(Debug, Clone, Default)]
pub struct Double {
    world: Arc<Mutex<World>>,
    /// Counts the operations that were requested.
    asked: Arc<watch::Sender<u64>>,
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

    /// Makes the next operation at `point` behave this way. Several calls take effect one after another.
    ///
    /// # Panics
    /// If `way` has no meaning at `point`.
    pub fn once(&self, point: Point, way: Way) {
        self.world().script.add(point, None, way, true);
    }

    /// Makes all operations at `point` behave this way from now on.
    ///
    /// # Panics
    /// If `way` has no meaning at `point`.
    pub fn always(&self, point: Point, way: Way) {
        self.world().script.add(point, None, way, false);
    }

    /// Makes all operations at `point` for the microVM `id` behave this way from now on.
    ///
    /// # Panics
    /// If `way` has no meaning at `point`.
    pub fn always_for(&self, id: &str, point: Point, way: Way) {
        self.world().script.add(point, Some(id), way, false);
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
        let mut asked = self.asked.subscribe();
        while !self.world().script.has_hung(point) {
            let _ = asked.changed().await; // never closed: `self` holds the sender
        }
    }

    /// A microVM or its app exits by itself.
    pub fn exit(&self, id: &str, exit: Exit) {
        self.claim_exit(id, exit.clone());
        if !matches!(exit, Exit::App(_)) {
            self.world().end(id);
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
        self.world().end(id);
    }

    /// Records an operation, and returns how it deviates from the contract. An operation that hangs returns after its
    /// release.
    async fn ask(&self, point: Point, id: Option<&str>) -> Option<Way> {
        let (way, held) = {
            let mut world = self.world();
            if !matches!(point, Point::Connect(_) | Point::Shell) {
                world.asked.push((point, id.map(str::to_owned)));
            }
            let way = world.script.next(point, id);
            let held = (way == Some(Way::Hangs)).then(|| world.script.hold(point));
            (way, held)
        };
        self.asked.send_modify(|asked| *asked += 1);
        assert_ne!(way, Some(Way::Panics), "a test wants it");
        match held {
            Some(held) => {
                let _ = held.await; // released by being dropped
                None
            }
            None => way,
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
        self.machine(id, process.unwrap_or(World::NOBODY))
    }

    fn machine(&self, id: &str, process: u64) -> Arc<dyn Guest> {
        Arc::new(Machine { host: self.clone(), id: id.to_owned(), process })
    }

    /// The result of a launch or a resume.
    fn made(&self, way: Option<&Way>, id: &str, from: u64) -> Result<Arc<dyn Guest>, PlatformError> {
        let begin = || self.machine(id, self.world().begin(id, from));
        match way {
            Some(Way::Mistakes(other)) => Ok(self.guest(other)),
            Some(Way::Pretends) => Ok(self.machine(id, World::NOBODY)),
            way => done(way, failed, || Ok(begin())),
        }
    }
}

/// Carries out an operation unless it fails or is only pretended, and returns the result to report. `error` makes an
/// error from a reason.
fn done<T, E>(
    way: Option<&Way>,
    error: impl FnOnce(&str) -> E,
    act: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    match way {
        Some(Way::Fails(why)) => Err(error(why)),
        Some(Way::Denies(why)) => {
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
fn removed(way: Option<&Way>, act: impl FnOnce()) -> Result<(), PlatformError> {
    let act = || {
        if way != Some(&Way::Pretends) {
            act()
        }
    };
    done(way, failed, || {
        act();
        Ok(())
    })
}

#[async_trait]
impl Platform for Double {
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        {
            let mut world = self.world();
            world.remove(&spec.id);
            world.vms.insert(spec.id.clone(), Vm::default()); // half made
        }
        let way = self.ask(Point::Launch, Some(&spec.id)).await;
        self.pace().await;
        self.made(way.as_ref(), &spec.id, 0)
    }

    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.world().end(&spec.id);
        let way = self.ask(Point::Resume, Some(&spec.id)).await;
        self.pace().await;
        let suspended = self.world().vms.get(&spec.id).and_then(|vm| vm.suspended);
        let honest = !matches!(way, Some(Way::Fails(_) | Way::Pretends | Way::Mistakes(_)));
        if honest && (suspended != Some(spec.suspends) || spec.suspends == 0) {
            return Err(failed(&format!("state {} is not there, but {suspended:?}", spec.suspends)));
        }
        self.made(way.as_ref(), &spec.id, spec.suspends)
    }

    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError> {
        match self.ask(Point::Find, Some(&spec.id)).await {
            Some(Way::Fails(why)) => return Err(failed(why)),
            Some(Way::Mistakes(other)) => return Ok(Found::Running(self.guest(other))),
            Some(Way::Finds(Sight::Running)) => return Ok(Found::Running(self.guest(&spec.id))),
            Some(Way::Finds(Sight::Suspended)) => return Ok(Found::Suspended),
            Some(Way::Finds(Sight::Nothing)) => return Ok(Found::Nothing),
            _ => {}
        }
        let mut world = self.world();
        if world.is_committed(&spec.id, suspends) {
            world.end(&spec.id);
        }
        let Some(vm) = world.vms.get(&spec.id) else { return Ok(Found::Nothing) };
        Ok(match (vm.process, vm.suspended) {
            (Some(process), _) => Found::Running(self.machine(&spec.id, process)),
            (None, Some(number)) if number == suspends => Found::Suspended,
            _ => Found::Nothing,
        })
    }

    async fn discard(&self, id: &str) -> Result<(), PlatformError> {
        let way = self.ask(Point::Discard, Some(id)).await;
        self.pace().await;
        removed(way.as_ref(), || self.world().remove(id))
    }

    async fn remove_artifact(&self, artifact: &Artifact) -> Result<(), PlatformError> {
        let way = self.ask(Point::RemoveArtifact, None).await;
        removed(way.as_ref(), || {
            self.world().artifacts.remove(artifact);
        })
    }

    async fn sweep(
        &self,
        microvms: &HashSet<String>,
        artifacts: &HashSet<Artifact>,
    ) -> Result<(), PlatformError> {
        let way = self.ask(Point::Sweep, None).await;
        removed(way.as_ref(), || {
            let mut world = self.world();
            let orphans: Vec<String> =
                world.vms.keys().filter(|id| !microvms.contains(*id)).cloned().collect();
            orphans.iter().for_each(|id| world.remove(id));
            world.artifacts.retain(|artifact| artifacts.contains(artifact));
        })
    }
}
