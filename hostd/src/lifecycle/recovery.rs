//! How a restarted daemon continues from what it finds of a microVM.
//!
//! Rules: whatever a client received a response for happens or has happened; a guest that may be half made is made
//! again as long as no client could have reached it; a hook that may have been called is called again, except `/run`,
//! which a guest gets once; and a running guest whose process is gone is not replaced by an older state of it.

use hearth_model::hooks::Hook;

use super::microvm::{Effect, Event, Phase, Rules, State, Step, Wish};
use super::{reason, table};
use crate::platform::Exit;

/// What the platform found of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// The microVM's process, which runs.
    Running,
    /// No process, and the suspended state with the requested number.
    Suspended,
    /// Neither a process nor that suspended state.
    Nothing,
    /// The search exceeded its deadline. Any process that exists is killed before a new one is made.
    Unknown,
}

/// The number of the suspended state that matters to a microVM in `state`: the one that a save under way writes, or
/// the last one.
#[must_use]
pub fn suspended_number(state: &State) -> u64 {
    match state.phase {
        Phase::SuspendHook | Phase::Saving => state.suspends + 1,
        _ => state.suspends,
    }
}

/// The step with which a microVM continues that was in `state` when the daemon exited.
#[must_use]
pub fn recover(state: &State, remains: Remains, rules: Rules) -> Step {
    let go = |phase, effect: Option<Effect>| Step { state: State { phase, ..state.clone() }, effect };
    let gone =
        || table::terminate_now(state, reason::exit(&Exit::Monitor("while the daemon was away".to_owned())));
    let (resume, suspend) = (Effect::Call(Hook::Resume), Effect::Call(Hook::Suspend));
    match (state.phase, remains) {
        // No client has reached the guest yet: a fresh guest gets /run exactly once.
        (Phase::Launching | Phase::RunHook, _) => go(Phase::Launching, Some(Effect::Launch)),
        (Phase::Running, Remains::Running) => go(Phase::Running, None),
        // The process has exited because the save was complete.
        (Phase::SuspendHook | Phase::Saving, Remains::Suspended) => {
            let saving = State { phase: Phase::Saving, ..state.clone() };
            step(&saving, &Event::Saved, rules)
        }
        (Phase::SuspendHook | Phase::Saving, Remains::Running)
            if state.wish == Wish::Resume && rules.resume_cancels_suspend =>
        {
            // Whether the app handled /suspend is uncertain, and a /resume without a /suspend does less harm than a
            // /suspend without a /resume.
            let state = State { wish: Wish::Unspecified, suspend_hook_done: false, ..state.clone() };
            Step { state: State { phase: Phase::ResumeAfterCancel, ..state }, effect: Some(resume) }
        }
        (Phase::SuspendHook | Phase::Saving, Remains::Running) => go(Phase::SuspendHook, Some(suspend)),
        // If the result is unknown, the next resume finds out whether the suspended state exists.
        (Phase::Suspended, Remains::Suspended | Remains::Unknown) => go(Phase::Suspended, None),
        (Phase::Suspended, _) => table::terminate_now(state, reason::platform("the suspended state is gone")),
        // No client has reached the guest since: the restored process is discarded.
        (Phase::Restoring, _) | (Phase::ResumeHook, Remains::Suspended | Remains::Unknown) => {
            go(Phase::Restoring, Some(Effect::Restore))
        }
        (Phase::ResumeAfterCancel | Phase::ResumeHook, Remains::Running) => go(state.phase, Some(resume)),
        (Phase::TerminateHook | Phase::Ending, _) => go(Phase::Ending, Some(Effect::Discard)),
        (Phase::Terminated, _) => go(Phase::Terminated, None),
        (Phase::Unspecified, _) => table::terminate_now(state, reason::platform("its record has no phase")),
        (
            Phase::Running
            | Phase::SuspendHook
            | Phase::Saving
            | Phase::ResumeAfterCancel
            | Phase::ResumeHook,
            _,
        ) => gone(),
    }
}

/// A step for an event other than a request, which is never refused.
fn step(state: &State, event: &Event, rules: Rules) -> Step {
    table::step(state, event, rules).unwrap_or_else(|_| Step { state: state.clone(), effect: None })
}
