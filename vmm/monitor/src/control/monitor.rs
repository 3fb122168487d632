//! The states of the machine, and the effect of each request in each state.
//!
//! ```text
//!          Create          Boot             Pause            Save
//!   Empty ───────► Created ─────► Running ◄──────► Paused ──────────► Saving
//!     │                              ▲    Resume     ▲ ▲  ◄────────────┘ │
//!     │                              │               │ └─ all is written │
//!     └────────── Restore ───────────┴───────────────┘                   │
//!                                    └── CancelSave, or the save failed ─┘
//!
//!  Shutdown, or the exit of the machine, leads from every state to Exited, and so does a Create or Restore that fails.
//! ```
//!
//! | Request        | Empty | Created | Running | Paused | Saving |
//! |----------------|-------|---------|---------|--------|--------|
//! | Hello          | ✓     | ✓       | ✓       | ✓      | ✓      |
//! | Prepare, Create, Restore | ✓ |   |         |        |        |
//! | Boot           |       | ✓       |         |        |        |
//! | Pause          |       |         | ✓       | no-op  |        |
//! | Resume         |       |         | no-op   | ✓      |        |
//! | Save           |       |         | ✓       | ✓      |        |
//! | CancelSave     |       |         |         |        | ✓      |
//! | SaveWorkingSet |       |         | ✓       | ✓      |        |
//! | GetMetrics     |       | ✓       | ✓       | ✓      | ✓      |
//! | Attach, VsockConnect, SetBalloon, SetLimits |  | ✓ | ✓ | ✓ |  |
//! | Shutdown       | ✓     | ✓       | ✓       | ✓      | ✓      |
//! | WaitExit       | ✓     | ✓       | ✓       | ✓      | ✓      |
//!
//! A Save that is cancelled or fails returns the machine to the state that it was in before, Running or Paused. A Create
//! or Restore that fails leads to Exited: a process that holds parts of one microVM, such as memory that is mapped in
//! part, builds no other. So a monitor is used once, whatever comes of it. The modules `saving` and `restoring` implement
//! the requests of those names.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hearth_proto::ExitReport;
use hearth_proto::vmm::v1::request::Operation;
use hearth_proto::vmm::v1::response::Result as Response;
use hearth_proto::vmm::v1::{self as proto, ExitKind, ExitReason, MachineState};
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::wire::Descriptors;
use hearth_vmm_api::protocol::VERSIONS;
use prost::Message as _;
use vmm_sys_util::eventfd::EventFd;

use super::error::RequestError;
use crate::machine::shutdown::{ShutdownReason, ShutdownSignal};
use crate::machine::{BuildError, Host, Machine, Prepared};
use crate::snapshot::saver::Saver;

/// How the server responds to a request.
#[derive(Debug)]
pub enum Outcome {
    /// Respond immediately.
    Response(Response),
    /// Respond when the machine has exited.
    WhenExited,
    /// Respond when the machine is saved.
    WhenSaved,
}

pub(super) enum State {
    Empty,
    Created(Machine),
    Running(Machine),
    Paused(Machine),
    Saving {
        machine: Machine,
        /// Whether the machine runs again if the save fails or is cancelled.
        was_running: bool,
    },
    Exited(ExitReason),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Empty => "not created yet",
            Self::Created(_) => "created but has not been booted",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Saving { .. } => "being saved",
            Self::Exited(_) => "ended",
        }
    }

    pub(super) fn wire(&self) -> MachineState {
        match self {
            Self::Empty => MachineState::Empty,
            Self::Created(_) => MachineState::Created,
            Self::Running(_) => MachineState::Running,
            Self::Paused(_) => MachineState::Paused,
            Self::Saving { .. } => MachineState::Saving,
            Self::Exited(_) => MachineState::Exited,
        }
    }

    pub(super) fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Created(machine) | Self::Running(machine) | Self::Paused(machine) => Some(machine),
            Self::Saving { machine, .. } => Some(machine),
            Self::Empty | Self::Exited(_) => None,
        }
    }
}

/// The monitor: one machine, and everything that is needed to rebuild it when the guest restarts.
pub struct Monitor {
    pub(super) saver: Option<Saver>,
    pub(super) state: State,
    pub(super) host: Host,
    pub(super) shutdown: Arc<ShutdownSignal>,
    /// The saver signals this event when it has finished.
    pub(super) saved: Arc<EventFd>,
    /// The response for the clients that wait for a save which has finished or was cancelled.
    pub(super) save_response: Option<Response>,
    pub(super) rebuild: Option<(MachineConfig, OwnedFd)>,
    pub(super) prepared: Option<(Prepared, OwnedFd)>,
    /// The configuration of the machine without descriptors, as a snapshot stores it.
    pub(super) description: proto::Create,
    /// For each disk, the number of its layers that belong to the snapshot on which a diff builds.
    pub(super) base_layers: Vec<usize>,
    /// For each disk, the checksums of its topmost layer's map, where they are known.
    pub(super) layer_maps: Vec<Option<proto::SavedMap>>,
    pub(super) last_save: Option<Timed>,
    pub(super) last_restore: Option<Timed>,
    pub(super) restarts: u64,
}

/// Steps and page counters of a save or restore, for the metrics.
pub(super) type Timed = (Vec<proto::Step>, Vec<proto::Counter>);

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("state", &self.state.name()).finish_non_exhaustive()
    }
}

impl Monitor {
    /// Creates a monitor without a machine on `host`.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub fn new(host: Host) -> std::io::Result<Self> {
        let shutdown = Arc::new(ShutdownSignal::new()?);
        Ok(Self {
            saver: None,
            state: State::Empty,
            host,
            shutdown,
            saved: Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?),
            save_response: None,
            rebuild: None,
            prepared: None,
            description: proto::Create::default(),
            base_layers: Vec::new(),
            layer_maps: Vec::new(),
            last_save: None,
            last_restore: None,
            restarts: 0,
        })
    }

    /// Becomes readable when the machine exits by itself; [`Self::on_end`] is then to be called.
    #[must_use]
    pub fn shutdown_signal(&self) -> &Arc<ShutdownSignal> {
        &self.shutdown
    }

    /// The reason for which the machine has exited; `None` as long as it exists.
    #[must_use]
    pub fn exit(&self) -> Option<&ExitReason> {
        if let State::Exited(reason) = &self.state { Some(reason) } else { None }
    }

    /// Handles one packet.
    pub fn handle(&mut self, packet: &[u8], fds: Vec<OwnedFd>) -> Outcome {
        match self.try_handle(packet, fds) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Response(Response::Error(error.message())),
        }
    }

    fn try_handle(&mut self, packet: &[u8], fds: Vec<OwnedFd>) -> Result<Outcome, RequestError> {
        let request = proto::Request::decode(packet)?;
        let hello = matches!(request.operation, Some(Operation::Hello(_)));
        if !hello && !VERSIONS.has(request.version) {
            return Err(RequestError::Version(request.version));
        }
        let operation = request.operation.ok_or(RequestError::NoOperation)?;
        let (name, expected) = match &operation {
            Operation::Create(create) => ("Create", create.descriptors.len()),
            Operation::Attach(attach) => ("Attach", attach.descriptors.len()),
            Operation::VsockConnect(_) => ("VsockConnect", 1),
            Operation::Hello(_) => ("Hello", 0),
            Operation::Boot(_) => ("Boot", 0),
            Operation::Pause(_) => ("Pause", 0),
            Operation::Resume(_) => ("Resume", 0),
            Operation::GetMetrics(_) => ("GetMetrics", 0),
            Operation::Shutdown(_) => ("Shutdown", 0),
            Operation::WaitExit(_) => ("WaitExit", 0),
            Operation::SetBalloon(_) => ("SetBalloon", 0),
            Operation::SetLimits(_) => ("SetLimits", 0),
            Operation::Save(save) => ("Save", save.descriptors.len()),
            Operation::CancelSave(_) => ("CancelSave", 0),
            Operation::Restore(restore) => ("Restore", restore.descriptors.len()),
            Operation::SaveWorkingSet(save) => ("SaveWorkingSet", save.descriptors.len()),
            Operation::Prepare(prepare) => ("Prepare", prepare.descriptors.len()),
        };
        if fds.len() != expected {
            return Err(RequestError::Descriptors { operation: name, expected, got: fds.len() });
        }
        let response = match operation {
            Operation::Hello(_) => Response::Status(self.status()),
            Operation::Create(create) => {
                self.only_once("create it", |monitor| monitor.create(create, fds))?
            }
            Operation::Boot(_) => self.boot()?,
            Operation::Pause(_) => self.pause()?,
            Operation::Resume(_) => self.resume()?,
            Operation::GetMetrics(_) => Response::Metrics(self.metrics()?),
            Operation::Shutdown(_) => self.shutdown(),
            Operation::WaitExit(_) => return Ok(Outcome::WhenExited),
            Operation::Attach(attach) => {
                let mut descriptors = Descriptors::new(&attach.descriptors, fds)?;
                let listener = descriptors.take(proto::DescriptorRole::VsockListener, 0);
                let broker = descriptors.take(proto::DescriptorRole::VsockBroker, 0);
                descriptors.finish()?;
                self.attach(listener, broker)?
            }
            Operation::VsockConnect(connect) => {
                let machine = self.machine_at_hand("connect to the guest")?;
                if let Some(stream) = fds.into_iter().next() {
                    machine.vsock_connect(connect.port, UnixStream::from(stream))?;
                }
                Response::Done(proto::Done {})
            }
            Operation::Save(save) => return self.save(save, fds),
            Operation::CancelSave(_) => self.cancel_save()?,
            Operation::Restore(restore) => {
                self.only_once("restore it", |monitor| monitor.restore(&restore, fds))?
            }
            Operation::SaveWorkingSet(save) => self.save_working_set(&save, fds)?,
            Operation::Prepare(prepare) => self.prepare(&prepare, fds)?,
            Operation::SetBalloon(balloon) => {
                self.machine_at_hand("set the balloon")?.set_balloon(balloon.target_mib)?;
                Response::Done(proto::Done {})
            }
            Operation::SetLimits(set) => self.set_limits(set.limits.unwrap_or_default())?,
        };
        Ok(Outcome::Response(response))
    }

    pub(super) fn wrong_state(&self, operation: &'static str) -> RequestError {
        RequestError::State { operation, state: self.state.name() }
    }

    pub(super) fn machine(&self, operation: &'static str) -> Result<&Machine, RequestError> {
        self.state.machine().ok_or_else(|| self.wrong_state(operation))
    }

    /// Returns the machine, unless it is being saved: the save would lose a change that is made meanwhile.
    fn machine_at_hand(&self, operation: &'static str) -> Result<&Machine, RequestError> {
        if matches!(self.state, State::Saving { .. }) {
            return Err(self.wrong_state(operation));
        }
        self.machine(operation)
    }

    /// Builds the machine; without one, the monitor ends.
    fn only_once(
        &mut self,
        operation: &'static str,
        build: impl FnOnce(&mut Self) -> Result<Response, RequestError>,
    ) -> Result<Response, RequestError> {
        let State::Empty = self.state else { return Err(self.wrong_state(operation)) };
        build(self).inspect_err(|error| {
            self.finish(ExitKind::MonitorError, format!("the machine could not be built: {error}"));
        })
    }

    fn create(&mut self, create: proto::Create, fds: Vec<OwnedFd>) -> Result<Response, RequestError> {
        let description = proto::Create { descriptors: Vec::new(), ..create.clone() };
        let (config, kvm) = MachineConfig::from_message(create, fds)?;
        (self.description, self.prepared) = (description, None);
        (self.base_layers, self.layer_maps) = (vec![0; config.disks.len()], Vec::new());
        self.rebuild = Some((config, kvm));
        self.state = State::Created(self.build()?);
        Ok(Response::Done(proto::Done {}))
    }

    /// Builds the machine of the configuration in `rebuild`.
    fn build(&self) -> Result<Machine, BuildError> {
        let (config, kvm) = self.rebuild.as_ref().ok_or(BuildError::NoKernel)?;
        let config = config.try_clone().map_err(BuildError::host("duplicating descriptors"))?;
        Machine::build(config, kvm.as_fd(), &self.host, Arc::clone(&self.shutdown))
    }

    fn boot(&mut self) -> Result<Response, RequestError> {
        let State::Created(_) = self.state else { return Err(self.wrong_state("boot it")) };
        self.go();
        Ok(Response::Done(proto::Done {}))
    }

    pub(super) fn pause(&mut self) -> Result<Response, RequestError> {
        match std::mem::replace(&mut self.state, State::Empty) {
            State::Running(machine) => {
                machine.pause();
                self.state = State::Paused(machine);
            }
            other => {
                self.state = other;
                if !matches!(self.state, State::Paused(_)) {
                    return Err(self.wrong_state("pause it"));
                }
            }
        }
        Ok(Response::Done(proto::Done {}))
    }

    fn resume(&mut self) -> Result<Response, RequestError> {
        match self.state {
            State::Paused(_) => self.go(),
            State::Running(_) => {}
            _ => return Err(self.wrong_state("resume it")),
        }
        Ok(Response::Done(proto::Done {}))
    }

    /// Lets a created or paused machine run.
    pub(super) fn go(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Empty) {
            State::Created(machine) | State::Paused(machine) => {
                machine.run();
                State::Running(machine)
            }
            other => other,
        };
    }

    fn shutdown(&mut self) -> Response {
        self.finish(ExitKind::Shutdown, "a controller asked for it".into());
        Response::Done(proto::Done {})
    }

    fn attach(
        &mut self,
        listener: Option<OwnedFd>,
        broker: Option<OwnedFd>,
    ) -> Result<Response, RequestError> {
        let machine = self.machine_at_hand("attach to it")?;
        let duplicate = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let kept = duplicate(&listener).and_then(|listener| Ok((listener, duplicate(&broker)?)));
        let (kept_listener, kept_broker) =
            kept.map_err(|source| RequestError::Host { what: "duplicating descriptors", source })?;
        machine.attach_vsock(listener.map(Into::into), broker)?;
        // If the guest restarts, the rebuilt machine uses the sockets that are attached now, not the original ones.
        if let Some(vsock) = self.rebuild.as_mut().and_then(|(config, _)| config.vsock.as_mut()) {
            vsock.listener = kept_listener.map(Into::into).or(vsock.listener.take());
            vsock.broker = kept_broker.or(vsock.broker.take());
        }
        Ok(Response::Done(proto::Done {}))
    }

    /// Changes the limits of the machine's devices, of its snapshots, and of the machine that a restart of its guest makes.
    fn set_limits(&mut self, limits: proto::DeviceLimits) -> Result<Response, RequestError> {
        let limits = DeviceLimits::from_message(limits)?;
        self.machine_at_hand("set its limits")?.set_limits(limits)?;
        limits.describe(&mut self.description);
        if let Some((config, _)) = &mut self.rebuild {
            config.set_limits(limits);
        }
        Ok(Response::Done(proto::Done {}))
    }

    /// Handles the exit that the machine has reported: restarts the machine or finishes.
    pub fn on_end(&mut self) {
        let Some(reason) = self.shutdown.take() else { return };
        match reason {
            ShutdownReason::PowerOff => {
                self.finish(ExitKind::PowerOff, "the guest powered itself off".into())
            }
            ShutdownReason::GuestError(message) => self.finish(ExitKind::GuestError, message),
            ShutdownReason::MonitorError(message) => self.finish(ExitKind::MonitorError, message),
            ShutdownReason::Restart => self.restart(),
        }
    }

    fn restart(&mut self) {
        self.give_up_save_of_restarted();
        if !matches!(self.state, State::Running(_) | State::Paused(_)) {
            return;
        }
        let paused = matches!(self.state, State::Paused(_));
        self.state = State::Empty; // drops the old machine, which finishes and closes its disks
        // Another vCPU may have reported an exit while it stopped. That report concerns the old machine: discard it.
        let _ = self.shutdown.take();
        match self.build() {
            Ok(machine) => {
                self.restarts += 1;
                self.state = State::Created(machine);
                self.go();
                // A pause that was acknowledged persists across the guest's restart.
                if paused && let State::Running(_) = self.state {
                    let _ = self.pause();
                }
            }
            Err(error) => {
                self.finish(
                    ExitKind::MonitorError,
                    format!("the guest restarted and could not be built anew: {error}"),
                );
            }
        }
    }

    fn finish(&mut self, kind: ExitKind, message: String) {
        if matches!(self.state, State::Exited(_)) {
            return;
        }
        let reason = ExitReason { kind: kind.into(), message };
        self.saver = None;
        self.state = State::Exited(reason.clone()); // drops the machine: it finishes and closes its disks
        if let Some((config, _)) = &self.rebuild
            && let Some(report) = config.exit_report.as_ref().and_then(|fd| fd.try_clone().ok())
        {
            let line = ExitReport::from(&reason);
            // The process that passed the descriptor may have closed its end of it; there is nobody else to notify.
            let _ = writeln!(File::from(report), "{line}");
        }
    }
}

#[cfg(test)]
mod tests;
