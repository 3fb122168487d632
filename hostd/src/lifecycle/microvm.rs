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
//! The machine takes one event at a time and returns the new state and the effect to carry out. The driver stores the
//! state before it begins the effect, and feeds the effect's outcome back as an event. At most one effect is under
//! way; a request that arrives meanwhile is kept in [`State::wish`], or replaces what a hook call would lead to.
//!
//! RUNNING and SUSPENDED last until an event occurs, at the latest the expiry of the microVM's lifetime. Every other
//! phase waits for the outcome of an effect, which arrives in bounded time whatever the guest does: the driver gives
//! up effects that are late.

use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::microvms::v1::MicrovmState;
pub use hearth_proto::store::v1::{Phase, Wish};

use crate::platform::Exit;

/// Which behaviour to follow where the documentation and AWS differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A suspend that the app's hook refuses terminates the microVM, rather than leaving it running.
    pub failed_suspend_hook_terminates: bool,
    /// A resume during a suspend cancels the suspend, rather than following it.
    pub resume_cancels_suspend: bool,
}

impl Default for Rules {
    /// The documented behaviour.
    fn default() -> Self {
        Self { failed_suspend_hook_terminates: false, resume_cancels_suspend: true }
    }
}

impl Rules {
    /// The behaviour that was measured at AWS (profile `aws-strict`).
    pub const AWS_STRICT: Self = Self { failed_suspend_hook_terminates: true, resume_cancels_suspend: false };
}

/// The state of a microVM's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The phase of the microVM's life.
    pub phase: Phase,
    /// What follows when the effect that is under way has finished.
    pub wish: Wish,
    /// `/suspend` has been called successfully, so that the app needs `/resume` before it continues.
    pub suspend_hook_done: bool,
    /// How often the microVM was suspended.
    pub suspends: u64,
    /// `stateReason`: why the microVM is in this state, or terminates.
    pub reason: Option<String>,
}

impl State {
    /// The state of a microVM that was just accepted.
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

    /// The state that clients see.
    #[must_use]
    pub fn visible(&self) -> MicrovmState {
        visible(self.phase)
    }

    /// Whether the microVM takes memory of the host, or soon will.
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

/// The state that clients see in a phase.
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

/// A request of a client to change a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// SuspendMicrovm.
    Suspend,
    /// ResumeMicrovm.
    Resume,
    /// TerminateMicrovm.
    Terminate,
}

/// An event in the life of a microVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request of a client.
    Request(Request),
    /// No traffic for as long as the microVM's policy allows. `terminate`: the policy does not suspend an idle
    /// microVM but terminates it.
    Idle {
        /// `suspendedDurationSeconds` is 0.
        terminate: bool,
    },
    /// `maximumDurationInSeconds` have passed since the start.
    LifetimeOver,
    /// The microVM has been suspended for `suspendedDurationSeconds`.
    SuspendedTooLong,
    /// The microVM was made from its image.
    Launched,
    /// The launch failed; contains the cause.
    LaunchFailed(String),
    /// The outcome of a hook call.
    Hook(Hook, HookOutcome),
    /// The microVM was saved and its process has exited.
    Saved,
    /// The save was cancelled; the microVM runs.
    SaveCancelled,
    /// The save failed; the microVM runs. Contains the cause.
    SaveFailed(String),
    /// The save takes too long and is still under way; contains the cause.
    SaveSlow(String),
    /// The save was given up, and its result is unknown; contains the cause.
    SaveHung(String),
    /// The microVM was made from its suspended state.
    Restored,
    /// The restore failed, and the suspended state is as before. Contains the cause.
    RestoreFailed(String),
    /// The microVM has exited by itself.
    Exited(Exit),
    /// Nothing of the microVM is left.
    Discarded,
}

/// An operation to carry out for a microVM. Its outcome is an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the microVM from its image: [`Event::Launched`] or [`Event::LaunchFailed`].
    Launch,
    /// Call a hook: [`Event::Hook`].
    Call(Hook),
    /// Save the microVM as suspended state with this number: [`Event::Saved`], [`Event::SaveCancelled`] or
    /// [`Event::SaveFailed`]; a save that takes too long leads to [`Event::SaveSlow`], then [`Event::SaveHung`].
    Save(u64),
    /// Cancel the save that is under way. The outcome of that save is the event.
    CancelSave,
    /// Make the microVM from its suspended state: [`Event::Restored`] or [`Event::RestoreFailed`].
    Restore,
    /// Kill the microVM's process and remove all of the microVM: [`Event::Discarded`].
    Discard,
}

/// The result of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The new state.
    pub state: State,
    /// The effect to carry out.
    pub effect: Option<Effect>,
}

/// Why a microVM does not accept a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The microVM is terminating or terminated.
    Terminated,
    /// The request is not possible in this state; contains advice to the client.
    Conflict(&'static str),
}

/// Whether the step from one state to another has to be durable before anything else happens. Steps that need not be
/// are those between phases that [recovery](super::recovery) treats alike: after a crash the effect is repeated.
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
