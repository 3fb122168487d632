//! A running microVM and the tasks that serve it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hearth_host::agent::Agent;
use hearth_host::microvm::Microvm;
use hearth_host::microvm::process::Process;
use hearth_host::network::Egress;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::layout::Place;
use super::logs;
use super::phase::Phase;
use super::{Host, dns, exit, identity};
use crate::disk::Lease;
use crate::panics::poisoned;
use crate::platform::{Exit, Spec};

/// How long the agent may take to thaw the app; below, the pause before the next attempt.
const THAW: Duration = Duration::from_secs(10);
const THAW_AGAIN: Duration = Duration::from_secs(1);

/// The parts of a guest, in addition to its [`Spec`].
pub(super) struct MicrovmParts {
    pub(super) microvm: Microvm,
    pub(super) process: Arc<Process>,
    pub(super) place: Place,
    /// Number of the suspended state that the guest was made from; 0 stands for the image.
    pub(super) from: u64,
    /// The full snapshot that the guest's state builds on.
    pub(super) base: PathBuf,
    /// Whether the guest has a network card.
    pub(super) card: bool,
    /// When the guest's credentials expire.
    pub(super) expiration: Option<SystemTime>,
    /// Room for its disk; given back when the microVM is not served any more.
    pub(super) lease: Mutex<Option<Lease>>,
}

/// A running microVM. Dropping it leaves the microVM running, and nothing takes the microVM's output any more.
pub(super) struct RunningMicrovm {
    pub(super) host: Arc<Host>,
    pub(super) spec: Spec,
    pub(super) parts: MicrovmParts,
    pub(super) phase: watch::Sender<Phase>,
    /// Whether the suspend under way is cancelled.
    pub(super) cancel: AtomicBool,
    /// Whether a background task retries a thaw.
    thawing: Arc<AtomicBool>,
    /// Held from a freeze until its suspend is over, and during a thaw: a late thaw must not undo a later freeze.
    pub(super) freezing: Arc<tokio::sync::Mutex<()>>,
    pub(super) exit: watch::Receiver<Option<Exit>>,
    /// The tasks that serve the microVM, aborted when this is dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for RunningMicrovm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningMicrovm").field("id", &self.spec.id).finish_non_exhaustive()
    }
}

impl RunningMicrovm {
    /// Starts the tasks that serve a microVM: its output, name queries, credentials, and watching for its exit.
    pub(super) fn start(host: &Arc<Host>, spec: &Spec, parts: MicrovmParts) -> Arc<Self> {
        let (phase, exit) = (watch::Sender::new(Phase::Running), watch::Sender::new(None));
        let exits = exit.subscribe();
        let agent = parts.microvm.agent();
        let mut tasks = JoinSet::new();
        let folder = parts.place.run.clone();
        tasks.spawn(exit::watch(agent.clone(), Arc::clone(&parts.process), folder, phase.subscribe(), exit));
        tasks.spawn(logs::follow(agent.clone(), host.output(spec)));
        if parts.card && spec.egress == Egress::Internet {
            tasks.spawn(dns::serve(agent.clone(), host.resolvers.clone(), spec.account.clone()));
        }
        if let Some(role) = spec.execution_role() {
            let (roles, clock) = (Arc::clone(&host.roles), host.clock);
            tasks.spawn(identity::refresh(agent.clone(), roles, role, clock, parts.expiration));
        }
        Arc::new(Self {
            host: Arc::clone(host),
            spec: spec.clone(),
            parts,
            phase,
            cancel: AtomicBool::new(false),
            thawing: Arc::default(),
            freezing: Arc::default(),
            exit: exits,
            tasks: Mutex::new(tasks),
        })
    }

    pub(super) fn agent(&self) -> &Agent {
        self.parts.microvm.agent()
    }

    /// Stops serving the microVM.
    pub(super) fn stop_serving(&self) {
        self.phase.send_replace(Phase::Gone);
        self.tasks.lock().unwrap_or_else(poisoned).abort_all();
        drop(self.parts.lease.lock().unwrap_or_else(poisoned).take());
    }

    /// Thaws the app, which a suspend has frozen or may have: one that was cancelled, or one that an earlier daemon
    /// had begun. If the guest does not thaw it at once, a background task retries until it does, and the microVM
    /// counts as running. The caller holds `freezing`, or has exclusive access to the microVM.
    pub(super) async fn thaw(&self) {
        if let Err(error) = self.agent().thaw(THAW).await {
            tracing::warn!(microvm = %self.spec.id, %error, "the app could not be thawed, trying again");
            if self.thawing.swap(true, Ordering::AcqRel) {
                return;
            }
            let (agent, freezing) = (self.agent().clone(), Arc::clone(&self.freezing));
            let thawing = Arc::clone(&self.thawing);
            let mut tasks = self.tasks.lock().unwrap_or_else(poisoned);
            tasks.spawn(async move {
                loop {
                    sleep(THAW_AGAIN).await;
                    let _freezing = freezing.lock().await;
                    if agent.thaw(THAW).await.is_ok() {
                        // The flag is cleared before the lock is released, so that a failing thaw after another
                        // freeze can start a new task.
                        thawing.store(false, Ordering::Release);
                        return;
                    }
                }
            });
        }
    }

    /// Whether the suspend under way is cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }
}
