//! Finding the microVMs that an earlier daemon has left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_host::microvm::Microvm;
use hearth_host::microvm::process::Process;
use hearth_image_builder::image::SNAPSHOT;
use hearth_proto::vmm::v1::MachineState;
use hearth_vmm_client::{CONTROL_SOCKET, Client, snapshot};
use tokio::task::spawn_blocking;

use super::Host;
use super::attempts::Attempt;
use super::error::{HostError, failed};
use super::exclusive::TURN;
use super::layout::{Keep, Place};
use super::machine::{Machine, Made};
use super::record::{MicrovmRecord, MonitorRecord, Record as _, is_identified};
use super::settle::{Decision, Seen, decide};
use super::timeline::{Operation, Report, Timeline};
use crate::platform::{Found, Spec};

/// How long a monitor is polled until its microVM runs.
const LOOKING: Duration = Duration::from_secs(30);
/// Deadline for a monitor to report its status. Other microVMs wait for that.
const STATUS: Duration = Duration::from_secs(10);
/// Pause before a monitor is polled again.
const LOOK: Duration = Duration::from_millis(10);

/// A monitor process that lives, with a connection to it.
struct Living {
    microvm: Microvm,
    process: Process,
    network: Option<String>,
    from: u64,
}

impl Host {
    /// Brings what is left of a microVM into a definite state, and adopts the microVM if it runs.
    pub(super) async fn settle(self: &Arc<Self>, spec: &Spec, asked: u64) -> Result<Found, HostError> {
        if let Some(machine) = self.known(&spec.id) {
            return Ok(Found::Running(machine));
        }
        let place = self.place(&spec.id)?;
        let mut timeline = Timeline::start();
        let (host, there, attempt) = (Arc::clone(self), place.clone(), self.attempts.begin(&spec.id));
        let settled = spawn_blocking(move || host.settle_now(&there, asked, &attempt));
        let settled = settled.await??;
        timeline.done("settle");
        let living = match settled {
            Settled::Ended { suspended: true } => return Ok(Found::Suspended),
            Settled::Ended { suspended: false } => return Ok(Found::Nothing),
            Settled::Living(living) => *living,
        };
        let made = Made {
            card: living.network.is_some(),
            microvm: living.microvm,
            process: Arc::new(living.process),
            from: living.from,
            base: self.artifact(&spec.artifact)?.join(SNAPSHOT),
            place,
            // The expiry of the guest's credentials is unknown: the guest gets new ones at once.
            expiration: None,
        };
        let machine = Machine::start(self, spec, made);
        // An abandoned suspend may have frozen the app. The guest has its identity, or it would not be adopted.
        machine.thaw().await;
        timeline.done("thaw");
        self.remember(&machine);
        let report =
            Report { operation: Operation::Adopt, microvm: &spec.id, succeeded: true, timeline: &timeline };
        self.observer.tell(&report);
        Ok(Found::Running(machine))
    }

    /// The blocking part of [`Self::settle`], on a thread that continues when its caller stops waiting. If another
    /// attempt has begun since, it changes nothing.
    fn settle_now(&self, place: &Place, asked: u64, attempt: &Attempt) -> Result<Settled, HostError> {
        let suspended = place.is_suspended(asked);
        let began = Instant::now();
        loop {
            let living = self.look(place)?;
            // The lock is not held while the monitor is queried, which may take long: another attempt gets its turn
            // at once.
            let turn = self.making.hold(&place.state, TURN).map_err(failed("settling", &place.state))?;
            if !self.attempts.is_newest(attempt) {
                return Err(HostError::Overtaken);
            }
            let machine = living.as_ref().and_then(|(_, state)| *state);
            let seen = Seen {
                machine,
                identified: is_identified(&place.run),
                from: living.as_ref().map(|(living, _)| living.from),
                asked,
                suspended,
            };
            // A monitor that makes no progress in time is killed.
            let decision = if began.elapsed() < LOOKING { decide(seen) } else { Decision::End { suspended } };
            match (decision, living) {
                (Decision::Adopt, Some((living, _))) => {
                    // A half-written state belongs to an abandoned save.
                    let swept = snapshot::remove_leftovers(&place.state);
                    swept.map_err(failed("removing half-written states in", &place.state))?;
                    return Ok(Settled::Living(Box::new(living)));
                }
                // The save may have finished meanwhile: the loop queries the monitor again.
                (Decision::CancelSave, Some((living, _))) => {
                    let _ = living.microvm.client().cancel_save();
                }
                (Decision::Resume, Some((living, _))) => {
                    let _ = living.microvm.client().resume();
                }
                _ => {
                    self.end_run(place)?;
                    place.tidy(Keep::States).map_err(failed("tidying", &place.state))?;
                    return Ok(Settled::Ended { suspended });
                }
            }
            drop(turn);
            std::thread::sleep(LOOK);
        }
    }

    /// The living process of a microVM, with the state of its virtual machine.
    fn look(&self, place: &Place) -> Result<Option<(Living, Option<MachineState>)>, HostError> {
        let reading = || failed("reading the records in", &place.run);
        let Some(monitor) = MonitorRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let Some(microvm) = MicrovmRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let found =
            Process::find(&monitor.process).map_err(failed("looking for the process of", &place.run))?;
        let Some(process) = found.filter(|process| !process.has_exited()) else { return Ok(None) };
        let Ok(adopted) = Microvm::adopt(&place.run) else { return Ok(None) };
        // A monitor that does not report its status cannot be adopted: its state stays unknown.
        let asked = Client::connect(place.run.join(CONTROL_SOCKET)).map(|client| client.with_timeout(STATUS));
        let state = asked.and_then(|client| client.status()).ok().map(|status| status.state());
        let living = Living { microvm: adopted, process, network: microvm.network, from: microvm.from };
        Ok(Some((living, state)))
    }
}

/// The definite state of what was left of a microVM.
enum Settled {
    /// The microVM's process runs.
    Living(Box<Living>),
    /// There is no process.
    Ended {
        /// Whether the suspended state exists.
        suspended: bool,
    },
}
