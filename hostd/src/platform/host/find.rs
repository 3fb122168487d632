//! Finding the microVMs that an earlier daemon has left.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_host::microvm::Microvm;
use hearth_host::microvm::process::Process;
use hearth_host::network::Owner;
use hearth_image_builder::image::SNAPSHOT;
use hearth_proto::vmm::v1::MachineState;
use hearth_vmm_client::{CONTROL_SOCKET, Client, Limited, snapshot};
use tokio::task::spawn_blocking;

use super::Host;
use super::attempts::Attempt;
use super::error::{HostError, failed};
use super::exclusive::TURN;
use super::layout::{Keep, Place};
use super::reconcile::{Decision, Observed, decide};
use super::record::{MonitorRecord, Record as _, RunRecord, is_identified};
use super::room::Room;
use super::running::{MicrovmParts, RunningMicrovm};
use super::timeline::{OperationReport, TimedOperation, Timeline};
use crate::platform::{Found, Spec};

/// How long a monitor is polled until its microVM runs.
const RECONCILE_LIMIT: Duration = Duration::from_secs(30);
/// Deadline for a monitor to report its status. Requests to the microVM wait for that.
const STATUS: Duration = Duration::from_secs(10);
/// Pause before a monitor is polled again.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A monitor process that lives, with a connection to it.
struct LiveMonitor {
    microvm: Microvm,
    process: Process,
    network: Option<String>,
    from: u64,
}

impl Host {
    /// Brings what is left of a microVM into a definite state, and adopts the microVM if it runs.
    pub(super) async fn reconcile(self: &Arc<Self>, spec: &Spec, requested: u64) -> Result<Found, HostError> {
        if let Some(microvm) = self.known(&spec.id) {
            return Ok(Found::Running(microvm));
        }
        let place = self.layout.microvm(&spec.id);
        let mut timeline = Timeline::start();
        let (host, there, attempt) = (Arc::clone(self), place.clone(), self.attempts.begin(&spec.id));
        let reconciled = spawn_blocking(move || host.reconcile_blocking(&there, requested, &attempt));
        let reconciled = reconciled.await??;
        timeline.done("reconcile");
        let live = match reconciled {
            Reconciled::Ended { suspended: true } => {
                self.restoration.settle(&spec.id);
                return Ok(Found::Suspended);
            }
            Reconciled::Ended { suspended: false } => return Ok(Found::Nothing),
            Reconciled::Live(live) => *live,
        };
        // The adoption does not wait for it: a monitor may draw out its answer.
        let lease = self.disk.lease(spec.account.as_str(), &place.overlay(live.from));
        let rates = self.config.limits.of(spec.memory_mib.into());
        let room = Arc::new(Room::new(place.run.clone(), rates, self.output(spec)));
        let bound = lease.bound();
        let holding = lease.holding();
        spawn_blocking(move || {
            let kept = set_limits(&room, bound);
            holding.held_by(room, kept);
        });
        self.assign_found(spec, live.network.clone()).await;
        let parts = MicrovmParts {
            card: live.network.is_some(),
            microvm: live.microvm,
            process: Arc::new(live.process),
            from: live.from,
            base: self.layout.build(&spec.build).join(SNAPSHOT),
            place,
            // The expiry of the guest's credentials is unknown: the guest gets new ones at once.
            expiration: None,
            lease: Mutex::new(Some(lease)),
        };
        let running = RunningMicrovm::start(self, spec, parts);
        // An abandoned suspend may have frozen the app. The guest has its identity, or it would not be adopted.
        running.thaw().await;
        timeline.done("thaw");
        self.remember(&running);
        self.restoration.settle(&spec.id);
        let report = OperationReport {
            operation: TimedOperation::Adopt,
            microvm: &spec.id,
            succeeded: true,
            timeline: &timeline,
        };
        self.observer.notify(&report);
        Ok(Found::Running(running))
    }

    /// Gives the network of an adopted microVM to its account: a daemon of an earlier release has not.
    async fn assign_found(&self, spec: &Spec, network: Option<String>) {
        let Some(name) = network else { return };
        let (networks, owner) = (Arc::clone(&self.networks), Owner::of(spec.account.as_str()));
        let assigned = spawn_blocking(move || networks.assign_by_name(&name, owner)).await;
        let error = match assigned {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(microvm = %spec.id, error, "the connections of a microVM do not count to its account");
    }

    /// The blocking part of [`Self::reconcile`], on a thread that continues when its caller stops waiting. If another
    /// attempt has begun since, it changes nothing.
    fn reconcile_blocking(
        &self,
        place: &Place,
        requested: u64,
        attempt: &Attempt,
    ) -> Result<Reconciled, HostError> {
        let suspended = place.is_suspended(requested);
        let began = Instant::now();
        loop {
            let live = self.inspect(place)?;
            // The lock is not held while the monitor is queried, which may take long: another attempt gets its turn
            // at once.
            let turn = self.making.hold(&place.state, TURN).map_err(failed("settling", &place.state))?;
            if !self.attempts.is_newest(attempt) {
                return Err(HostError::Overtaken);
            }
            let machine = live.as_ref().and_then(|(_, state)| *state);
            let observed = Observed {
                machine,
                identified: is_identified(&place.run),
                from: live.as_ref().map(|(live, _)| live.from),
                requested,
                suspended,
            };
            // A monitor that makes no progress in time is killed.
            let decision = if began.elapsed() < RECONCILE_LIMIT {
                decide(observed)
            } else {
                Decision::Kill { suspended }
            };
            match (decision, live) {
                (Decision::Adopt, Some((live, _))) => {
                    // A half-written state belongs to an abandoned save.
                    let swept = snapshot::remove_leftovers(&place.state);
                    swept.map_err(failed("removing half-written states in", &place.state))?;
                    return Ok(Reconciled::Live(Box::new(live)));
                }
                // The save may have finished meanwhile: the loop queries the monitor again.
                (Decision::CancelSave, Some((live, _))) => {
                    let _ = live.microvm.client().cancel_save();
                }
                (Decision::Resume, Some((live, _))) => {
                    let _ = live.microvm.client().resume();
                }
                _ => {
                    self.end_run(place)?;
                    place.tidy(Keep::States).map_err(failed("tidying", &place.state))?;
                    return Ok(Reconciled::Ended { suspended });
                }
            }
            drop(turn);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The living process of a microVM, with the state of its virtual machine.
    fn inspect(&self, place: &Place) -> Result<Option<(LiveMonitor, Option<MachineState>)>, HostError> {
        let reading = || failed("reading the records in", &place.run);
        let Some(monitor) = MonitorRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let Some(microvm) = RunRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let found =
            Process::find(&monitor.process).map_err(failed("looking for the process of", &place.run))?;
        let Some(process) = found.filter(|process| !process.has_exited()) else { return Ok(None) };
        let Ok(adopted) = Microvm::adopt(&place.run) else { return Ok(None) };
        // A monitor that does not report its status cannot be adopted: its state stays unknown.
        let client =
            Client::connect(place.run.join(CONTROL_SOCKET)).map(|client| client.with_timeout(STATUS));
        let state = client.and_then(|client| client.status()).ok().map(|status| status.state());
        let live = LiveMonitor { microvm: adopted, process, network: microvm.network, from: microvm.from };
        Ok(Some((live, state)))
    }
}

/// Gives an adopted microVM the limits of this daemon's configuration. Its monitor enforces them: one that refuses is no
/// reason to end the microVM, since it would not keep to them either. Returns whether it keeps to the bound of its disk, if it has answered.
fn set_limits(room: &Room, bound: Option<u64>) -> Option<bool> {
    let folder = room.run.display();
    match room.tell(bound) {
        Ok(Limited::All) => Some(true),
        Ok(Limited::Rates) => {
            tracing::info!(%folder, "a monitor of an earlier release does not bound its disk until its microVM is resumed");
            Some(false)
        }
        Ok(Limited::Nothing) => {
            tracing::info!(%folder, "a monitor of an earlier release has no limits until its microVM is resumed");
            Some(false)
        }
        Err(error) => {
            tracing::warn!(%folder, %error, "a monitor has not taken over the configured limits");
            None
        }
    }
}

/// The definite state of what was left of a microVM.
enum Reconciled {
    /// The microVM's process runs.
    Live(Box<LiveMonitor>),
    /// There is no process.
    Ended {
        /// Whether the suspended state exists.
        suspended: bool,
    },
}
