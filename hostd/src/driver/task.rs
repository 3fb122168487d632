//! The task of one microVM: takes events one after another, stores the resulting state, and carries out the effect
//! that follows.
//!
//! ```text
//!  request ─┐                 ┌─► response
//!  outcome ─┼─► step ─► store ┼─► notify
//!  exit    ─┤                 └─► effect ─► outcome
//!  timer   ─┤                               │
//!  late    ─┘ ◄─────────────────────────────┘ never
//! ```
//!
//! One effect is under way at a time. A hook call is abandoned when another effect has to begin; all other effects
//! are awaited, since they would leave something half made behind. Nothing is awaited longer than its
//! [deadline](super::deadlines). [`storing`] has what happens when the store fails.

pub(super) mod storing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::store::v1::MicrovmRecord;
use tokio::time::{Instant, sleep_until, timeout};

use super::capacity::Reservation;
use super::context::Context;
use super::deadlines::{self, Overdue};
use super::error::RequestError;
use super::mailbox::{ClientRequest, TaskChannels};
use super::record::{self, Ids};
use crate::clock;
use crate::lifecycle::microvm::{Effect, Event, Phase, Refusal, Request, State, Step};
use crate::lifecycle::table;
use crate::platform::{Exit, Guest, Spec, SuspendError};
use crate::usage::Share;

/// Pause before the daemon retries an operation of its own that failed: at first, and at most.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long the shutdown of the daemon waits for effects that are under way. A service manager does not wait much
/// longer.
const STOP: Duration = Duration::from_secs(20);

/// The result of an effect.
struct Outcome {
    event: Event,
    guest: Option<Arc<dyn Guest>>,
}

impl From<Event> for Outcome {
    fn from(event: Event) -> Self {
        Self { event, guest: None }
    }
}

/// An effect that is under way.
struct ActiveEffect {
    effect: Effect,
    since: Instant,
    /// When to send the machine a warning event because the effect takes long, and that event. None once it was sent.
    warning: Option<(Instant, Event)>,
    /// When the effect is given up.
    deadline: Instant,
    outcome: BoxFuture<'static, Outcome>,
}

impl ActiveEffect {
    /// When to act next because the effect takes so long: the warning or the deadline.
    fn next(&self) -> Instant {
        self.warning.as_ref().map_or(self.deadline, |(warning, _)| self.deadline.min(*warning))
    }

    /// How long the effect may take altogether.
    fn limit(&self) -> Duration {
        self.deadline.saturating_duration_since(self.since)
    }
}

pub(super) struct Task {
    context: Arc<Context>,
    record: MicrovmRecord,
    ids: Ids,
    state: State,
    /// Whether the state is one that could not be stored.
    ahead: bool,
    guest: Option<Arc<dyn Guest>>,
    exit: Option<BoxFuture<'static, Exit>>,
    /// The microVM's part of its account's memory; none once its end is stored.
    share: Option<Share>,
    /// The microVM's part of the host's memory; none while it takes none.
    reservation: Option<Reservation>,
    active: Option<ActiveEffect>,
    /// The effect to begin when the current one has finished.
    queued: Option<Effect>,
    channels: TaskChannels,
}

impl Task {
    pub(super) fn new(
        context: Arc<Context>,
        (record, ids): (MicrovmRecord, Ids),
        guest: Option<Arc<dyn Guest>>,
        share: Share,
        reservation: Option<Reservation>,
        channels: TaskChannels,
    ) -> Self {
        let state = record::state(&record);
        let mut task = Self {
            context,
            record,
            ids,
            state,
            ahead: false,
            guest: None,
            exit: None,
            share: Some(share),
            reservation,
            active: None,
            queued: None,
            channels,
        };
        task.set_guest(guest);
        task
    }

    /// Runs for as long as the microVM lives. `first` is the step that begins it.
    pub(super) async fn run(self, first: Option<Step>) {
        self.run_with(first, Vec::new()).await;
    }

    /// [`Self::run`] with requests that have come before.
    pub(super) async fn run_with(mut self, first: Option<Step>, requests: Vec<ClientRequest>) {
        if let Some(step) = first {
            self.apply(step).await;
        }
        for ClientRequest { request, response } in requests {
            let result = self.request(request).await;
            let _ = response.send(result); // the client may have disconnected
        }
        while self.state.phase != Phase::Terminated {
            let deadline = self.deadline();
            let act_at = self.active.as_ref().map(ActiveEffect::next);
            let clock = self.context.clock;
            tokio::select! {
                request = self.channels.mailbox.recv() => match request {
                    Some(ClientRequest { request, response }) => {
                        let result = self.request(request).await;
                        let _ = response.send(result); // the client may have disconnected
                    }
                    // The daemon shuts down. Effects that are under way are completed, so that the next start finds a
                    // consistent microVM.
                    None => return self.shut_down().await,
                },
                outcome = outcome(&mut self.active) => self.outcome(outcome).await,
                () = reached(act_at) => self.overdue().await,
                exit = exited(&mut self.exit) => {
                    self.exit = None;
                    if let Exit::Guest(why) | Exit::Monitor(why) = &exit {
                        noted(record::id(&self.record), "a microVM has ended by itself", why);
                    }
                    self.event(Event::Exited(exit)).await;
                }
                event = async move {
                    match deadline {
                        Some((time, event)) => clock.sleep_until(time).map(|()| event).await,
                        None => std::future::pending().await,
                    }
                } => self.due(event).await,
            }
        }
        self.context.task_finished(&self.record);
    }

    fn set_guest(&mut self, guest: Option<Arc<dyn Guest>>) {
        self.exit = guest.clone().map(|guest| async move { guest.exited().await }.boxed());
        self.guest = guest;
        self.channels.gate.update(&self.state, self.guest.as_ref());
    }

    /// The next timed event and when it is due.
    fn deadline(&self) -> Option<(SystemTime, Event)> {
        let microvm = self.record.microvm.as_ref()?;
        let lifetime = self.lifetime().map(|time| (time, Event::LifetimeOver));
        let policy = microvm.idle_policy.as_ref().and_then(|policy| policy.suspended_duration_seconds);
        let suspended = match (self.state.phase, policy, &self.record.phase_since) {
            (Phase::Suspended, Some(seconds), Some(since)) => {
                let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
                Some((clock::time(since) + seconds, Event::SuspendedTooLong))
            }
            _ => None,
        };
        [lifetime, suspended, self.idle_deadline()].into_iter().flatten().min_by_key(|(time, _)| *time)
    }

    /// When the microVM will have been idle for as long as its policy allows, computed from the present traffic, and
    /// the event for it.
    fn idle_deadline(&self) -> Option<(SystemTime, Event)> {
        let policy =
            self.record.microvm.as_ref()?.idle_policy.filter(|_| self.state.phase == Phase::Running)?;
        let limit = Duration::from_secs(u64::try_from(policy.max_idle_duration_seconds?).unwrap_or_default());
        let now = Instant::now();
        let left = (self.channels.gate.quiet_since().unwrap_or(now) + limit).saturating_duration_since(now);
        let terminate = policy.suspended_duration_seconds == Some(0);
        Some((self.context.clock.now() + left, Event::Idle { terminate }))
    }

    /// Handles a timed event that is due. An idle event is dropped if traffic has arrived since it was scheduled.
    async fn due(&mut self, event: Event) {
        let busy = |(deadline, _)| deadline > self.context.clock.now();
        if matches!(event, Event::Idle { .. }) && self.idle_deadline().is_none_or(busy) {
            return;
        }
        self.event(event).await;
    }

    async fn request(&mut self, request: Request) -> Result<(), RequestError> {
        let id = || record::id(&self.record).to_owned();
        let step = table::step(&self.state, &Event::Request(request), self.context.rules);
        let step = step.map_err(|refusal| match refusal {
            Refusal::Terminated => RequestError::Terminated(id()),
            Refusal::Conflict(hint) => {
                RequestError::Conflict { id: id(), state: self.state.visible().as_str_name(), hint }
            }
        })?;
        if step.state.takes_memory() && self.reservation.is_none() {
            self.reservation = Some(self.context.capacity.reserve(self.record.memory_mib.into())?);
        }
        let stored = self.store_or_go_ahead(&step.state).await;
        if !self.state.takes_memory() {
            self.reservation = None;
        }
        if self.state == step.state {
            self.begin(step.effect).await;
        }
        stored.map_err(RequestError::not_stored)
    }

    async fn event(&mut self, event: Event) {
        // Only requests can be refused.
        if let Ok(step) = table::step(&self.state, &event, self.context.rules) {
            self.apply(step).await;
        }
    }

    /// Begins an effect. A hook call that is under way is abandoned for it; other effects are awaited first, only
    /// briefly if the microVM is to terminate.
    async fn begin(&mut self, effect: Option<Effect>) {
        let Some(effect) = effect else { return };
        if effect == Effect::CancelSave {
            return self.cancel_save();
        }
        match self.active.as_mut() {
            None | Some(ActiveEffect { effect: Effect::Call(_), .. }) => return self.start(effect).await,
            Some(active) if effect == Effect::Discard => {
                active.warning = None;
                active.deadline = active.deadline.min(Instant::now() + deadlines::TERMINATION_GRACE);
            }
            Some(_) => {}
        }
        if matches!(self.active, Some(ActiveEffect { effect: Effect::Save(_), .. })) {
            self.cancel_save(); // faster than to wait for a save whose result is discarded
        }
        self.queued = Some(effect);
    }

    fn cancel_save(&self) {
        if let Some(guest) = self.guest.clone() {
            tokio::spawn(async move { timeout(deadlines::CANCEL, guest.cancel_suspend()).await });
        }
    }

    async fn start(&mut self, effect: Effect) {
        self.context.faults.at("microvm", name(&effect), "before").await;
        let (context, guest) = (Arc::clone(&self.context), self.guest.clone());
        let spec = record::spec(&self.record, &self.ids);
        let (performed, gate) = (effect.clone(), Arc::clone(&self.channels.gate));
        let outcome = async move {
            // Exchanges that are under way are completed before the app is notified of the suspend.
            let suspends = performed == Effect::Call(Hook::Suspend);
            if suspends && !gate.drained(context.drain).await && context.rules.resume_cancels_suspend {
                return Event::Hook(Hook::Suspend, HookOutcome::Disabled).into();
            }
            perform(&context, &spec, guest, &performed).await
        };
        let (since, context) = (Instant::now(), &self.context);
        let times = context.deadlines.of(&effect, self.record.hooks.as_ref(), context.drain);
        let warning = times.warning.map(|(after, event)| (since + after, event));
        let (deadline, outcome) = (since + times.limit, outcome.boxed());
        self.active = Some(ActiveEffect { effect, since, warning, deadline, outcome });
    }

    /// Handles an effect that takes too long.
    async fn overdue(&mut self) {
        let Some(active) = &mut self.active else { return };
        let microvm = record::id(&self.record);
        let (effect, limit) = (name(&active.effect), active.limit());
        if active.deadline > Instant::now() {
            let Some((_, event)) = active.warning.take() else { return };
            tracing::warn!(microvm, effect, "it takes too long");
            return self.event(event).await;
        }
        tracing::error!(microvm, effect, seconds = limit.as_secs(), "given up: it did not come to its end");
        match deadlines::on_timeout(&active.effect, limit) {
            Overdue::GiveUp(event) => self.outcome(event.into()).await,
            Overdue::Retry => {
                let effect = active.effect.clone();
                self.active = None;
                self.start(effect).await;
            }
        }
    }

    async fn outcome(&mut self, outcome: Outcome) {
        let Some(active) = self.active.take() else { return };
        let name = name(&active.effect);
        self.context.faults.at("microvm", name, "after").await;
        self.context.observer.effect_finished(name, &outcome.event, active.since.elapsed());
        match &outcome.event {
            Event::Launched | Event::Restored => self.set_guest(outcome.guest),
            Event::Saved | Event::Discarded => self.set_guest(None),
            _ => {}
        }
        self.event(outcome.event).await;
        if self.active.is_none()
            && let Some(effect) = self.queued.take()
        {
            self.start(effect).await;
        }
    }

    /// Shutdown of the daemon: waits for effects that must not be left half done, and stores the resulting state. If
    /// an effect takes longer than [`STOP`], the next start determines what became of it.
    async fn shut_down(mut self) {
        let end = Instant::now() + STOP;
        while self.active.as_ref().is_some_and(|active| !matches!(active.effect, Effect::Call(_))) {
            let outcome = tokio::select! {
                outcome = outcome(&mut self.active) => outcome,
                () = sleep_until(end) => return,
            };
            let Some(active) = self.active.take() else { return };
            match &outcome.event {
                Event::Launched | Event::Restored => self.set_guest(outcome.guest),
                _ => {}
            }
            let step = table::step(&self.state, &outcome.event, self.context.rules);
            if let Ok(step) = step
                && let Err(error) = self.store(&step.state).await
            {
                tracing::warn!(
                    microvm = record::id(&self.record),
                    effect = name(&active.effect),
                    %error,
                    "not stored at the daemon's end; the next start finds out"
                );
            }
        }
    }
}

/// The outcome of the effect under way; pending for ever if there is none.
async fn outcome(active: &mut Option<ActiveEffect>) -> Outcome {
    match active {
        Some(active) => (&mut active.outcome).await,
        None => std::future::pending().await,
    }
}

/// Waits until `time`; for ever if there is none.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn exited(exit: &mut Option<BoxFuture<'static, Exit>>) -> Exit {
    match exit {
        Some(exit) => exit.await,
        None => std::future::pending().await,
    }
}

/// The name of an effect, for fault points, metrics and traces.
pub(super) fn name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Launch => "launch",
        Effect::Call(Hook::Run) => "run-hook",
        Effect::Call(Hook::Suspend) => "suspend-hook",
        Effect::Call(Hook::Resume) => "resume-hook",
        Effect::Call(Hook::Terminate) => "terminate-hook",
        Effect::Save(_) => "save",
        Effect::CancelSave => "cancel-save",
        Effect::Restore => "restore",
        Effect::Discard => "discard",
    }
}

/// Writes the cause of a failure to the log, which has all of it: its account sees it without paths of the host. Returns it.
fn noted(microvm: &str, what: &str, error: &impl std::fmt::Display) -> String {
    let error = error.to_string();
    tracing::warn!(microvm, error, "{what}");
    error
}

/// Carries out an effect.
async fn perform(context: &Context, spec: &Spec, guest: Option<Arc<dyn Guest>>, effect: &Effect) -> Outcome {
    const GONE: &str = "its process is gone";
    match (effect, guest) {
        (Effect::Launch, _) => match context.platform.launch(spec).await {
            Ok(guest) => Outcome { event: Event::Launched, guest: Some(guest) },
            Err(error) => Event::LaunchFailed(noted(spec.id.as_str(), "launching a microVM", &error)).into(),
        },
        (Effect::Restore, _) => match context.platform.resume(spec).await {
            Ok(guest) => Outcome { event: Event::Restored, guest: Some(guest) },
            Err(error) => Event::RestoreFailed(noted(spec.id.as_str(), "resuming a microVM", &error)).into(),
        },
        (Effect::Call(hook), Some(guest)) => Event::Hook(*hook, guest.call_hook(*hook).await).into(),
        (Effect::Call(hook), None) => Event::Hook(*hook, HookOutcome::Failed(GONE.to_owned())).into(),
        (Effect::Save(number), Some(guest)) => match guest.suspend(*number).await {
            Ok(()) => Event::Saved.into(),
            Err(SuspendError::Cancelled) => Event::SaveCancelled.into(),
            Err(SuspendError::Failed(why)) => {
                Event::SaveFailed(noted(spec.id.as_str(), "suspending a microVM", &why)).into()
            }
        },
        (Effect::Save(_), None) => Event::SaveFailed(GONE.to_owned()).into(),
        (Effect::CancelSave, _) => Event::SaveCancelled.into(), // a cancellation is never started as an effect of its own
        (Effect::Discard, _) => {
            let mut pause = RETRY.0;
            while let Err(error) = context.platform.discard(&spec.id).await {
                tracing::error!(microvm = %spec.id, %error, "removing a microVM, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            Event::Discarded.into()
        }
    }
}
