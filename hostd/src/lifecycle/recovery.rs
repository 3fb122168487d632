//! What a restarted daemon does with what it finds of a microVM.
//!
//! Rules: what a client was told happens or has happened; a guest that may have been half made is made anew as long as no
//! client could have reached it; a hook that may have been called is called again, but for /run, which a guest gets once; and
//! a running guest whose process is gone is not replaced by an older state of it.

use super::microvm::{Effect, Phase, Rules, State, Step, Wish};
use super::table::end;
use super::{microvm, reason};
use crate::platform::{Exit, Hook};

/// What was found of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Its process, and it runs.
    Running,
    /// No process, and the suspended state that was asked for.
    Suspended,
    /// Neither.
    Nothing,
    /// That was not found out in time. What is there is ended before anything else is made.
    Unknown,
}

/// The number of the suspended state that matters to a microVM in `state`: the one that it is saved as, or was last.
#[must_use]
pub fn suspended_number(state: &State) -> u64 {
    match state.phase {
        Phase::SuspendHook | Phase::Saving => state.suspends + 1,
        _ => state.suspends,
    }
}

/// How a microVM goes on that was in `state` when the daemon ended.
#[must_use]
pub fn recover(state: &State, remains: Remains, rules: Rules) -> Step {
    let go = |phase, effect: Option<Effect>| Step { state: State { phase, ..state.clone() }, effect };
    let gone = || end(state, reason::exit(&Exit::Monitor("while the daemon was away".to_owned())));
    let (resume, suspend) = (Effect::Call(Hook::Resume), Effect::Call(Hook::Suspend));
    match (state.phase, remains) {
        // Nobody has reached it yet: a fresh guest gets /run exactly once.
        (Phase::Launching | Phase::RunHook, _) => go(Phase::Launching, Some(Effect::Launch)),
        (Phase::Running, Remains::Running) => go(Phase::Running, None),
        // The save that ended it was complete.
        (Phase::SuspendHook | Phase::Saving, Remains::Suspended) => {
            let saving = State { phase: Phase::Saving, ..state.clone() };
            step(&saving, &microvm::Event::Saved, rules)
        }
        (Phase::SuspendHook | Phase::Saving, Remains::Running)
            if state.wish == Wish::Resume && rules.resume_cancels_suspend =>
        {
            // Whether /suspend was answered is not known for sure, and /resume without it does less harm than none after it.
            let state = State { wish: Wish::Unspecified, suspend_hook_done: false, ..state.clone() };
            Step { state: State { phase: Phase::ResumeAfterCancel, ..state }, effect: Some(resume) }
        }
        (Phase::SuspendHook | Phase::Saving, Remains::Running) => go(Phase::SuspendHook, Some(suspend)),
        // A resume finds out whether its state is there.
        (Phase::Suspended, Remains::Suspended | Remains::Unknown) => go(Phase::Suspended, None),
        (Phase::Suspended, _) => end(state, reason::platform("the suspended state is gone")),
        // Nobody has reached it since: what was restored is thrown away.
        (Phase::Restoring, _) | (Phase::ResumeHook, Remains::Suspended | Remains::Unknown) => {
            go(Phase::Restoring, Some(Effect::Restore))
        }
        (Phase::ResumeAfterCancel | Phase::ResumeHook, Remains::Running) => go(state.phase, Some(resume)),
        (Phase::TerminateHook | Phase::Ending, _) => go(Phase::Ending, Some(Effect::Discard)),
        (Phase::Terminated, _) => go(Phase::Terminated, None),
        (Phase::Unspecified, _) => end(state, reason::platform("its record has no phase")),
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

/// A step that no request makes, and so is never refused.
fn step(state: &State, event: &microvm::Event, rules: Rules) -> Step {
    microvm::step(state, event, rules).unwrap_or_else(|_| Step { state: state.clone(), effect: None })
}
