//! The one double of a host, for tests and benches of all crates: microVMs and files in memory, apps that are servers of the test.
//!
//! Without being told otherwise it does what [`Platform`] and [`Guest`](super::Guest) say. A [`Way`] has it fail, hang or lie at a
//! [`Point`]: once, or until it is released. Copies are of one host, which outlives the daemons that a test kills and starts.
//!
//! Time is tokio's, which may be simulated: nothing here waits for anything else but what a test releases, and its
//! sockets when it has apps.
//!
//! | File | What |
//! |---|---|
//! | `script.rs` | where the host does otherwise, and how |
//! | `world.rs` | what there is on the host |
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
use tokio::sync::watch;

pub use script::{Point, Sight, Way};
pub use world::{Vm, World};

use super::{Artifact, Exit, Found, Guest, Platform, PlatformError, Spec};
use guest::Machine;

/// A host.
#[derive(Debug, Clone, Default)]
pub struct Double {
    world: Arc<Mutex<World>>,
    /// How often something was asked for.
    asked: Arc<watch::Sender<u64>>,
    /// How long everything takes.
    pace: Duration,
    /// Whether connections to apps are the sockets themselves.
    direct: bool,
}

impl Double {
    /// A host where everything that changes a microVM takes `pace`, and a save twice that.
    #[must_use]
    pub fn paced(pace: Duration) -> Self {
        Self { pace, ..Self::default() }
    }

    /// A host whose connections to apps are the sockets themselves, for benches: nothing passes their bytes on, as an agent does,
    /// and they outlive the microVM.
    #[must_use]
    pub fn direct() -> Self {
        Self { direct: true, ..Self::default() }
    }

    /// What there is. Nothing goes on meanwhile.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next time, this is what is done at `point`. Several are done one after another.
    ///
    /// # Panics
    /// When `way` has no meaning there.
    pub fn once(&self, point: Point, way: Way) {
        self.world().script.add(point, None, way, true);
    }

    /// From now on, this is what is done at `point`.
    ///
    /// # Panics
    /// When `way` has no meaning there.
    pub fn always(&self, point: Point, way: Way) {
        self.world().script.add(point, None, way, false);
    }

    /// From now on, this is what is done at `point` for the microVM `id`.
    ///
    /// # Panics
    /// When `way` has no meaning there.
    pub fn always_for(&self, id: &str, point: Point, way: Way) {
        self.world().script.add(point, Some(id), way, false);
    }

    /// Has what is done at `point` be as it should from now on, and lets go whoever hangs there.
    pub fn release(&self, point: Point) {
        self.world().script.release(|other| other == point);
    }

    /// Has everything be as it should from now on, and lets go whoever hangs.
    pub fn behave(&self) {
        self.world().script.release(|_| true);
    }

    /// Waits until somebody has hung at `point`.
    pub async fn hung(&self, point: Point) {
        let mut asked = self.asked.subscribe();
        while !self.world().script.has_hung(point) {
            let _ = asked.changed().await; // never closed: this is one that tells
        }
    }

    /// A microVM ends by itself, or its app does.
    pub fn exit(&self, id: &str, exit: Exit) {
        self.claim_exit(id, exit.clone());
        if !matches!(exit, Exit::App(_)) {
            self.world().end(id);
        }
    }

    /// A lie: it is said that a microVM has ended by itself, and it runs on.
    pub fn claim_exit(&self, id: &str, exit: Exit) {
        let mut world = self.world();
        let process = world.vms.get(id).and_then(|vm| vm.process);
        if let Some(process) = process.and_then(|number| world.process(number)) {
            process.exit.send_replace(Some(exit));
        }
    }

    /// A lie: a microVM's process ends, and nothing is said of it.
    pub fn vanish(&self, id: &str) {
        self.world().end(id);
    }

    /// Notes what is asked for, and comes back with how that is done otherwise than it should: not before it is released, when it
    /// hangs.
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

    /// Takes as long as everything takes.
    async fn pace(&self) {
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
    }

    /// The guest that a microVM has now, or one of a process that does not exist.
    fn guest(&self, id: &str) -> Arc<dyn Guest> {
        let process = self.world().vms.get(id).and_then(|vm| vm.process);
        self.machine(id, process.unwrap_or(World::NOBODY))
    }

    fn machine(&self, id: &str, process: u64) -> Arc<dyn Guest> {
        Arc::new(Machine { host: self.clone(), id: id.to_owned(), process })
    }

    /// What a launch or a resume comes to.
    fn made(&self, way: Option<&Way>, id: &str, from: u64) -> Result<Arc<dyn Guest>, PlatformError> {
        let begin = || self.machine(id, self.world().begin(id, from));
        match way {
            Some(Way::Mistakes(other)) => Ok(self.guest(other)),
            Some(Way::Pretends) => Ok(self.machine(id, World::NOBODY)),
            way => done(way, failed, || Ok(begin())),
        }
    }
}

/// Does what was asked for, unless it is to fail, or only pretended; whatever is then said of it. `error` makes an error of a reason.
fn done<T, E>(
    way: Option<&Way>,
    error: impl FnOnce(&str) -> E,
    act: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    match way {
        Some(Way::Fails(why)) => Err(error(why)),
        Some(Way::Denies(why)) => {
            let _ = act(); // it is denied that it was done
            Err(error(why))
        }
        _ => act(),
    }
}

fn failed(why: &str) -> PlatformError {
    PlatformError::Failed(why.to_owned())
}

/// Removes something, as [`done`] does.
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
