//! Tests of the transition table, row by row, and of invariants over every sequence of events.

use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::microvms::v1::MicrovmState as Visible;
use proptest::prelude::*;

use super::microvm::Request::{self, Resume, Suspend, Terminate};
use super::microvm::{Effect, Event, Phase, Refusal, Rules, State, Step, Wish, must_be_stored};
use super::reason;
use super::recovery::{Remains, recover};
use super::table::step;
use crate::platform::Exit;

fn at(phase: Phase) -> State {
    State { phase, ..State::new() }
}

fn request(phase: Phase, request: Request) -> Result<(Phase, Option<Effect>), Refusal> {
    step(&at(phase), &Event::Request(request), Rules::default()).map(|step| (step.state.phase, step.effect))
}

fn after(state: &State, event: Event) -> Step {
    step(state, &event, Rules::default()).unwrap()
}

const OK: HookOutcome = HookOutcome::Status(200);

#[test]
fn requests_do_what_the_transition_table_says() {
    use Effect::{CancelSave, Discard, Restore};
    let call = |hook| Some(Effect::Call(hook));
    let wait = Err(Refusal::Conflict("wait until it is RUNNING"));
    let over = Err(Refusal::Terminated);
    // phase, suspend, resume, terminate
    let table = [
        (Phase::Launching, wait.clone(), Ok((Phase::Launching, None)), Ok((Phase::Ending, Some(Discard)))),
        (Phase::RunHook, wait.clone(), Ok((Phase::RunHook, None)), Ok((Phase::Ending, Some(Discard)))),
        (
            Phase::Running,
            Ok((Phase::SuspendHook, call(Hook::Suspend))),
            Ok((Phase::Running, None)),
            Ok((Phase::TerminateHook, call(Hook::Terminate))),
        ),
        (
            Phase::SuspendHook,
            Ok((Phase::SuspendHook, None)),
            Ok((Phase::SuspendHook, None)),
            Ok((Phase::TerminateHook, call(Hook::Terminate))),
        ),
        (
            Phase::Saving,
            Ok((Phase::Saving, None)),
            Ok((Phase::Saving, Some(CancelSave))),
            Ok((Phase::Ending, Some(Discard))),
        ),
        (
            Phase::ResumeAfterCancel,
            wait.clone(),
            Ok((Phase::ResumeAfterCancel, None)),
            Ok((Phase::TerminateHook, call(Hook::Terminate))),
        ),
        (
            Phase::Suspended,
            Ok((Phase::Suspended, None)),
            Ok((Phase::Restoring, Some(Restore))),
            Ok((Phase::Ending, Some(Discard))),
        ),
        (Phase::Restoring, wait.clone(), Ok((Phase::Restoring, None)), Ok((Phase::Ending, Some(Discard)))),
        (
            Phase::ResumeHook,
            wait,
            Ok((Phase::ResumeHook, None)),
            Ok((Phase::TerminateHook, call(Hook::Terminate))),
        ),
        (Phase::TerminateHook, over.clone(), over.clone(), Ok((Phase::TerminateHook, None))),
        (Phase::Ending, over.clone(), over.clone(), Ok((Phase::Ending, None))),
        (Phase::Terminated, over.clone(), over, Ok((Phase::Terminated, None))),
    ];
    for (phase, suspend, resume, terminate) in table {
        assert_eq!(request(phase, Suspend), suspend, "suspend in {phase:?}");
        assert_eq!(request(phase, Resume), resume, "resume in {phase:?}");
        assert_eq!(request(phase, Terminate), terminate, "terminate in {phase:?}");
    }
}

#[test]
fn a_life_goes_through_every_state_that_clients_see() {
    let mut state = State::new();
    let mut seen = vec![state.visible()];
    let events = [
        Event::Launched,
        Event::Hook(Hook::Run, OK),
        Event::Request(Suspend),
        Event::Hook(Hook::Suspend, OK),
        Event::Saved,
        Event::Request(Resume),
        Event::Restored,
        Event::Hook(Hook::Resume, OK),
        Event::Request(Terminate),
        Event::Hook(Hook::Terminate, HookOutcome::Status(500)),
        Event::Discarded,
    ];
    for event in events {
        state = after(&state, event).state;
        if seen.last() != Some(&state.visible()) {
            seen.push(state.visible());
        }
    }
    use Visible::*;
    assert_eq!(seen, [Pending, Running, Suspending, Suspended, Pending, Running, Terminating, Terminated]);
    assert_eq!(state.reason.as_deref(), Some("Success."));
    assert_eq!(state.suspends, 1);
}

#[test]
fn a_failing_run_hook_ends_it_without_asking_its_app() {
    let step = after(&at(Phase::RunHook), Event::Hook(Hook::Run, HookOutcome::Status(400)));
    assert_eq!((step.state.phase, step.effect), (Phase::Ending, Some(Effect::Discard)));
    assert_eq!(
        step.state.reason.as_deref(),
        Some(
            "Run lifecycle hook returned HTTP status 400. Please check your hook endpoint and application logs for more details."
        )
    );
}

#[test]
fn a_failing_suspend_hook_leaves_it_running_or_ends_it_as_the_rules_say() {
    let failed = Event::Hook(Hook::Suspend, HookOutcome::Refused);
    let step_by = |rules| step(&at(Phase::SuspendHook), &failed, rules).unwrap().state;
    let sentence = "Suspend lifecycle hook connection was refused. Please check your hook endpoint and application logs for more details.";
    let (documented, strict) = (step_by(Rules::default()), step_by(Rules::AWS_STRICT));
    assert_eq!((documented.phase, documented.reason.as_deref()), (Phase::Running, Some(sentence)));
    assert_eq!((strict.phase, strict.reason.as_deref()), (Phase::Ending, Some(sentence)));
}

#[test]
fn a_resume_during_a_suspend_cancels_it_with_resume_where_suspend_had_answered() {
    let mut state = after(&at(Phase::SuspendHook), Event::Hook(Hook::Suspend, OK)).state;
    assert_eq!(state.phase, Phase::Saving);
    let cancelled = after(&state, Event::Request(Resume));
    assert_eq!(cancelled.effect, Some(Effect::CancelSave));
    state = cancelled.state;
    let goes_on = after(&state, Event::SaveCancelled);
    assert_eq!(goes_on.effect, Some(Effect::Call(Hook::Resume)));
    assert_eq!(after(&goes_on.state, Event::Hook(Hook::Resume, OK)).state.phase, Phase::Running);
    // If the hook was not called, the microVM runs at once; if the cancellation came too late, the microVM is
    // restored.
    let silent = State { suspend_hook_done: false, ..state.clone() };
    assert_eq!(after(&silent, Event::SaveCancelled).state.phase, Phase::Running);
    assert_eq!(after(&state, Event::Saved).effect, Some(Effect::Restore));
}

#[test]
fn in_the_strict_profile_a_resume_follows_the_suspend() {
    let saving = step(&at(Phase::Saving), &Event::Request(Resume), Rules::AWS_STRICT).unwrap();
    assert_eq!(saving.effect, None);
    let saved = step(&saving.state, &Event::Saved, Rules::AWS_STRICT).unwrap();
    assert_eq!((saved.state.phase, saved.effect), (Phase::Restoring, Some(Effect::Restore)));
}

#[test]
fn the_later_of_two_requests_during_a_suspend_counts() {
    let saving = State { suspend_hook_done: true, ..at(Phase::Saving) };
    let resumed = after(&saving, Event::Request(Resume)).state;
    let suspended = after(&resumed, Event::Request(Suspend)).state;
    assert_eq!(suspended.wish, Wish::Suspend);
    let goes_on = after(&suspended, Event::SaveCancelled).state;
    assert_eq!(goes_on.phase, Phase::ResumeAfterCancel);
    let again = after(&goes_on, Event::Hook(Hook::Resume, OK));
    assert_eq!((again.state.phase, again.effect), (Phase::SuspendHook, Some(Effect::Call(Hook::Suspend))));
    assert_eq!(after(&suspended, Event::Saved).state.phase, Phase::Suspended);
}

#[test]
fn a_resume_that_the_host_cannot_do_leaves_it_suspended() {
    let step = after(&at(Phase::Restoring), Event::RestoreFailed("no room".into()));
    assert_eq!((step.state.phase, step.effect), (Phase::Suspended, None));
    assert_eq!(
        step.state.reason.as_deref(),
        Some("Internal platform error: the microVM could not be resumed: no room")
    );
}

#[test]
fn its_end_has_the_reason_of_what_ended_it() {
    let ends = |event| after(&at(Phase::Running), event).state.reason.unwrap_or_default();
    assert_eq!(ends(Event::Exited(Exit::App(3))), "Container Stopped with Exit Code: 3");
    assert_eq!(ends(Event::LifetimeOver), "MicroVM exceeded maximum lifetime.");
    assert_eq!(ends(Event::Idle { terminate: true }), "MicroVM exceeded maximum lifetime.");
    assert!(ends(Event::Exited(Exit::Monitor("SIGKILL".into()))).starts_with("Internal platform error: "));
    let suspended = after(&at(Phase::Suspended), Event::SuspendedTooLong).state;
    assert_eq!(suspended.reason.as_deref(), Some(reason::LIFETIME));
}

#[test]
fn an_app_that_exits_while_it_is_told_of_its_end_changes_nothing_but_the_waiting() {
    let state = State { reason: Some(reason::SUCCESS.into()), ..at(Phase::TerminateHook) };
    let step = after(&state, Event::Exited(Exit::App(0)));
    assert_eq!((step.state.phase, step.effect), (Phase::Ending, Some(Effect::Discard)));
    assert_eq!(step.state.reason.as_deref(), Some(reason::SUCCESS));
}

#[test]
fn a_save_that_takes_too_long_is_cancelled_and_one_that_hangs_ends_it() {
    let saving = State { suspend_hook_done: true, ..at(Phase::Saving) };
    let slow = after(&saving, Event::SaveSlow("it took longer than 9 s".into()));
    assert_eq!((slow.state.phase, slow.effect), (Phase::Saving, Some(Effect::CancelSave)));
    let sentence = "Internal platform error: the microVM could not be suspended: it took longer than 9 s";
    let cancelled = after(&slow.state, Event::SaveCancelled);
    assert_eq!(cancelled.effect, Some(Effect::Call(Hook::Resume)));
    let runs = after(&cancelled.state, Event::Hook(Hook::Resume, OK)).state;
    assert_eq!((runs.phase, runs.reason.as_deref()), (Phase::Running, Some(sentence)));
    let hung = after(&slow.state, Event::SaveHung("it took longer than 9 s".into()));
    assert_eq!((hung.state.phase, hung.effect), (Phase::Ending, Some(Effect::Discard)));
    assert_eq!(hung.state.reason.as_deref(), Some(sentence));
    // The save finished after all, just before it was cancelled.
    assert_eq!(after(&slow.state, Event::Saved).state.phase, Phase::Suspended);
}

#[test]
fn what_could_not_be_found_out_is_ended_unless_that_would_lose_what_is_suspended() {
    let recover = |phase| recover(&at(phase), Remains::Unknown, Rules::default()).state.phase;
    for (phase, expected) in [
        (Phase::Launching, Phase::Launching),
        (Phase::Running, Phase::Ending),
        (Phase::SuspendHook, Phase::Ending),
        (Phase::ResumeAfterCancel, Phase::Ending),
        (Phase::Suspended, Phase::Suspended),
        (Phase::Restoring, Phase::Restoring),
        (Phase::ResumeHook, Phase::Restoring),
        (Phase::TerminateHook, Phase::Ending),
        (Phase::Ending, Phase::Ending),
    ] {
        assert_eq!(recover(phase), expected, "{phase:?}");
    }
}

// ---- invariants over every sequence of events ----

/// Which state may follow which, as clients see them.
fn is_legal(from: Visible, to: Visible) -> bool {
    use Visible::*;
    from == to
        || matches!(
            (from, to),
            (Pending, Running | Suspending | Suspended | Terminating)
                | (Running, Suspending | Terminating)
                | (Suspending, Suspended | Running | Pending | Terminating)
                | (Suspended, Pending | Terminating)
                | (Terminating, Terminated)
        )
}

#[derive(Debug, Clone)]
enum Act {
    Request(Request),
    Timer(u8),
    /// The effect under way finishes: successfully, or with one of its failures.
    Ends(u8),
    /// The effect under way exceeds its deadline and is given up.
    Late(bool),
    Exits(u8),
    Crash,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let request = prop::sample::select(vec![Suspend, Resume, Terminate]);
    let act = prop_oneof![
        3 => request.prop_map(Act::Request),
        1 => any::<u8>().prop_map(Act::Timer),
        6 => any::<u8>().prop_map(Act::Ends),
        1 => any::<bool>().prop_map(Act::Late),
        1 => any::<u8>().prop_map(Act::Exits),
        1 => Just(Act::Crash),
    ];
    prop::collection::vec(act, 1..60)
}

fn outcome_of_hook(choice: u8) -> HookOutcome {
    match choice % 8 {
        0 => HookOutcome::Status(500),
        1 => HookOutcome::TimedOut,
        2 => HookOutcome::Refused,
        3 => HookOutcome::Disabled,
        _ => OK,
    }
}

/// What the host holds of a microVM: a small model of the driver and the platform.
#[derive(Debug, Default)]
struct Host {
    running: bool,
    /// Number of the complete suspended state, if there is one.
    saved: Option<u64>,
    under_way: Option<Effect>,
    queued: Option<Effect>,
    cancelled: bool,
}

impl Host {
    fn begin(&mut self, effect: Option<Effect>) {
        match (effect, &self.under_way) {
            (None, _) => {}
            (Some(Effect::CancelSave), _) => self.cancelled = true,
            (Some(effect), None | Some(Effect::Call(_))) => self.under_way = Some(effect),
            (Some(effect), Some(_)) => self.queued = Some(effect),
        }
    }

    /// A resume fails: the state is there, and no process, not even one that an earlier resume has left (`Platform::resume`).
    fn not_restored(&mut self, why: &str) -> Event {
        self.running = false;
        Event::RestoreFailed(why.to_owned())
    }

    /// The effect under way is late; returns its event. A save gets a warning before it is given up.
    fn late(&mut self, warned: bool) -> Option<Event> {
        let why = || "it took too long".to_owned();
        let given_up = match self.under_way.clone()? {
            Effect::Save(_) if !warned => return Some(Event::SaveSlow(why())),
            Effect::Save(_) => Event::SaveHung(why()),
            Effect::Launch => Event::LaunchFailed(why()),
            Effect::Restore => self.not_restored(&why()),
            Effect::Call(hook) => Event::Hook(hook, HookOutcome::TimedOut),
            Effect::Discard => return None, // a discard is started again
            Effect::CancelSave => unreachable!("it is not waited for"),
        };
        self.under_way = None;
        Some(given_up)
    }

    /// The effect under way finishes; returns its event.
    fn end(&mut self, choice: u8) -> Option<Event> {
        let effect = self.under_way.take()?;
        let fails = choice.is_multiple_of(5);
        Some(match effect {
            Effect::Launch if fails => Event::LaunchFailed("full".into()),
            Effect::Launch => {
                self.running = true;
                Event::Launched
            }
            Effect::Restore if fails => self.not_restored("full"),
            Effect::Restore => {
                assert!(self.saved.is_some(), "nothing to restore from");
                self.running = true;
                Event::Restored
            }
            Effect::Call(hook) => Event::Hook(hook, outcome_of_hook(choice)),
            Effect::Save(_) if std::mem::take(&mut self.cancelled) && choice.is_multiple_of(2) => {
                Event::SaveCancelled
            }
            Effect::Save(_) if fails => Event::SaveFailed("disk full".into()),
            Effect::Save(_) if !self.running => Event::SaveFailed("its process is gone".into()),
            Effect::Save(number) => {
                (self.running, self.saved) = (false, Some(number));
                Event::Saved
            }
            Effect::Discard => {
                (self.running, self.saved) = (false, None);
                Event::Discarded
            }
            Effect::CancelSave => unreachable!("it is not waited for"),
        })
    }
}

/// Applies `acts` to a microVM, and checks the invariants after each.
fn live(acts: Vec<Act>, rules: Rules) {
    let (mut state, mut host) = (State::new(), Host::default());
    // The state in the store.
    let mut stored = state.clone();
    host.begin(Some(Effect::Launch));
    for act in acts {
        let event = match act {
            Act::Request(request) => Some(Event::Request(request)),
            Act::Timer(choice) => Some(match choice % 3 {
                0 => Event::LifetimeOver,
                1 => Event::SuspendedTooLong,
                _ => Event::Idle { terminate: choice.is_multiple_of(2) },
            }),
            Act::Ends(choice) => host.end(choice),
            Act::Late(warned) => host.late(warned),
            Act::Exits(choice) if host.running => {
                host.running = choice.is_multiple_of(2); // the app alone exits, or the process
                Some(Event::Exited(if host.running { Exit::App(1) } else { Exit::Monitor("dead".into()) }))
            }
            Act::Exits(_) => None,
            Act::Crash => {
                let number = super::recovery::suspended_number(&stored);
                let remains = match (host.running, host.saved) {
                    (true, _) => Remains::Running,
                    (false, Some(saved)) if saved == number => Remains::Suspended,
                    _ => Remains::Nothing,
                };
                let suspended = matches!(stored.phase, Phase::Suspended);
                let step = recover(&stored, remains, rules);
                assert!(
                    !suspended || step.state.phase == Phase::Suspended,
                    "what is suspended stays so: {stored:?}, {remains:?}"
                );
                let saved = host.saved;
                host = Host { running: host.running, saved, ..Host::default() };
                assert!(is_legal(stored.visible(), step.state.visible()), "{stored:?} -> {step:?}");
                (state, stored) = (step.state.clone(), step.state);
                host.begin(step.effect);
                continue;
            }
        };
        let Some(event) = event else { continue };
        let before = state.clone();
        match step(&state, &event, rules) {
            Ok(step) => {
                assert!(is_legal(before.visible(), step.state.visible()), "{before:?} {event:?} {step:?}");
                if must_be_stored(&before, &step.state) {
                    stored = step.state.clone();
                }
                state = step.state;
                host.begin(step.effect);
            }
            Err(_) => assert!(matches!(event, Event::Request(_)), "only requests are refused: {event:?}"),
        }
        if host.under_way.is_none() {
            let queued = host.queued.take();
            host.begin(queued);
        }
        assert!(before.phase != Phase::Terminated || state == before, "TERMINATED is final");
        let settled = matches!(state.phase, Phase::Running | Phase::Suspended | Phase::Terminated);
        assert_eq!(
            host.under_way.is_none(),
            settled,
            "{state:?} {host:?}: it waits for nothing, or works on"
        );
        assert!(state.phase != Phase::Suspended || (host.saved == Some(state.suspends) && !host.running));
        assert!(
            state.phase != Phase::Terminated || (host.saved.is_none() && !host.running),
            "nothing is left"
        );
        assert!(
            !matches!(state.phase, Phase::Ending | Phase::Terminated) || state.reason.is_some(),
            "an end has a reason"
        );
    }
}

proptest! {
    #[test]
    fn no_sequence_of_events_loses_a_microvm(acts in acts(), strict in any::<bool>()) {
        live(acts, if strict { Rules::AWS_STRICT } else { Rules::default() });
    }

    #[test]
    fn every_microvm_can_be_ended(acts in acts(), strict in any::<bool>()) {
        let rules = if strict { Rules::AWS_STRICT } else { Rules::default() };
        let end = std::iter::once(Act::Request(Terminate)).chain(std::iter::repeat_n(Act::Ends(4), 8));
        live(acts.into_iter().chain(end).collect(), rules);
    }
}
