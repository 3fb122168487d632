//! The gate of a microVM: what its endpoint knows of it, and what its task knows of its endpoint.
//!
//! The task opens and closes it. Traffic passes it exchange by exchange, each with a [`Pass`]; who comes to a microVM that sleeps
//! wakes it and waits ([`Microvms::enter`]). What passes tells when the microVM is idle, and when a suspend can begin without
//! cutting an answer off.
//!
//! * An exchange is *asked* until the app has answered: as long as there is one, the microVM is not idle.
//! * Then its answer *flows*: every byte, in either direction, begins the idle time anew, and silence does not
//!   (docs/behaviour.md, "Idle time and lifetime").

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hearth_proto::store::v1::MicrovmRecord;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Microvms, Request, RequestError, record};
use crate::lifecycle::microvm::{Phase, State, Wish};
use crate::panics::poisoned;
use crate::platform::{Guest, Hook};

/// How long answers that flow have to be silent so that a suspend does not wait for them.
const SILENCE: Duration = Duration::from_millis(500);

/// Why an exchange does not pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// It has ended, or is about to.
    #[error("the microVM has ended")]
    Gone,
    /// It is suspended and does not resume by itself.
    #[error("the microVM is suspended, and its policy does not resume it")]
    Asleep,
    /// It is being launched, and nobody waits for that.
    #[error("the microVM is being launched")]
    Launching,
    /// So many wait for it already.
    #[error("{0} requests wait for the microVM already")]
    Crowded(usize),
    /// It was not ready in time.
    #[error("the microVM was not ready within {} s", .0.as_secs())]
    TooLong(Duration),
    /// It could not be resumed.
    #[error("the microVM could not be resumed: {0}")]
    NotResumed(String),
}

/// How long, and with how many others, an exchange waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How many wait for one microVM at most.
    pub held: usize,
    /// How long, beside the time that `/resume` may take.
    pub beside_hook: Duration,
    /// Whether a microVM that is being launched is waited for.
    pub launching: bool,
}

/// Whether one can pass.
#[derive(Debug, Clone)]
enum Door {
    /// It runs.
    Open(Arc<dyn Guest>),
    /// It will open.
    Opening {
        /// It opens for the first time.
        first: bool,
    },
    /// It is being suspended.
    Closing,
    /// It is suspended; why the last attempt to resume it has failed.
    Closed(Option<String>),
    /// It will never open again.
    Gone,
}

impl Door {
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

/// What is under way.
#[derive(Debug, Default)]
struct Traffic {
    asked: usize,
    flowing: usize,
    waiting: usize,
}

/// The gate of one microVM.
#[derive(Debug)]
pub struct Gate {
    id: String,
    account: String,
    memory_mib: u32,
    hooks_port: Option<u16>,
    auto_resume: bool,
    resume_hook: Duration,
    door: watch::Sender<Door>,
    traffic: Mutex<Traffic>,
    /// An exchange is over, or its answer begins.
    less: Notify,
    born: Instant,
    /// When something passed last, in milliseconds since `born`.
    last: AtomicU64,
}

impl Gate {
    /// The gate of a microVM in a state.
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
            resume_hook: Hook::Resume.timeout(Some(&hooks)),
            door: watch::Sender::new(Door::of(&record::state(record), None)),
            traffic: Mutex::default(),
            less: Notify::new(),
            born: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Id of the microVM.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its memory class in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    /// The port on which the app takes hooks.
    #[must_use]
    pub fn hooks_port(&self) -> Option<u16> {
        self.hooks_port
    }

    /// Something passes: the idle time begins anew.
    pub fn touch(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// How many exchanges are under way: those that wait for the app's answer, those whose answer flows, those that wait for the
    /// microVM.
    #[cfg(test)]
    pub fn figures(&self) -> (usize, usize, usize) {
        let traffic = self.traffic();
        (traffic.asked, traffic.flowing, traffic.waiting)
    }

    /// Since when nothing has passed; none while the app has something to answer.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        (self.traffic().asked == 0).then(|| self.last())
    }

    /// The microVM's state has changed, or its process.
    pub(super) fn set(&self, state: &State, guest: Option<&Arc<dyn Guest>>) {
        let door = Door::of(state, guest);
        if matches!(door, Door::Open(_)) && !matches!(*self.door.borrow(), Door::Open(_)) {
            self.touch();
        }
        self.door.send_replace(door);
    }

    /// Waits until a suspend cuts no exchange off, for `limit` at most. False when the microVM is not to be suspended any more.
    pub(super) async fn drained(&self, limit: Duration) -> bool {
        let mut doors = self.door.subscribe();
        let end = Instant::now() + limit;
        loop {
            let less = self.less.notified();
            let wake = {
                let traffic = self.traffic();
                let silent = self.last() + SILENCE;
                match (traffic.asked, traffic.flowing) {
                    (0, 0) => return true,
                    (0, _) if silent <= Instant::now() => return true,
                    (0, _) => silent.min(end),
                    _ => end,
                }
            };
            tokio::select! {
                () = less => {}
                () = sleep_until(wake) => {
                    if wake == end {
                        return true;
                    }
                }
                closing = doors.wait_for(|door| !matches!(door, Door::Closing)) => {
                    drop(closing);
                    return false;
                }
            }
        }
    }

    fn last(&self) -> Instant {
        self.born + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(poisoned)
    }

    /// Passes, if it is open now. A suspend that begins afterwards knows of it.
    fn pass(self: &Arc<Self>) -> Option<Pass> {
        let mut traffic = self.traffic();
        let Door::Open(guest) = &*self.door.borrow() else { return None };
        traffic.asked += 1;
        self.touch();
        Some(Pass { guest: Arc::clone(guest), gate: Arc::clone(self), flows: false })
    }

    fn wait(self: &Arc<Self>, held: usize) -> Result<Waiting, Refused> {
        let mut traffic = self.traffic();
        if traffic.waiting >= held {
            return Err(Refused::Crowded(traffic.waiting));
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
    /// Where it goes.
    #[must_use]
    pub fn guest(&self) -> &Arc<dyn Guest> {
        &self.guest
    }

    /// Through which gate.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The app has answered; its answer flows.
    pub fn answered(&mut self) {
        if !std::mem::replace(&mut self.flows, true) {
            let mut traffic = self.gate.traffic();
            traffic.asked -= 1;
            traffic.flowing += 1;
            drop(traffic);
            self.gate.touch();
            self.gate.less.notify_waiters();
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut traffic = self.gate.traffic();
        let count = if self.flows { &mut traffic.flowing } else { &mut traffic.asked };
        *count -= 1;
        drop(traffic);
        self.gate.touch();
        self.gate.less.notify_waiters();
    }
}

/// A place among those that wait.
struct Waiting(Arc<Gate>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.traffic().waiting -= 1;
    }
}

impl Microvms {
    /// The gate of a microVM that has not ended.
    #[must_use]
    pub fn gate(&self, id: &str) -> Option<Arc<Gate>> {
        self.context.gate(id)
    }

    /// Passes a gate. Where the microVM sleeps and its policy says so, it is resumed before; a suspend that is under way is
    /// given up for that.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn enter(&self, gate: &Arc<Gate>, patience: Patience) -> Result<Pass, Refused> {
        if let Some(pass) = gate.pass() {
            return Ok(pass);
        }
        let _waiting = gate.wait(patience.held)?;
        let limit = gate.resume_hook.saturating_add(patience.beside_hook);
        timeout(limit, self.wake(gate, patience)).await.unwrap_or(Err(Refused::TooLong(limit)))
    }

    async fn wake(&self, gate: &Arc<Gate>, patience: Patience) -> Result<Pass, Refused> {
        let mut doors = gate.door.subscribe();
        let mut asked = false;
        loop {
            let door = doors.borrow_and_update().clone();
            match door {
                Door::Open(_) => {
                    if let Some(pass) = gate.pass() {
                        return Ok(pass);
                    }
                }
                Door::Opening { first: true } if !patience.launching => return Err(Refused::Launching),
                Door::Opening { .. } => {}
                Door::Closing | Door::Closed(_) if !gate.auto_resume => return Err(Refused::Asleep),
                Door::Closed(Some(why)) if asked => return Err(Refused::NotResumed(why)),
                Door::Closing | Door::Closed(_) => {
                    asked = true;
                    match self.request(&gate.account, &gate.id, Request::Resume).await {
                        // A conflict is over when the door moves.
                        Ok(()) | Err(RequestError::Conflict { .. }) => {}
                        Err(RequestError::NotFound(_) | RequestError::Terminated(_)) => {
                            return Err(Refused::Gone);
                        }
                        Err(error) => return Err(Refused::NotResumed(error.to_string())),
                    }
                }
                Door::Gone => return Err(Refused::Gone),
            }
            if doors.changed().await.is_err() {
                return Err(Refused::Gone);
            }
        }
    }
}
