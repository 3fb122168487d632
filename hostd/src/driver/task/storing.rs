//! Storing a microVM's changes of state, also where the store fails.
//!
//! A change is durable before its effect begins, and where it cannot be stored the task tries again until it can. The end
//! of a microVM is the exception, for it may be what makes room on a full disk: its effect begins whether it is stored or
//! not, and the task goes on with a state that is ahead of the store. Only TERMINATED waits for the store again. A daemon
//! that is killed before that finds the earlier phase and no process, and goes on from there
//! ([`crate::lifecycle::recovery`]); the client was told that its request is not durable.

use std::time::{Duration, SystemTime};

use hearth_proto::store::v1::MicrovmRecord;
use tokio::time::{Instant, sleep_until};

use super::{RETRY, Task};
use crate::clock;
use crate::driver::context::Change;
use crate::driver::error::RequestError;
use crate::driver::mailbox::ClientRequest;
use crate::driver::record;
use crate::lifecycle::microvm::{self, Event, Phase, Request, State, Step};
use crate::lifecycle::table;
use crate::store::CommitError;

/// What comes of waiting for another attempt to store a step.
enum Waited {
    /// The attempt is due.
    Retry,
    /// The microVM ends instead. The step's effect is not begun.
    Ended,
    /// The daemon shuts down.
    Stopping,
}

/// Whether a microVM in this phase is on its way to its end.
fn ends(phase: Phase) -> bool {
    matches!(phase, Phase::TerminateHook | Phase::Ending)
}

/// When the lifetime of a microVM in this phase is over; none in phases that terminate it.
pub(in super::super) fn lifetime(record: &MicrovmRecord, phase: Phase) -> Option<SystemTime> {
    let microvm = record.microvm.as_ref()?;
    let terminates = ends(phase) || phase == Phase::Terminated;
    let started = microvm.started_at.as_ref().filter(|_| !terminates)?;
    let seconds = u64::try_from(microvm.maximum_duration_in_seconds).unwrap_or_default();
    Some(clock::time(started) + Duration::from_secs(seconds))
}

impl Task {
    /// Stores a step, trying again for as long as it takes, and begins the effect that follows.
    pub(super) async fn apply(&mut self, step: Step) {
        let mut pause = RETRY.0;
        while let Err(error) = self.store_or_go_ahead(&step.state).await {
            tracing::error!(microvm = record::id(&self.record), %error, "storing a change of state, trying again");
            if ends(step.state.phase) {
                break;
            }
            match self.wait(&step.state, &error, pause).await {
                Waited::Retry => pause = (pause * 2).min(RETRY.1),
                Waited::Ended | Waited::Stopping => return,
            }
        }
        self.begin(step.effect).await;
    }

    /// Waits for another attempt to store `to`. Meanwhile requests are answered, and the microVM's lifetime ends.
    async fn wait(&mut self, to: &State, error: &CommitError, pause: Duration) -> Waited {
        let until = Instant::now() + pause;
        loop {
            let (clock, lifetime) = (self.context.clock, self.lifetime());
            let lifetime_over = async move {
                match lifetime {
                    Some(time) => clock.sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(until) => return Waited::Retry,
                request = self.channels.mailbox.recv() => {
                    let Some(ClientRequest { request, response }) = request else { return Waited::Stopping };
                    // What has no process any more is not ended by another request.
                    let terminates = request == Request::Terminate && to.phase != Phase::Terminated;
                    let result = match terminates {
                        true => {
                            self.go_ahead(to);
                            self.request(request).await
                        }
                        false => Err(RequestError::not_stored(error.clone())),
                    };
                    let _ = response.send(result); // the client may have disconnected
                    if terminates {
                        return Waited::Ended;
                    }
                }
                () = lifetime_over => {
                    self.go_ahead(to);
                    if let Ok(step) = table::step(&self.state, &Event::LifetimeOver, self.context.rules) {
                        let _ = self.store_or_go_ahead(&step.state).await; // each following step tries again
                        self.begin(step.effect).await;
                    }
                    return Waited::Ended;
                }
            }
        }
    }

    /// When the microVM's lifetime is over. It is observed in every phase but those that already terminate the microVM,
    /// where the effects' deadlines suffice.
    pub(super) fn lifetime(&self) -> Option<SystemTime> {
        lifetime(&self.record, self.state.phase)
    }

    /// Stores a state. One on the way to the microVM's end is entered also where that fails.
    ///
    /// # Errors
    /// The state is not durable.
    pub(super) async fn store_or_go_ahead(&mut self, to: &State) -> Result<(), CommitError> {
        let stored = self.store(to).await;
        if stored.is_err() && ends(to.phase) {
            self.go_ahead(to);
        }
        stored
    }

    /// Makes a state durable where that is required, and enters it.
    ///
    /// # Errors
    /// The state is neither durable nor entered.
    pub(super) async fn store(&mut self, to: &State) -> Result<(), CommitError> {
        if *to == self.state && !self.ahead {
            return Ok(());
        }
        let now = self.context.clock.timestamp();
        let changed = record::with_state(&self.record, to, now);
        let point = to.phase.as_str_name().to_ascii_lowercase();
        if self.ahead || microvm::must_be_stored(&self.state, to) {
            self.context.faults.at("microvm", &point, "before-commit").await;
            let expires = record::millis(Some(&now)) + self.context.retention_ms();
            self.context.db.commit(record::update(&changed, expires)).await?;
            self.context.faults.at("microvm", &point, "after-commit").await;
            self.ahead = false;
        }
        self.enter(changed, to);
        Ok(())
    }

    /// Enters a state that is not durable.
    fn go_ahead(&mut self, to: &State) {
        self.ahead = true;
        let changed = record::with_state(&self.record, to, self.context.clock.timestamp());
        self.enter(changed, to);
    }

    /// Enters a state, with the record that has it, and notifies the observer and the gate.
    fn enter(&mut self, changed: MicrovmRecord, to: &State) {
        let from = std::mem::replace(&mut self.state, to.clone());
        let record = std::mem::replace(&mut self.record, changed);
        if !self.state.takes_memory() {
            self.reservation = None;
        }
        if self.state.phase == Phase::Terminated {
            self.share = None;
        }
        let (seen, now) = (from.visible(), to.visible());
        if seen != now {
            self.context.moved(Some(seen), Some(now));
        }
        self.channels.gate.update(&self.state, self.guest.as_ref());
        self.context.observer.state_changed(&Change {
            before: &record,
            after: &self.record,
            from: &from,
            to,
        });
    }
}
