//! A microVM from its image, or from its suspended state.
//!
//! ```text
//!  one thread:  monitor and network (from the pool) ─► claimed ─► files opened ─► restored ┐
//!                                                                                          ├─► agent ─► identified ─► looked after
//!  meanwhile:   credentials of its role ───────────────────────────────────────────────────┘
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_host::microvm::process::Process;
use hearth_host::microvm::{Microvm, Restore, create, open};
use hearth_host::network::MicrovmNetwork;
use hearth_host::roles::Credentials;
use hearth_image_builder::image::{DISK, Image, SNAPSHOT};
use hearth_vmm::config::DiskSource;
use hearth_vmm::config::restore::RestoreClock;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::error::{agent, failed, microvm, role, thread};
use super::guest::{Machine, Made};
use super::layout::{Keep, Place, make_folder};
use super::record::{MicrovmRecord, set_identified};
use super::timeline::{Operation, Report, Timeline};
use super::{Host, identity, links, monitors};
use crate::platform::{PlatformError, Spec};

/// What the blocking part of making a microVM comes to.
struct Restored {
    microvm: Microvm,
    process: Arc<Process>,
    card: bool,
    timeline: Timeline,
}

/// Tells the blocking part that nobody waits for it any more, when dropped.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Host {
    /// Makes a microVM: from suspended state `from`, or from its image (0).
    pub(super) async fn make(
        self: &Arc<Self>,
        spec: &Spec,
        from: u64,
    ) -> Result<Arc<Machine>, PlatformError> {
        let place = self.place(&spec.id)?;
        let operation = if from == 0 { Operation::Launch } else { Operation::Resume };
        let mut timeline = Timeline::start();
        let limit = self.config.launch_timeout();
        let made = match timeout(limit, self.try_make(spec, from, &place, &mut timeline)).await {
            Ok(made) => made,
            Err(_) => Err(PlatformError::Failed(format!("it took longer than {} s", limit.as_secs()))),
        };
        if made.is_err() {
            self.clear(&place, from).await;
        }
        let report = Report { operation, microvm: &spec.id, succeeded: made.is_ok(), timeline: &timeline };
        self.observer.tell(&report);
        self.refill();
        made
    }

    async fn try_make(
        self: &Arc<Self>,
        spec: &Spec,
        from: u64,
        place: &Place,
        timeline: &mut Timeline,
    ) -> Result<Arc<Machine>, PlatformError> {
        // Nobody looks after an earlier one of this id any more.
        if let Some(machine) = self.forget(&spec.id) {
            machine.let_go();
        }
        let folder = self.artifact(&spec.artifact)?;
        let abandoned = Abandon(Arc::new(AtomicBool::new(false)));
        let restoring = {
            let (host, spec, place) = (Arc::clone(self), spec.clone(), place.clone());
            let (folder, abandoned) = (folder.clone(), Arc::clone(&abandoned.0));
            let so_far = Timeline::since(timeline.started());
            spawn_blocking(move || {
                let restored = host.restore(&spec, from, (&place, &folder), so_far);
                if abandoned.load(Ordering::Acquire) {
                    // Whoever gave up may have found nothing to remove yet.
                    host.clear_now(&place, from);
                }
                restored
            })
        };
        let (restored, credentials) = tokio::join!(restoring, self.credentials(spec));
        let Restored { microvm: made, process, card, timeline: so_far } = restored.map_err(thread)??;
        *timeline = so_far;
        let credentials = credentials?;
        timeline.done("credentials");
        let control = made.agent().wait_ready(self.config.launch_timeout()).await;
        let mut control = control.map_err(|error| explained(agent(error), &made))?;
        timeline.done("agent");
        let network = card.then(|| identity::network(self.config.network.mtu));
        let identify = identity::message(&spec.id, &self.clock, network, credentials.as_ref());
        let identify = identify.map_err(failed("reading", Path::new("/dev/urandom")))?;
        let identified = control.identify(identify).await;
        identified.map_err(|error| explained(agent(error), &made))?;
        set_identified(&place.run).map_err(failed("writing into", &place.run))?;
        timeline.done("identity");
        let made = Made {
            microvm: made,
            process,
            place: place.clone(),
            from,
            base: folder.join(SNAPSHOT),
            card,
            expiration: credentials.map(|credentials| credentials.expiration),
        };
        let machine = Machine::start(self, spec, made);
        self.remember(&machine);
        Ok(machine)
    }

    async fn credentials(&self, spec: &Spec) -> Result<Option<Credentials>, PlatformError> {
        match spec.execution_role() {
            Some(wanted) => self.roles.credentials(&wanted).await.map_err(role),
            None => Ok(None),
        }
    }

    /// The part that blocks.
    fn restore(
        &self,
        spec: &Spec,
        from: u64,
        (place, folder): (&Place, &Path),
        mut timeline: Timeline,
    ) -> Result<Restored, PlatformError> {
        self.end_run(place)?;
        place
            .tidy(if from == 0 { Keep::Nothing } else { Keep::State(from) })
            .map_err(failed("tidying", &place.state))?;
        if from != 0 && !place.is_suspended(from) {
            let message = format!("suspended state {from} of {} is not there", spec.id);
            return Err(PlatformError::Failed(message));
        }
        make_folder(&place.state).map_err(failed("making", &place.state))?;
        let image = Image::open(folder).map_err(|error| PlatformError::Failed(error.to_string()))?;
        let shape = image.manifest().shape;
        timeline.done("image");
        let monitor = self.monitor(shape.into())?;
        timeline.done("monitor");
        let link = if image.manifest().network { Some(self.link(links::Kind(spec.egress))?) } else { None };
        timeline.done("network");
        let network = link.as_ref().and_then(|link| link.name().map(str::to_owned));
        let record = MicrovmRecord { network, from };
        let (made, process) = monitor.claim(place, &record, (shape, spec.memory_mib))?;
        // Its name is in the records now: whoever removes the microVM removes it.
        let network = link.and_then(links::Link::claim);
        timeline.done("claim");
        let tap = network.as_ref().map(MicrovmNetwork::tap).transpose();
        let tap = tap.map_err(failed("duplicating the tap of", &place.run))?;
        let base = open("opening the image's disk", &folder.join(DISK)).map_err(microvm)?;
        let overlay = create("making the microVM's overlay", &place.overlay(from)).map_err(microvm)?;
        let (snapshot, clock) = match from {
            0 => (folder.join(SNAPSHOT), RestoreClock::Continue),
            number => (place.suspended(number), RestoreClock::Advance),
        };
        let disks = vec![DiskSource::Overlay { base, layers: Vec::new(), overlay }];
        let restored = made.restore(Restore { snapshot, disks, tap, clock, record: false });
        let restored = restored.map_err(|error| explained(microvm(error), &made))?;
        timeline.done("restore");
        timeline.parts("restore", &restored.steps);
        Ok(Restored { microvm: made, process, card: network.is_some(), timeline })
    }

    fn monitor(&self, kind: monitors::Kind) -> Result<monitors::Monitor, PlatformError> {
        while let Some(monitor) = self.monitors.take(kind) {
            if monitor.is_alive() {
                return Ok(monitor);
            }
            tracing::warn!("a monitor in the pool has ended by itself");
        }
        self.monitors_maker.make(kind)
    }

    fn link(&self, kind: links::Kind) -> Result<links::Link, PlatformError> {
        self.links.take(kind).map_or_else(|| self.links_maker.make(kind), Ok)
    }

    /// Removes what is left of a microVM that could not be made; of one that was to be resumed, its state stays.
    async fn clear(self: &Arc<Self>, place: &Place, from: u64) {
        let (host, place) = (Arc::clone(self), place.clone());
        let _ = spawn_blocking(move || host.clear_now(&place, from)).await; // what stays, the microVM's removal gets
    }

    fn clear_now(&self, place: &Place, from: u64) {
        let cleared = self.end_run(place).and_then(|()| {
            place
                .tidy(if from == 0 { Keep::Nothing } else { Keep::State(from) })
                .map_err(failed("tidying", &place.state))
        });
        if from == 0 {
            let _ = fs::remove_dir(&place.state); // if it is empty
        }
        if let Err(error) = cleared {
            tracing::warn!(folder = %place.run.display(), %error, "something of a failed launch is left");
        }
    }
}

/// An error, with what the guest's kernel and the monitor said last.
fn explained(error: PlatformError, microvm: &Microvm) -> PlatformError {
    let words = microvm.last_words();
    match error {
        PlatformError::Failed(message) if !words.is_empty() => {
            PlatformError::Failed(format!("{message}; its last words:\n{words}"))
        }
        other => other,
    }
}
