//! A host that does as it is told: its processes and files outlive the daemon, as the real ones do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};
use tokio::sync::watch;

use crate::platform::{
    Artifact, ConnectError, Connection, Exit, Found, Guest, Hook, HookOutcome, Platform, PlatformError, Spec,
    SuspendError,
};

/// What there is of a microVM.
#[derive(Debug, Default)]
pub(super) struct Vm {
    /// Which of its processes runs.
    pub(super) process: Option<u64>,
    /// Number of its suspended state.
    pub(super) suspended: Option<u64>,
    /// Hooks that its guests were called, each with the process that got it.
    pub(super) hooks: Vec<(u64, Hook)>,
}

/// What never comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Hang {
    Launch,
    Hook(Hook),
    /// A save that does not let itself be cancelled.
    Save,
    /// One that does.
    SlowSave,
    Cancel,
    Restore,
    /// The next removal; those after it do not.
    Discard,
    Find,
}

/// The host.
#[derive(Debug, Default)]
pub(super) struct World {
    /// What hangs.
    pub(super) hangs: HashSet<Hang>,
    /// What hung, or was slow, in order.
    pub(super) hung: Vec<Hang>,
    pub(super) vms: HashMap<String, Vm>,
    /// How each process has ended by itself.
    exits: HashMap<u64, watch::Sender<Option<Exit>>>,
    cancelled: HashSet<u64>,
    next: u64,
    /// What hooks answer, one after another; 200 when there is nothing left.
    pub(super) answers: VecDeque<(Hook, HookOutcome)>,
    /// How many of the next launches and restores fail, how many saves.
    pub(super) failing_launches: u32,
    pub(super) failing_saves: u32,
    pub(super) failing_discards: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Double(Arc<Mutex<World>>);

/// How long anything takes.
pub(super) const STEP: Duration = Duration::from_millis(100);

impl Double {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A microVM ends by itself.
    pub(super) fn exit(&self, id: &str, exit: Exit) {
        let mut world = self.world();
        let process = world.vms[id].process.unwrap();
        if !matches!(exit, Exit::App(_)) {
            world.vms.get_mut(id).unwrap().process = None;
        }
        world.exits[&process].send_replace(Some(exit));
    }

    fn process(&self, id: &str) -> Arc<dyn Guest> {
        let mut world = self.world();
        world.next += 1;
        let process = world.next;
        world.exits.insert(process, watch::Sender::new(None));
        world.vms.entry(id.to_owned()).or_default().process = Some(process);
        drop(world);
        Arc::new(DoubleGuest { double: self.clone(), id: id.to_owned(), process })
    }

    /// Whether this hangs; it is noted that somebody has come to it.
    fn comes_to(&self, hang: Hang) -> bool {
        let mut world = self.world();
        let hangs = match hang {
            Hang::Discard => world.hangs.remove(&hang),
            _ => world.hangs.contains(&hang),
        };
        if hangs {
            world.hung.push(hang);
        }
        hangs
    }

    /// Does not return when this hangs.
    async fn hang(&self, hang: Hang) {
        if self.comes_to(hang) {
            std::future::pending::<()>().await;
        }
    }

    fn fails(&self, counter: impl Fn(&mut World) -> &mut u32) -> bool {
        let mut world = self.world();
        let left = counter(&mut world);
        std::mem::replace(left, left.saturating_sub(1)) > 0
    }
}

#[async_trait]
impl Platform for Double {
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.world().vms.insert(spec.id.clone(), Vm::default()); // half made
        self.hang(Hang::Launch).await;
        tokio::time::sleep(STEP).await;
        if self.fails(|world| &mut world.failing_launches) {
            return Err(PlatformError::Failed("the snapshot cannot be read".into()));
        }
        Ok(self.process(&spec.id))
    }

    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError> {
        self.hang(Hang::Restore).await;
        tokio::time::sleep(STEP).await;
        if self.fails(|world| &mut world.failing_launches) {
            return Err(PlatformError::Capacity("no user id is free".into()));
        }
        let suspended = self.world().vms.get(&spec.id).and_then(|vm| vm.suspended);
        if suspended != Some(spec.suspends) {
            return Err(PlatformError::Failed(format!("state {}, not {suspended:?}", spec.suspends)));
        }
        Ok(self.process(&spec.id))
    }

    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError> {
        if spec.id == "vm" {
            self.hang(Hang::Find).await;
        }
        let world = self.world();
        let Some(vm) = world.vms.get(&spec.id) else { return Ok(Found::Nothing) };
        Ok(match (vm.process, vm.suspended) {
            (Some(process), _) => {
                let (double, id) = (self.clone(), spec.id.clone());
                Found::Running(Arc::new(DoubleGuest { double, id, process }))
            }
            (None, Some(number)) if number == suspends => Found::Suspended,
            _ => Found::Nothing,
        })
    }

    async fn discard(&self, id: &str) -> Result<(), PlatformError> {
        self.hang(Hang::Discard).await;
        tokio::time::sleep(STEP).await;
        if self.fails(|world| &mut world.failing_discards) {
            return Err(PlatformError::Failed("the folder is busy".into()));
        }
        self.world().vms.remove(id);
        Ok(())
    }

    async fn remove_artifact(&self, _: &Artifact) -> Result<(), PlatformError> {
        Ok(())
    }

    async fn sweep(&self, microvms: &HashSet<String>, _: &HashSet<Artifact>) -> Result<(), PlatformError> {
        self.world().vms.retain(|id, _| microvms.contains(id));
        Ok(())
    }
}

#[derive(Debug)]
struct DoubleGuest {
    double: Double,
    id: String,
    process: u64,
}

#[async_trait]
impl Guest for DoubleGuest {
    async fn call_hook(&self, hook: Hook) -> HookOutcome {
        if let Some(vm) = self.double.world().vms.get_mut(&self.id) {
            vm.hooks.push((self.process, hook));
        }
        self.double.hang(Hang::Hook(hook)).await;
        tokio::time::sleep(STEP).await;
        let mut world = self.double.world();
        match world.answers.front() {
            Some((wanted, _)) if *wanted == hook => {
                world.answers.pop_front().map_or(HookOutcome::Failed, |(_, outcome)| outcome)
            }
            _ => HookOutcome::Status(200),
        }
    }

    async fn suspend(&self, number: u64) -> Result<(), SuspendError> {
        self.double.hang(Hang::Save).await;
        while self.double.comes_to(Hang::SlowSave) {
            tokio::time::sleep(STEP).await;
            if self.double.world().cancelled.remove(&self.process) {
                return Err(SuspendError::Cancelled);
            }
        }
        for _ in 0..2 {
            tokio::time::sleep(STEP).await;
            if self.double.world().cancelled.remove(&self.process) {
                return Err(SuspendError::Cancelled);
            }
        }
        if self.double.fails(|world| &mut world.failing_saves) {
            return Err(SuspendError::Failed("the disk is full".into()));
        }
        let mut world = self.double.world();
        let Some(vm) = world.vms.get_mut(&self.id).filter(|vm| vm.process == Some(self.process)) else {
            return Err(SuspendError::Failed("its process is gone".into()));
        };
        (vm.process, vm.suspended) = (None, Some(number));
        Ok(())
    }

    async fn cancel_suspend(&self) {
        self.double.hang(Hang::Cancel).await;
        self.double.world().cancelled.insert(self.process);
    }

    async fn connect(&self, _: u16) -> Result<Box<dyn Connection>, ConnectError> {
        Err(ConnectError::App("there is no app".into()))
    }

    async fn shell(&self, _: &[String]) -> Result<(Stdin, Events), ConnectError> {
        Err(ConnectError::App("there is no app".into()))
    }

    async fn exited(&self) -> Exit {
        let exits = self.double.world().exits.get(&self.process).map(watch::Sender::subscribe);
        if let Some(mut exits) = exits
            && let Ok(exit) = exits.wait_for(Option::is_some).await
            && let Some(exit) = exit.clone()
        {
            return exit;
        }
        std::future::pending().await
    }
}
