//! The gate of a microVM: the state that its task and its endpoint share.
//!
//! The task opens and closes the gate. Each exchange of the endpoint passes it with a [`Pass`]; an exchange that
//! comes to a suspended microVM resumes it and waits ([`Microvms::enter`](super::Microvms::enter)). The passes show when the microVM is idle,
//! and when a suspend can begin without cutting off a response.
//!
//! * An exchange counts as *pending* until the app has responded: as long as there is one, the microVM is not idle.
//! * Then its response *flows*: every byte, in either direction, restarts the idle time; a silent response does not
//!   keep the microVM awake (docs/behaviour.md, "Idle time and lifetime").

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use hearth_model::hooks::Hook;
use hearth_proto::store::v1::MicrovmRecord;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::record;
use crate::hooks;
use crate::lifecycle::microvm::{Phase, State, Wish};
use crate::panics::poisoned;
use crate::platform::Guest;

/// How long flowing responses must have been silent for a suspend not to wait for them.
const SILENCE: Duration = Duration::from_millis(500);

/// Why an exchange may not pass the gate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GateError {
    /// The microVM has terminated, or is about to.
    #[error("the microVM has ended")]
    Terminated,
    /// The microVM is suspended and its policy does not resume it.
    #[error("the microVM is suspended, and its policy does not resume it")]
    Suspended,
    /// The microVM is being launched, and this exchange does not wait for launches.
    #[error("the microVM is being launched")]
    Launching,
    /// The limit of exchanges that wait for the microVM is reached; contains their number.
    #[error("{0} requests wait for the microVM already")]
    TooManyWaiting(usize),
    /// The microVM was not ready in time.
    #[error("the microVM was not ready within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The microVM could not be resumed; contains the cause.
    #[error("the microVM could not be resumed: {0}")]
    ResumeFailed(String),
}

/// How long an exchange waits, and with how many others.
#[derive(Debug, Clone, Copy)]
pub struct WaitLimits {
    /// Most exchanges that wait for one microVM.
    pub max_waiting: usize,
    /// How long to wait, in addition to the timeout of the `/resume` hook.
    pub beyond_hook: Duration,
    /// Whether to wait for a microVM that is being launched.
    pub launching: bool,
}

/// Whether exchanges can pass the gate.
#[derive(Debug, Clone)]
pub(super) enum GateState {
    /// The microVM runs.
    Open(Arc<dyn Guest>),
    /// The microVM is being launched or resumed; the gate will open.
    Opening {
        /// Whether the microVM is being launched, not resumed.
        first: bool,
    },
    /// The microVM is being suspended.
    Closing,
    /// The microVM is suspended; contains why the last attempt to resume it failed.
    Closed(Option<String>),
    /// The microVM terminates; the gate will never open again.
    Gone,
}

impl GateState {
    fn of(state: &State, guest: Option<&Arc<dyn Guest>>) -> Self {
        match state.phase {
            Phase::Launching | Phase::RunHook => Self::Opening { first: true },
            Phase::Restoring | Phase::ResumeHook | Phase::ResumeAfterCancel => Self::Opening { first: false },
            Phase::Running => {
                guest.map_or(Self::Opening { first: false }, |guest| Self::Open(Arc::clone(guest)))
            }
            Phase::SuspendHook | Phase::Saving if state.wish == Wish::Resume => {
                Self::Opening { first: false }
            }
            Phase::SuspendHook | Phase::Saving => Self::Closing,
            Phase::Suspended => Self::Closed(state.reason.clone()),
            Phase::Unspecified | Phase::TerminateHook | Phase::Ending | Phase::Terminated => Self::Gone,
        }
    }
}

/// Numbers of exchanges that are under way.
#[derive(Debug, Default)]
struct Traffic {
    pending: usize,
    flowing: usize,
    waiting: usize,
}

/// The gate of one microVM.
#[derive(Debug)]
pub struct Gate {
    pub(super) id: String,
    pub(super) account: String,
    memory_mib: u32,
    hooks_port: Option<u16>,
    pub(super) auto_resume: bool,
    pub(super) resume_hook: Duration,
    pub(super) state: watch::Sender<GateState>,
    traffic: Mutex<Traffic>,
    /// Notified when an exchange is over, or its response begins.
    fewer: Notify,
    created: Instant,
    /// When the last byte or exchange passed, in milliseconds since `created`.
    last: AtomicU64,
}

impl Gate {
    /// Creates the gate for a microVM's record.
    #[must_use]
    pub(super) fn new(record: &MicrovmRecord) -> Self {
        let microvm = record::public(record);
        let hooks = record.hooks.unwrap_or_default();
        Self {
            id: microvm.microvm_id,
            account: record.account.clone(),
            memory_mib: record.memory_mib,
            hooks_port: hooks.port.and_then(|port| u16::try_from(port).ok()),
            auto_resume: microvm.idle_policy.and_then(|policy| policy.auto_resume_enabled).unwrap_or(false),
            resume_hook: hooks::timeout(Some(&hooks), Hook::Resume),
            state: watch::Sender::new(GateState::of(&record::state(record), None)),
            traffic: Mutex::default(),
            fewer: Notify::new(),
            created: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Account of the microVM.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Id of the microVM.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The microVM's memory class in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    /// The port on which the app takes hooks.
    #[must_use]
    pub fn hooks_port(&self) -> Option<u16> {
        self.hooks_port
    }

    /// Records traffic: the idle time begins anew.
    pub fn touch(&self) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// Numbers of exchanges that are under way: those that wait for the app's response, those whose response flows,
    /// those that wait for the microVM.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        let traffic = self.traffic();
        (traffic.pending, traffic.flowing, traffic.waiting)
    }

    /// Since when nothing has passed; none while an exchange waits for the app's response.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        (self.traffic().pending == 0).then(|| self.last())
    }

    /// Updates the gate after the microVM's state or process has changed.
    pub(super) fn update(&self, state: &State, guest: Option<&Arc<dyn Guest>>) {
        let state = GateState::of(state, guest);
        if matches!(state, GateState::Open(_)) && !matches!(*self.state.borrow(), GateState::Open(_)) {
            self.touch();
        }
        self.state.send_replace(state);
    }

    /// Waits until a suspend cuts off no exchange, for `limit` at most. Returns false if the microVM is no longer to
    /// be suspended.
    pub(super) async fn drained(&self, limit: Duration) -> bool {
        let mut states = self.state.subscribe();
        let end = Instant::now() + limit;
        loop {
            let fewer = self.fewer.notified();
            let wake = {
                let traffic = self.traffic();
                let silent = self.last() + SILENCE;
                match (traffic.pending, traffic.flowing) {
                    (0, 0) => return true,
                    (0, _) if silent <= Instant::now() => return true,
                    (0, _) => silent.min(end),
                    _ => end,
                }
            };
            tokio::select! {
                () = fewer => {}
                () = sleep_until(wake) => {
                    if wake == end {
                        return true;
                    }
                }
                closing = states.wait_for(|state| !matches!(state, GateState::Closing)) => {
                    drop(closing);
                    return false;
                }
            }
        }
    }

    /// Returns when the microVM has been suspended, or runs in another process than this one. What was open between a client
    /// and the app is over then.
    pub async fn left(&self, guest: Weak<dyn Guest>) {
        let mut states = self.state.subscribe();
        let over = states.wait_for(|state| match state {
            GateState::Open(now) => !std::ptr::addr_eq(guest.as_ptr(), Arc::as_ptr(now)),
            GateState::Closed(_) => true,
            // A suspend may be cancelled, and a process that ends closes its connections itself.
            GateState::Opening { .. } | GateState::Closing | GateState::Gone => false,
        });
        drop(over.await);
    }

    fn last(&self) -> Instant {
        self.created + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(poisoned)
    }

    /// Passes the gate if it is open now. A suspend that begins afterwards takes the pass into account.
    pub(super) fn pass(self: &Arc<Self>) -> Option<Pass> {
        let mut traffic = self.traffic();
        let GateState::Open(guest) = &*self.state.borrow() else { return None };
        traffic.pending += 1;
        self.touch();
        Some(Pass { guest: Arc::clone(guest), gate: Arc::clone(self), flows: false })
    }

    /// Takes a place among the exchanges that wait, of which there may be `max_waiting`.
    pub(super) fn wait(self: &Arc<Self>, max_waiting: usize) -> Result<Waiting, GateError> {
        let mut traffic = self.traffic();
        if traffic.waiting >= max_waiting {
            return Err(GateError::TooManyWaiting(traffic.waiting));
        }
        traffic.waiting += 1;
        Ok(Waiting(Arc::clone(self)))
    }
}

/// An exchange with the app that is under way.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    guest: Arc<dyn Guest>,
    flows: bool,
}

impl Pass {
    /// The guest that the exchange is with.
    #[must_use]
    pub fn guest(&self) -> &Arc<dyn Guest> {
        &self.guest
    }

    /// The gate that the exchange has passed.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Marks the app's response as begun; from now on it flows.
    pub fn response_started(&mut self) {
        if !std::mem::replace(&mut self.flows, true) {
            let mut traffic = self.gate.traffic();
            traffic.pending -= 1;
            traffic.flowing += 1;
            drop(traffic);
            self.gate.touch();
            self.gate.fewer.notify_waiters();
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut traffic = self.gate.traffic();
        let count = if self.flows { &mut traffic.flowing } else { &mut traffic.pending };
        *count -= 1;
        drop(traffic);
        self.gate.touch();
        self.gate.fewer.notify_waiters();
    }
}

/// A place among the exchanges that wait for the microVM.
pub(super) struct Waiting(Arc<Gate>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.traffic().waiting -= 1;
    }
}
