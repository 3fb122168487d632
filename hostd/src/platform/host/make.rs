//! Makes a microVM from its image, or from its suspended state.
//!
//! ```text
//!  one thread:  monitor and network (from the pool) ─► claimed ─► files opened ─► restored ┐
//!                                                                                          ├─► agent ─► identified ─► served
//!  meanwhile:   credentials of its role ───────────────────────────────────────────────────┘
//! ```

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hearth_host::microvm::process::Process;
use hearth_host::microvm::{Microvm, Restore, create, open};
use hearth_host::network::{MicrovmNetwork, NetworkError, Owner};
use hearth_host::roles::Credentials;
use hearth_image_builder::image::{DISK, Image, SNAPSHOT};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreClock;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::attempts::Attempt;
use super::error::{HostError, failed};
use super::exclusive::TURN;
use super::layout::{Keep, Place, make_folder};
use super::logs::Output;
use super::record::{RunRecord, set_identified};
use super::remove::set_aside;
use super::room::Room;
use super::running::{MicrovmParts, RunningMicrovm};
use super::timeline::{OperationReport, TimedOperation, Timeline};
use super::{Host, identity, links, monitors};
use crate::disk::Lease;
use crate::panics::poisoned;
use crate::platform::Spec;

/// The result of the blocking part of making a microVM.
struct Restored {
    microvm: Microvm,
    process: Arc<Process>,
    card: bool,
    /// Host name and machine id are the microVM's own.
    own_name: bool,
    /// The network is being given to its account, meanwhile.
    assigned: Assigned,
    lease: Lease,
    timeline: Timeline,
}

/// Work that gives a network to an account.
type Assigned = Option<JoinHandle<Result<(), NetworkError>>>;

/// The state of making a microVM.
struct Making {
    host: Arc<Host>,
    place: Place,
    from: u64,
    attempt: Attempt,
    given_up: AtomicBool,
    /// The monitor's process, once there is one.
    process: Mutex<Option<Arc<Process>>>,
}

/// Gives up making a microVM if it is dropped before the microVM is finished: the monitor is killed, and half-made
/// parts are removed.
struct GiveUp {
    making: Arc<Making>,
    finished: bool,
}

impl Making {
    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Kills the monitor, so that no thread waits for it any longer.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        if let Some(process) = &*self.process.lock().unwrap_or_else(poisoned) {
            let _ = process.kill(); // the process may have exited by itself
        }
    }

    /// Records the monitor's process. If the attempt was given up before, the process is killed at once.
    fn has(&self, process: &Arc<Process>) {
        *self.process.lock().unwrap_or_else(poisoned) = Some(Arc::clone(process));
        if self.is_given_up() {
            self.give_up();
        }
    }

    /// Removes the half-made parts of the microVM; the suspended state that a resume began from stays. The caller
    /// holds the lock of the microVM's folder.
    fn clear(&self) {
        let Self { host, place, from, attempt, .. } = self;
        if !host.attempts.is_newest(attempt) {
            return; // a later attempt has removed them
        }
        let cleared = host.end_run(place).and_then(|()| {
            place
                .tidy(if *from == 0 { Keep::Nothing } else { Keep::State(*from) })
                .map_err(failed("tidying", &place.state))
        });
        if *from == 0 {
            let _ = fs::remove_dir(&place.state); // fails if it is not empty
        }
        if let Err(error) = cleared {
            tracing::warn!(folder = %place.run.display(), %error, "something of a failed launch is left");
        }
    }

    /// Calls [`Self::clear`] after taking the lock of the microVM's folder.
    fn clear_in_turn(&self) {
        match self.host.making.hold(&self.place.state, TURN) {
            Ok(_turn) => self.clear(),
            // The holder of the lock cleans up itself; the removal of the microVM deletes the rest.
            Err(error) => tracing::warn!(folder = %self.place.run.display(), %error, "left for later"),
        }
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.making.give_up();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let making = Arc::clone(&self.making);
            runtime.spawn_blocking(move || making.clear_in_turn());
        }
    }
}

impl Host {
    /// Makes a microVM from suspended state `from`, or from its image (0).
    pub(super) async fn make(
        self: &Arc<Self>,
        spec: &Spec,
        from: u64,
    ) -> Result<Arc<RunningMicrovm>, HostError> {
        let place = self.layout.microvm(&spec.id);
        let operation = if from == 0 { TimedOperation::Launch } else { TimedOperation::Resume };
        let mut timeline = Timeline::start();
        let limit = self.config.launch_timeout();
        let making = Arc::new(Making {
            host: Arc::clone(self),
            place: place.clone(),
            from,
            attempt: self.attempts.begin(&spec.id),
            given_up: AtomicBool::new(false),
            process: Mutex::default(),
        });
        let mut given_up = GiveUp { making: Arc::clone(&making), finished: false };
        let made = match timeout(limit, self.try_make(spec, &place, &making, &mut timeline)).await {
            Ok(made) => made,
            Err(_) => Err(HostError::TooLong(limit)),
        };
        if made.is_err() {
            making.give_up();
            let making = Arc::clone(&making);
            let _ = spawn_blocking(move || making.clear_in_turn()).await; // the removal of the microVM deletes the rest
        }
        given_up.finished = true;
        let report =
            OperationReport { operation, microvm: &spec.id, succeeded: made.is_ok(), timeline: &timeline };
        self.observer.notify(&report);
        self.refill();
        made
    }

    async fn try_make(
        self: &Arc<Self>,
        spec: &Spec,
        place: &Place,
        making: &Arc<Making>,
        timeline: &mut Timeline,
    ) -> Result<Arc<RunningMicrovm>, HostError> {
        // Stops serving an earlier guest with this id.
        if let Some(earlier) = self.forget(&spec.id) {
            earlier.stop_serving();
        }
        let folder = self.layout.build(&spec.build);
        let restoring = {
            let (making, spec, folder) = (Arc::clone(making), spec.clone(), folder.clone());
            let so_far = Timeline::since(timeline.started());
            spawn_blocking(move || making.host.restore(&spec, &folder, &making, so_far))
        };
        let (restored, credentials) = tokio::join!(restoring, self.credentials(spec));
        let Restored { microvm, process, card, own_name, assigned, lease, timeline: so_far } = restored??;
        *timeline = so_far;
        let credentials = credentials?;
        timeline.done("credentials");
        let control = microvm.agent().wait_ready(self.config.launch_timeout()).await;
        let mut control = control.map_err(|error| explained(error, &microvm))?;
        timeline.done("agent");
        if let Some(assigned) = assigned {
            assigned.await??;
        }
        let network = card.then(|| identity::network(self.config.network.mtu));
        let identify = identity::message((&spec.id, own_name), &self.clock, network, credentials.as_ref());
        let identify = identify.map_err(failed("reading", Path::new("/dev/urandom")))?;
        let identified = control.identify(identify).await;
        identified.map_err(|error| explained(error, &microvm))?;
        set_identified(&place.run).map_err(failed("writing into", &place.run))?;
        timeline.done("identity");
        let parts = MicrovmParts {
            microvm,
            process,
            place: place.clone(),
            from: making.from,
            base: folder.join(SNAPSHOT),
            card,
            expiration: credentials.map(|credentials| credentials.expiration),
            lease: Mutex::new(Some(lease)),
        };
        let running = RunningMicrovm::start(self, spec, parts);
        self.remember(&running);
        Ok(running)
    }

    async fn credentials(&self, spec: &Spec) -> Result<Option<Credentials>, HostError> {
        match spec.execution_role() {
            Some(role) => Ok(self.roles.credentials(&role).await?),
            None => Ok(None),
        }
    }

    /// The blocking part of making a microVM.
    fn restore(
        &self,
        spec: &Spec,
        folder: &Path,
        making: &Making,
        timeline: Timeline,
    ) -> Result<Restored, HostError> {
        let place = &making.place;
        // An earlier holder of the lock was given up and its monitor killed, so that it releases the lock soon.
        let _turn = self.making.hold(&place.state, TURN).map_err(failed("making", &place.state))?;
        if making.is_given_up() || !self.attempts.is_newest(&making.attempt) {
            return Err(HostError::GivenUp(spec.id.clone()));
        }
        let restored = self.restore_in_turn(spec, folder, making, timeline);
        if making.is_given_up() {
            // When the attempt was given up, there may have been nothing to remove yet.
            making.clear();
        }
        restored
    }

    fn restore_in_turn(
        &self,
        spec: &Spec,
        folder: &Path,
        making: &Making,
        mut timeline: Timeline,
    ) -> Result<Restored, HostError> {
        let (place, from) = (&making.place, making.from);
        self.end_run(place)?;
        if let Some(aside) = self.restoration.aside_of(&spec.id) {
            if place.state.exists() {
                set_aside(&aside, &place.state, self.layout.data())?;
            }
            self.restoration.settle(&spec.id);
        }
        place
            .tidy(if from == 0 { Keep::Nothing } else { Keep::State(from) })
            .map_err(failed("tidying", &place.state))?;
        if from != 0 && !place.is_suspended(from) {
            return Err(HostError::NoState { id: spec.id.clone(), number: from });
        }
        make_folder(&place.state).map_err(failed("making", &place.state))?;
        let image = Image::open(folder)?;
        let (shape, app) = (image.manifest().shape, &image.manifest().app);
        timeline.done("image");
        let monitor = self.monitor(shape.into())?;
        timeline.done("monitor");
        let link =
            if image.manifest().network { Some(self.link(links::LinkKind(spec.egress))?) } else { None };
        timeline.done("network");
        let network = link.as_ref().and_then(|link| link.name().map(str::to_owned));
        let record = RunRecord { network, from };
        let (microvm, process) = monitor.claim(place, &record, (shape, spec.memory_mib))?;
        making.has(&process);
        // The records now contain the network's name: removing the microVM removes the network.
        let network = link.and_then(links::Link::claim);
        let assigned = self.assign(network.as_ref(), spec);
        timeline.done("claim");
        let tap = network.as_ref().map(MicrovmNetwork::tap).transpose();
        let tap = tap.map_err(failed("duplicating the tap of", &place.run))?;
        let base = open("opening the image's disk", &folder.join(DISK))?;
        let lease = self.disk.lease(spec.account.as_str(), &place.overlay(from));
        let overlay = create("making the microVM's overlay", &place.overlay(from))?;
        let (snapshot, clock) = match from {
            0 => (folder.join(SNAPSHOT), RestoreClock::Continue),
            number if app.has_standing_clock() => (place.suspended(number), RestoreClock::Continue),
            number => (place.suspended(number), RestoreClock::Advance),
        };
        let disks = vec![DiskSource::Overlay { base, layers: Vec::new(), overlay }];
        let rates = self.config.limits.of(spec.memory_mib.into());
        let limits = DeviceLimits { room: lease.bound(), ..rates };
        let restored = microvm.restore(Restore { snapshot, disks, tap, clock, limits, record: false });
        let restored = restored.map_err(|error| explained(error, &microvm))?;
        timeline.done("restore");
        timeline.parts("restore", &restored.steps);
        let room = Room::new(place.run.clone(), rates, self.output(spec));
        lease.held_by(Arc::new(room), Some(true));
        let (card, own_name) = (network.is_some(), app.has_own_name());
        Ok(Restored { microvm, process, card, own_name, assigned, lease, timeline })
    }

    /// Where the output of a microVM goes.
    pub(super) fn output(&self, spec: &Spec) -> Output {
        Output {
            account: spec.account.clone(),
            microvm: spec.id.clone(),
            target: spec.log.clone(),
            sink: Arc::clone(&self.logs),
        }
    }

    /// Begins to give a network to the microVM's account, on a thread of its own: the kernel may be busy with other interfaces. It is
    /// done before the guest has its identity, and so before its app runs.
    fn assign(&self, network: Option<&MicrovmNetwork>, spec: &Spec) -> Assigned {
        let slot = network.and_then(MicrovmNetwork::slot)?;
        let (networks, owner) = (Arc::clone(&self.networks), Owner::of(spec.account.as_str()));
        Some(Handle::try_current().ok()?.spawn_blocking(move || networks.assign(slot, owner)))
    }

    fn monitor(&self, kind: monitors::MonitorShape) -> Result<monitors::Monitor, HostError> {
        while let Some(monitor) = self.monitors.take(kind) {
            if monitor.is_alive() {
                return Ok(monitor);
            }
            tracing::warn!("a monitor in the pool has ended by itself");
        }
        self.monitor_factory.make(kind)
    }

    fn link(&self, kind: links::LinkKind) -> Result<links::Link, HostError> {
        match self.links.take(kind) {
            Some(link) => Ok(link),
            None => Ok(self.link_factory.make(kind)?),
        }
    }
}

/// Adds the last output of the guest's kernel and the monitor to an error.
fn explained(error: impl Into<HostError>, microvm: &Microvm) -> HostError {
    error.into().with_last_words(microvm.last_words())
}
