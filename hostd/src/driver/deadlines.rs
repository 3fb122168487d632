//! The deadline of each effect, and what happens when an effect exceeds it.
//!
//! A guest and its monitor may withhold any response. So nothing waits for them for ever, whatever the platform does:
//! each effect has a deadline, after which the task goes on without it. Every phase but RUNNING and SUSPENDED, which
//! may last as long as they like, waits for an effect, and so is finished in bounded time.
//!
//! | Effect | Deadline | Afterwards |
//! |---|---|---|
//! | launch | [`Deadlines::launch`] | the launch has failed |
//! | restore | [`Deadlines::launch`] | the resume has failed: the microVM is SUSPENDED as before |
//! | hook | its timeout plus [`GRACE`]; for `/suspend` also the drain time of exchanges | as after a hook that timed out |
//! | save | [`Deadlines::suspend`] | the save is cancelled; one that cannot be cancelled is killed after [`CANCEL`] |
//! | discard | [`DISCARD`] | it is started again, until nothing of the microVM is left |
//!
//! An effect that delays the termination of a microVM has [`TERMINATION_GRACE`] at most. Termination itself – the
//! monitor is killed by its descriptor – needs no response from the guest or the monitor.

use std::time::Duration;

use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::microvms::v1::Hooks;

use crate::hooks::timeout;
use crate::lifecycle::microvm::{Effect, Event};

/// Added to a hook's own timeout. It is longer than the margin that the agent's client adds, so that the client,
/// which knows more about the failure, reports first.
const GRACE: Duration = Duration::from_secs(15);
/// Added to the platform's own limit for making a microVM: time to remove a half-made one.
const CLEARING: Duration = Duration::from_secs(30);
/// How long a cancelled save has to roll back.
pub(super) const CANCEL: Duration = Duration::from_secs(30);
/// How long one attempt to remove a microVM may take.
const DISCARD: Duration = Duration::from_secs(60);
/// Upper limit of all deadlines, whatever is configured.
const MAX_DEADLINE: Duration = Duration::from_secs(86_400);
/// How long an effect that is under way may still take once the microVM has to terminate.
pub(super) const TERMINATION_GRACE: Duration = Duration::from_secs(15);

/// The deadlines of effects that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// How long the platform has to make a microVM from its image or its suspended state.
    pub launch: Duration,
    /// How long saving a microVM may take.
    pub suspend: Duration,
}

impl Default for Deadlines {
    /// 30 s for launches, 600 s for suspends.
    fn default() -> Self {
        Self { launch: Duration::from_secs(30), suspend: Duration::from_secs(600) }
    }
}

/// What happens to an effect that has exceeded its deadline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The effect is given up, with this event as its outcome.
    GiveUp(Event),
    /// The effect is given up and started again.
    Retry,
}

/// The time limits of an effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TimeLimits {
    /// The warning event for the machine, and after how long it is sent; none if the effect has no warning.
    pub(super) warning: Option<(Duration, Event)>,
    /// After how long the effect is given up.
    pub(super) limit: Duration,
}

impl Deadlines {
    /// The time limits of `effect` for a microVM with these hooks, whose exchanges have `drain` to finish before a
    /// suspend.
    pub(super) fn of(&self, effect: &Effect, hooks: Option<&Hooks>, drain: Duration) -> TimeLimits {
        let within = |limit: Duration| TimeLimits { warning: None, limit: limit.min(MAX_DEADLINE) };
        match effect {
            Effect::Launch | Effect::Restore => within(self.launch.saturating_add(CLEARING)),
            Effect::Call(hook @ Hook::Suspend) => within(timeout(hooks, *hook) + GRACE + drain),
            Effect::Call(hook @ (Hook::Run | Hook::Resume | Hook::Terminate)) => {
                within(timeout(hooks, *hook) + GRACE)
            }
            Effect::Save(_) => TimeLimits {
                warning: Some((self.suspend, Event::SaveSlow(longer(self.suspend)))),
                limit: self.suspend.saturating_add(CANCEL).min(MAX_DEADLINE),
            },
            Effect::CancelSave => within(CANCEL),
            Effect::Discard => within(DISCARD),
        }
    }
}

/// What happens to `effect` when it has not finished within `limit`.
pub(super) fn on_timeout(effect: &Effect, limit: Duration) -> Overdue {
    match effect {
        Effect::Launch => Overdue::GiveUp(Event::LaunchFailed(longer(limit))),
        Effect::Restore => Overdue::GiveUp(Event::RestoreFailed(longer(limit))),
        Effect::Call(hook) => Overdue::GiveUp(Event::Hook(*hook, HookOutcome::TimedOut)),
        Effect::Save(_) | Effect::CancelSave => Overdue::GiveUp(Event::SaveHung(longer(limit))),
        // Nothing of the microVM may be left: neither memory nor a process that writes to its files.
        Effect::Discard => Overdue::Retry,
    }
}

fn longer(limit: Duration) -> String {
    format!("it took longer than {} s", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::MicrovmHooks;

    use super::*;

    #[test]
    fn a_hook_has_its_own_time_and_a_little() {
        let second = Duration::from_secs;
        let microvm_hooks = Some(MicrovmHooks {
            suspend_timeout_in_seconds: Some(60),
            terminate_timeout_in_seconds: Some(7),
            ..MicrovmHooks::default()
        });
        let hooks = Hooks { microvm_hooks, ..Hooks::default() };
        let limit = |hook| Deadlines::default().of(&Effect::Call(hook), Some(&hooks), second(30)).limit;
        assert_eq!(limit(Hook::Terminate), second(7) + GRACE);
        assert_eq!(limit(Hook::Suspend), second(60) + GRACE + second(30));
        assert_eq!(limit(Hook::Run), second(1) + GRACE, "without a time");
    }

    #[test]
    fn a_save_is_cancelled_before_it_is_given_up() {
        let deadlines = Deadlines { suspend: Duration::from_secs(9), ..Deadlines::default() };
        let times = deadlines.of(&Effect::Save(1), None, Duration::ZERO);
        let (warning, event) = times.warning.unwrap();
        assert_eq!(warning, Duration::from_secs(9));
        assert_eq!(event, Event::SaveSlow("it took longer than 9 s".into()));
        assert_eq!(times.limit, warning + CANCEL);
    }
}
