//! MicroVMs that an earlier daemon has left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_host::microvm::Microvm;
use hearth_host::microvm::process::Process;
use hearth_image_builder::image::SNAPSHOT;
use hearth_proto::vmm::v1::MachineState;
use hearth_vmm::client::{CONTROL_SOCKET, Client, snapshot};
use tokio::task::spawn_blocking;

use super::Host;
use super::attempts::Attempt;
use super::error::{failed, thread};
use super::exclusive::TURN;
use super::guest::{Machine, Made};
use super::layout::{Keep, Place};
use super::record::{MicrovmRecord, MonitorRecord, Record as _, is_identified};
use super::settle::{Decision, Seen, decide};
use super::timeline::{Operation, Report, Timeline};
use crate::platform::{Found, PlatformError, Spec};

/// How long a monitor is looked at that is to be brought to run.
const LOOKING: Duration = Duration::from_secs(30);
/// How long it has to say what it does. Other microVMs wait for that.
const STATUS: Duration = Duration::from_secs(10);
/// How long to wait before it is looked at again.
const LOOK: Duration = Duration::from_millis(10);

/// A monitor that lives, connected to.
struct Living {
    microvm: Microvm,
    process: Process,
    network: Option<String>,
    from: u64,
}

impl Host {
    /// Settles what there is of a microVM, and goes on with it if it runs.
    pub(super) async fn settle(self: &Arc<Self>, spec: &Spec, asked: u64) -> Result<Found, PlatformError> {
        if let Some(machine) = self.known(&spec.id) {
            return Ok(Found::Running(machine));
        }
        let place = self.place(&spec.id)?;
        let mut timeline = Timeline::start();
        let (host, there, attempt) = (Arc::clone(self), place.clone(), self.attempts.begin(&spec.id));
        let settled = spawn_blocking(move || host.settle_now(&there, asked, &attempt));
        let settled = settled.await.map_err(thread)??;
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
            // What it has is not known: it gets new ones.
            expiration: None,
        };
        let machine = Machine::start(self, spec, made);
        // A suspend that was under way may have frozen its app. It has its identity, or it would not be adopted.
        machine.thaw().await;
        timeline.done("thaw");
        self.remember(&machine);
        let report =
            Report { operation: Operation::Adopt, microvm: &spec.id, succeeded: true, timeline: &timeline };
        self.observer.tell(&report);
        Ok(Found::Running(machine))
    }

    /// The same, on a thread that goes on when nobody waits for it any more. What was attempted since is left alone then.
    fn settle_now(&self, place: &Place, asked: u64, attempt: &Attempt) -> Result<Settled, PlatformError> {
        let suspended = place.is_suspended(asked);
        let began = Instant::now();
        loop {
            let living = self.look(place)?;
            // Not held while the monitor is asked, which may take long: whoever comes next has its turn at once.
            let turn = self.making.hold(&place.state, TURN).map_err(failed("settling", &place.state))?;
            if !self.attempts.is_newest(attempt) {
                return Err(PlatformError::Failed("something else was begun with it meanwhile".into()));
            }
            let machine = living.as_ref().and_then(|(_, state)| *state);
            let seen = Seen {
                machine,
                identified: is_identified(&place.run),
                from: living.as_ref().map(|(living, _)| living.from),
                asked,
                suspended,
            };
            // A monitor that never gets anywhere is not asked any more.
            let decision = if began.elapsed() < LOOKING { decide(seen) } else { Decision::End { suspended } };
            match (decision, living) {
                (Decision::Adopt, Some((living, _))) => {
                    // A half-written state is nobody's any more.
                    let swept = snapshot::remove_leftovers(&place.state);
                    swept.map_err(failed("removing half-written states in", &place.state))?;
                    return Ok(Settled::Living(Box::new(living)));
                }
                // It may have come to an end meanwhile: it is looked at again.
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

    /// What lives of it, and what state its machine is in.
    fn look(&self, place: &Place) -> Result<Option<(Living, Option<MachineState>)>, PlatformError> {
        let reading = || failed("reading the records in", &place.run);
        let Some(monitor) = MonitorRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let Some(microvm) = MicrovmRecord::read(&place.run).map_err(reading())? else { return Ok(None) };
        let found =
            Process::find(&monitor.process).map_err(failed("looking for the process of", &place.run))?;
        let Some(process) = found.filter(|process| !process.has_ended()) else { return Ok(None) };
        let Ok(adopted) = Microvm::adopt(&place.run) else { return Ok(None) };
        // One that does not say what it does cannot be gone on with.
        let asked = Client::connect(place.run.join(CONTROL_SOCKET)).map(|client| client.patience(STATUS));
        let state = asked.and_then(|client| client.status()).ok().map(|status| status.state());
        let living = Living { microvm: adopted, process, network: microvm.network, from: microvm.from };
        Ok(Some((living, state)))
    }
}

/// What there is, settled.
enum Settled {
    /// It runs.
    Living(Box<Living>),
    /// No process.
    Ended {
        /// Whether the suspended state is there.
        suspended: bool,
    },
}
