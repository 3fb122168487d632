//! A microVM's states, events and effects.
//!
//! ```text
//!  RunMicrovm                          ┌──────────── RESUME_AFTER_CANCEL ◄──────────┐ cancelled, or failed,
//!      ▼                               ▼                                            │ after /suspend
//!  LAUNCHING ──► RUN_HOOK ─/run 200─► RUNNING ──suspend──► SUSPEND_HOOK ──200──► SAVING ──► SUSPENDED
//!      │            │                  │  ▲                    │                    │          │
//!      │            │                  │  └──/resume 200── RESUME_HOOK ◄── RESTORING ◄─resume──┤
//!      │            │                  ▼                       ▼                    │          │
//!      │            │          TERMINATE_HOOK ◄────────────────┘                    │          │
//!      ▼            ▼                  ▼                                            ▼          ▼
//!      └────────────┴──────────────► ENDING ◄───────────────────────────────────────┴──────────┘
//!                                      ▼
//!                                  TERMINATED
//! ```
//!
//! Clients see PENDING (launching, or resuming), RUNNING, SUSPENDING, SUSPENDED, TERMINATING, TERMINATED.
//!
//! A machine takes one event at a time and says what its state is then and which effect is to happen. The driver stores the
//! state before it begins the effect, and gives the effect's outcome back as an event. At most one effect is under way; what
//! is wished meanwhile is in [`State::wish`], or replaces what a hook call would lead to.
//!
//! RUNNING and SUSPENDED last until something happens, the end of the microVM's lifetime at the latest. Every other phase waits
//! for the outcome of an effect, which comes in bounded time whatever the guest does: the driver gives up what is late.

use hearth_proto::microvms::v1::MicrovmState;
pub use hearth_proto::store::v1::{Phase, Wish};

use super::{reason, table};
use crate::driver::Request;
use crate::platform::{Exit, Hook, HookOutcome};

/// What decides where the documentation and AWS differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A suspend that the app's hook refuses ends the microVM, rather than leaving it running.
    pub failed_suspend_hook_terminates: bool,
    /// A resume during a suspend cancels it, rather than following it.
    pub resume_cancels_suspend: bool,
}

impl Default for Rules {
    /// The documented behaviour.
    fn default() -> Self {
        Self { failed_suspend_hook_terminates: false, resume_cancels_suspend: true }
    }
}

impl Rules {
    /// What was measured (profile `aws-strict`).
    pub const AWS_STRICT: Self = Self { failed_suspend_hook_terminates: true, resume_cancels_suspend: false };
}

/// Where a microVM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where in its life.
    pub phase: Phase,
    /// What follows when what is under way is over.
    pub wish: Wish,
    /// `/suspend` has answered, so that going on takes `/resume`.
    pub suspend_hook_done: bool,
    /// How often it was suspended.
    pub suspends: u64,
    /// `stateReason`: why it is as it is, or ends.
    pub reason: Option<String>,
}

impl State {
    /// A microVM that was just accepted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::Launching,
            wish: Wish::Unspecified,
            suspend_hook_done: false,
            suspends: 0,
            reason: None,
        }
    }

    /// What clients see.
    #[must_use]
    pub fn visible(&self) -> MicrovmState {
        visible(self.phase)
    }

    /// Whether it takes memory of the host, or soon will.
    #[must_use]
    pub fn takes_memory(&self) -> bool {
        !matches!(self.phase, Phase::Suspended | Phase::Terminated)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// What clients see of a phase.
#[must_use]
pub fn visible(phase: Phase) -> MicrovmState {
    match phase {
        Phase::Unspecified => MicrovmState::Unspecified,
        Phase::Launching
        | Phase::RunHook
        | Phase::ResumeAfterCancel
        | Phase::Restoring
        | Phase::ResumeHook => MicrovmState::Pending,
        Phase::Running => MicrovmState::Running,
        Phase::SuspendHook | Phase::Saving => MicrovmState::Suspending,
        Phase::Suspended => MicrovmState::Suspended,
        Phase::TerminateHook | Phase::Ending => MicrovmState::Terminating,
        Phase::Terminated => MicrovmState::Terminated,
    }
}

/// What happens to a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client asks.
    Request(Request),
    /// No traffic for as long as its policy says. `terminate`: its policy says that it is not to be suspended then.
    Idle {
        /// `suspendedDurationSeconds` is 0.
        terminate: bool,
    },
    /// `maximumDurationInSeconds` after its start.
    LifetimeOver,
    /// It has been suspended for `suspendedDurationSeconds`.
    SuspendedTooLong,
    /// It was made of its image.
    Launched,
    /// It was not; why.
    LaunchFailed(String),
    /// What became of a hook.
    Hook(Hook, HookOutcome),
    /// It was saved and its process has ended.
    Saved,
    /// Its saving was given up; it runs.
    SaveCancelled,
    /// Its saving failed; it runs.
    SaveFailed(String),
    /// Its saving takes too long; why. It is still under way.
    SaveSlow(String),
    /// Its saving was given up without knowing what has become of it; why.
    SaveHung(String),
    /// It was made of its suspended state.
    Restored,
    /// It was not, and its suspended state is as before.
    RestoreFailed(String),
    /// It has ended by itself.
    Exited(Exit),
    /// Nothing of it is left.
    Discarded,
}

/// What is to be done for a microVM. Its outcome is an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make it of its image: [`Event::Launched`] or [`Event::LaunchFailed`].
    Launch,
    /// Call a hook: [`Event::Hook`].
    Call(Hook),
    /// Save it as suspended state with this number: [`Event::Saved`], [`Event::SaveCancelled`] or [`Event::SaveFailed`], and where
    /// that takes too long [`Event::SaveSlow`], then [`Event::SaveHung`].
    Save(u64),
    /// Give up the saving that is under way. That one's outcome is the event.
    CancelSave,
    /// Make it of its suspended state: [`Event::Restored`] or [`Event::RestoreFailed`].
    Restore,
    /// End its process and remove all of it: [`Event::Discarded`].
    Discard,
}

/// What an event leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The state from now on.
    pub state: State,
    /// What is to be done.
    pub effect: Option<Effect>,
}

/// A request that a microVM does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is on its way to its end, or has ended.
    Terminated,
    /// Not in this state; what to do.
    Conflict(&'static str),
}

/// What `event` does to a microVM in `state`.
///
/// # Errors
/// [`Refusal`] of a request; nothing happens then. Other events are never refused: what means nothing in a state leaves it
/// as it is.
pub fn step(state: &State, event: &Event, rules: Rules) -> Result<Step, Refusal> {
    table::step(state, event, rules)
}

/// Whether the step from one state to another has to be durable before anything else happens. What need not be is what
/// [recovery](super::recovery) treats alike: a crash there repeats the effect.
#[must_use]
pub fn must_be_stored(from: &State, to: &State) -> bool {
    let hidden = matches!(
        (from.phase, to.phase),
        (Phase::Launching, Phase::RunHook)
            | (Phase::SuspendHook, Phase::Saving)
            | (Phase::Restoring, Phase::ResumeHook)
    );
    from != to && (!hidden || from.wish != to.wish || from.reason != to.reason)
}

/// The reason with which a hook's failure ends a microVM.
pub(super) fn hook_reason(hook: Hook, outcome: &HookOutcome) -> Option<String> {
    Some(reason::hook(hook, outcome))
}
