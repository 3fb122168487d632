//! The transition table: what each event does in each phase (docs/behaviour.md, "States", "State reasons", "Idle time
//! and lifetime", "Hooks").

use hearth_model::hooks::{Hook, HookOutcome};

use super::microvm::{Effect, Event, Phase, Refusal, Request, Rules, State, Step, Wish};
use super::reason;

/// No change and no effect.
fn unchanged(state: &State) -> Step {
    Step { state: state.clone(), effect: None }
}

/// The microVM enters `phase`, and `effect` is carried out.
fn enter(state: &State, phase: Phase, effect: impl Into<Option<Effect>>) -> Step {
    Step { state: State { phase, ..state.clone() }, effect: effect.into() }
}

/// The microVM runs. A suspend that was requested meanwhile begins.
fn run(state: &State, reason: Option<String>) -> Step {
    let running = State { wish: Wish::Unspecified, suspend_hook_done: false, reason, ..state.clone() };
    match state.wish {
        Wish::Suspend => enter(&running, Phase::SuspendHook, Effect::Call(Hook::Suspend)),
        _ => enter(&running, Phase::Running, None),
    }
}

/// The microVM continues after a suspend that was abandoned.
fn continue_running(state: &State, reason: Option<String>) -> Step {
    if state.suspend_hook_done {
        let state = State { reason, ..state.clone() };
        return enter(&state, Phase::ResumeAfterCancel, Effect::Call(Hook::Resume));
    }
    run(state, reason)
}

/// The microVM terminates without a call of its `/terminate` hook.
pub(super) fn terminate_now(state: &State, reason: String) -> Step {
    let state =
        State { reason: Some(reason), wish: Wish::Unspecified, suspend_hook_done: false, ..state.clone() };
    enter(&state, Phase::Ending, Effect::Discard)
}

/// The microVM terminates after its `/terminate` hook was called.
fn terminate_with_hook(state: &State, reason: &str) -> Step {
    let state = State {
        reason: Some(reason.to_owned()),
        wish: Wish::Unspecified,
        suspend_hook_done: false,
        ..state.clone()
    };
    enter(&state, Phase::TerminateHook, Effect::Call(Hook::Terminate))
}

/// Termination was requested, or the lifetime is over. The hook is not called if the app has not begun to run or is
/// frozen.
fn terminate(state: &State, reason: &str) -> Step {
    match state.phase {
        Phase::Running | Phase::SuspendHook | Phase::ResumeAfterCancel | Phase::ResumeHook => {
            terminate_with_hook(state, reason)
        }
        Phase::TerminateHook | Phase::Ending | Phase::Terminated => unchanged(state),
        _ => terminate_now(state, reason.to_owned()),
    }
}

/// The step that `event` causes in `state`.
///
/// # Errors
/// [`Refusal`] of a request; the state is unchanged then. Other events are never refused: one that has no meaning in
/// a state leaves the state as it is.
pub fn step(state: &State, event: &Event, rules: Rules) -> Result<Step, Refusal> {
    match event {
        Event::Request(Request::Suspend) => suspend(state),
        Event::Request(Request::Resume) => resume(state, rules),
        Event::Request(Request::Terminate) => Ok(terminate(state, reason::SUCCESS)),
        Event::Idle { terminate } => Ok(idle(state, *terminate)),
        Event::LifetimeOver => Ok(terminate(state, reason::LIFETIME)),
        Event::SuspendedTooLong => Ok(match state.phase {
            Phase::Suspended => terminate_now(state, reason::LIFETIME.to_owned()),
            _ => unchanged(state),
        }),
        Event::Hook(hook, outcome) => Ok(after_hook(state, *hook, outcome, rules)),
        outcome => Ok(after_outcome(state, outcome)),
    }
}

fn suspend(state: &State) -> Result<Step, Refusal> {
    match state.phase {
        Phase::Running => {
            let state = State { reason: None, ..state.clone() };
            Ok(enter(&state, Phase::SuspendHook, Effect::Call(Hook::Suspend)))
        }
        Phase::Suspended => Ok(unchanged(state)),
        // The later request counts. A cancellation under way is followed by another suspend.
        Phase::SuspendHook => {
            Ok(Step { state: State { wish: Wish::Unspecified, ..state.clone() }, effect: None })
        }
        Phase::Saving if state.wish == Wish::Resume => {
            Ok(Step { state: State { wish: Wish::Suspend, ..state.clone() }, effect: None })
        }
        Phase::Saving => Ok(unchanged(state)),
        Phase::TerminateHook | Phase::Ending | Phase::Terminated => Err(Refusal::Terminated),
        _ => Err(Refusal::Conflict("wait until it is RUNNING")),
    }
}

fn resume(state: &State, rules: Rules) -> Result<Step, Refusal> {
    match state.phase {
        Phase::Suspended => {
            let state = State { reason: None, ..state.clone() };
            Ok(enter(&state, Phase::Restoring, Effect::Restore))
        }
        Phase::SuspendHook | Phase::Saving => {
            let cancel = state.phase == Phase::Saving && rules.resume_cancels_suspend;
            let again = state.wish == Wish::Resume;
            let state = State { wish: Wish::Resume, ..state.clone() };
            Ok(Step { state, effect: (cancel && !again).then_some(Effect::CancelSave) })
        }
        Phase::TerminateHook | Phase::Ending | Phase::Terminated => Err(Refusal::Terminated),
        _ => Ok(unchanged(state)),
    }
}

fn idle(state: &State, terminate: bool) -> Step {
    match state.phase {
        Phase::Running if terminate => terminate_with_hook(state, reason::LIFETIME),
        Phase::Running => {
            let state = State { reason: None, ..state.clone() };
            enter(&state, Phase::SuspendHook, Effect::Call(Hook::Suspend))
        }
        _ => unchanged(state),
    }
}

/// The step after a hook call, whether it succeeded or not.
fn after_hook(state: &State, hook: Hook, outcome: &HookOutcome, rules: Rules) -> Step {
    match (state.phase, hook) {
        (Phase::RunHook, Hook::Run) if outcome.is_success() => run(state, None),
        (Phase::RunHook, Hook::Run) => terminate_now(state, reason::hook(hook, outcome)),
        (Phase::SuspendHook, Hook::Suspend) if outcome.is_success() => {
            let suspend_hook_done = *outcome != HookOutcome::Disabled;
            let state = State { suspend_hook_done, ..state.clone() };
            if state.wish == Wish::Resume && rules.resume_cancels_suspend {
                return continue_running(&State { wish: Wish::Unspecified, ..state }, None);
            }
            let number = state.suspends + 1;
            enter(&state, Phase::Saving, Effect::Save(number))
        }
        (Phase::SuspendHook, Hook::Suspend) if rules.failed_suspend_hook_terminates => {
            terminate_now(state, reason::hook(hook, outcome))
        }
        (Phase::SuspendHook, Hook::Suspend) => {
            run(&State { wish: Wish::Unspecified, ..state.clone() }, Some(reason::hook(hook, outcome)))
        }
        (Phase::ResumeAfterCancel | Phase::ResumeHook, Hook::Resume) if outcome.is_success() => {
            run(state, state.reason.clone())
        }
        (Phase::ResumeAfterCancel | Phase::ResumeHook, Hook::Resume) => {
            terminate_now(state, reason::hook(hook, outcome))
        }
        // The response of the app makes no difference.
        (Phase::TerminateHook, Hook::Terminate) => enter(state, Phase::Ending, Effect::Discard),
        _ => unchanged(state),
    }
}

/// The step after the outcome of an effect, or after an exit of the microVM.
fn after_outcome(state: &State, event: &Event) -> Step {
    match (state.phase, event) {
        (Phase::Launching, Event::Launched) => enter(state, Phase::RunHook, Effect::Call(Hook::Run)),
        (Phase::Launching, Event::LaunchFailed(why)) => terminate_now(state, reason::platform(why)),
        (Phase::Saving, Event::Saved) => {
            let (resume, suspends) = (state.wish == Wish::Resume, state.suspends + 1);
            let state = State {
                wish: Wish::Unspecified,
                suspend_hook_done: false,
                reason: None,
                suspends,
                ..state.clone()
            };
            match resume {
                true => enter(&state, Phase::Restoring, Effect::Restore),
                false => enter(&state, Phase::Suspended, None),
            }
        }
        (Phase::Saving, Event::SaveCancelled) => {
            let wish = if state.wish == Wish::Suspend { Wish::Suspend } else { Wish::Unspecified };
            // The save was cancelled for a resume, or because it took too long, in which case the reason is set
            // already.
            continue_running(&State { wish, ..state.clone() }, state.reason.clone())
        }
        (Phase::Saving, Event::SaveSlow(why)) => {
            let reason = Some(reason::not_suspended(why));
            Step { state: State { reason, ..state.clone() }, effect: Some(Effect::CancelSave) }
        }
        // Whether the guest runs, and which files it writes to, is unknown: the microVM cannot continue.
        (Phase::Saving, Event::SaveHung(why)) => terminate_now(state, reason::not_suspended(why)),
        (Phase::Saving, Event::SaveFailed(why)) => {
            let why = reason::not_suspended(why);
            continue_running(&State { wish: Wish::Unspecified, ..state.clone() }, Some(why))
        }
        (Phase::Restoring, Event::Restored) => enter(state, Phase::ResumeHook, Effect::Call(Hook::Resume)),
        (Phase::Restoring, Event::RestoreFailed(why)) => {
            let why = reason::platform(&format!("the microVM could not be resumed: {why}"));
            enter(&State { reason: Some(why), ..state.clone() }, Phase::Suspended, None)
        }
        (Phase::Ending, Event::Discarded) => enter(state, Phase::Terminated, None),
        // Termination was decided before, with another reason.
        (Phase::TerminateHook, Event::Exited(_)) => enter(state, Phase::Ending, Effect::Discard),
        (
            Phase::RunHook
            | Phase::Running
            | Phase::SuspendHook
            | Phase::Saving
            | Phase::ResumeAfterCancel
            | Phase::ResumeHook,
            Event::Exited(exit),
        ) => terminate_now(state, reason::exit(exit)),
        _ => unchanged(state),
    }
}
