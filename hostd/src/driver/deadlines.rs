//! How long each effect has, and what follows when it has not come to its end by then.
//!
//! A guest and its monitor may keep any answer back. So nothing that waits for them waits for ever, whatever the platform does:
//! each effect has a deadline here, and the task goes on without it then. Every phase but RUNNING and SUSPENDED, which last as long
//! as they may, waits for an effect, and so ends by itself.
//!
//! | Effect | Has | Then |
//! |---|---|---|
//! | launch | [`Deadlines::launch`] | the launch has failed |
//! | restore | [`Deadlines::launch`] | the resume has failed: it is SUSPENDED as before |
//! | hook | its timeout, and [`GRACE`]; `/suspend` beside that the time that exchanges have | as of a hook that timed out |
//! | save | [`Deadlines::suspend`] | it is cancelled; what does not let itself be cancelled is killed after [`CANCEL`] |
//! | discard | [`DISCARD`] | it is begun anew, until nothing of the microVM is left |
//!
//! What stands in the way of a microVM's end has [`WAY`] at most. The end itself – the monitor is killed by its descriptor – asks
//! neither the guest nor the monitor.

use std::time::Duration;

use hearth_proto::microvms::v1::Hooks;

use crate::lifecycle::microvm::{Effect, Event};
use crate::platform::{Hook, HookOutcome};

/// What a hook's own time is exceeded by: more than the agent's client adds to it, which tells more of what happened.
const GRACE: Duration = Duration::from_secs(15);
/// What the platform has beside its own limit to make a microVM, to remove what it has half made.
const CLEARING: Duration = Duration::from_secs(30);
/// How long a save has to go back when it is cancelled.
pub(super) const CANCEL: Duration = Duration::from_secs(30);
/// How long one try to remove a microVM has.
const DISCARD: Duration = Duration::from_secs(60);
/// Nothing has longer than this, whatever is configured.
const MOST: Duration = Duration::from_secs(86_400);
/// How long an effect that is under way has, once the microVM is to end.
pub(super) const WAY: Duration = Duration::from_secs(15);

/// What of the times of effects is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// How long the platform has to make a microVM from its image or its suspended state.
    pub launch: Duration,
    /// How long saving a microVM may take.
    pub suspend: Duration,
}

impl Default for Deadlines {
    /// Half a minute, and ten.
    fn default() -> Self {
        Self { launch: Duration::from_secs(30), suspend: Duration::from_secs(600) }
    }
}

/// What is done about an effect that has not come to its end in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// It is given up; this is its outcome.
    GivenUp(Event),
    /// It is given up, and begun anew.
    Again,
}

/// The times of an effect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// When it is asked to come to its end, in the machine's words, if it can be.
    pub(super) warning: Option<(Duration, Event)>,
    /// When it is given up.
    pub(super) limit: Duration,
}

impl Deadlines {
    /// The times of `effect`, of a microVM with these hooks and whose exchanges have `drain` to be answered before a suspend.
    pub(super) fn of(&self, effect: &Effect, hooks: Option<&Hooks>, drain: Duration) -> Times {
        let within = |limit: Duration| Times { warning: None, limit: limit.min(MOST) };
        match effect {
            Effect::Launch | Effect::Restore => within(self.launch.saturating_add(CLEARING)),
            Effect::Call(hook @ Hook::Suspend) => within(hook.timeout(hooks) + GRACE + drain),
            Effect::Call(hook @ (Hook::Run | Hook::Resume | Hook::Terminate)) => {
                within(hook.timeout(hooks) + GRACE)
            }
            Effect::Save(_) => Times {
                warning: Some((self.suspend, Event::SaveSlow(longer(self.suspend)))),
                limit: self.suspend.saturating_add(CANCEL).min(MOST),
            },
            Effect::CancelSave => within(CANCEL),
            Effect::Discard => within(DISCARD),
        }
    }
}

/// What is done about `effect` when it has not come to its end within `limit`.
pub(super) fn late(effect: &Effect, limit: Duration) -> Late {
    match effect {
        Effect::Launch => Late::GivenUp(Event::LaunchFailed(longer(limit))),
        Effect::Restore => Late::GivenUp(Event::RestoreFailed(longer(limit))),
        Effect::Call(hook) => Late::GivenUp(Event::Hook(*hook, HookOutcome::TimedOut)),
        Effect::Save(_) | Effect::CancelSave => Late::GivenUp(Event::SaveHung(longer(limit))),
        // Nothing of it may be left: not memory, not a process that writes to its files.
        Effect::Discard => Late::Again,
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
