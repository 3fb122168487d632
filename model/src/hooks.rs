//! Lifecycle hooks of apps (docs/behaviour.md, "Hooks"): which there are, their settings and defaults, and the outcomes of
//! their calls.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The port on which apps serve hooks, unless their image has another.
pub const DEFAULT_PORT: u16 = 9000;

/// A hook of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageHook {
    /// `/ready`, before the snapshot.
    Ready,
    /// `/validate`, in a throw-away microVM restored from it.
    Validate,
}

impl ImageHook {
    /// The timeout of a hook that is enabled without one, in seconds.
    #[must_use]
    pub fn default_timeout_seconds(self) -> u32 {
        match self {
            Self::Ready => 60,
            Self::Validate => 30,
        }
    }
}

impl fmt::Display for ImageHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::Validate => "Validate",
        })
    }
}

/// A hook of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `/run`
    Run,
    /// `/suspend`
    Suspend,
    /// `/resume`
    Resume,
    /// `/terminate`
    Terminate,
}

impl Hook {
    /// The timeout of a hook that is enabled without one, in seconds.
    pub const DEFAULT_TIMEOUT_SECONDS: u32 = 1;
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "Run",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::Terminate => "Terminate",
        })
    }
}

/// Hooks of an app. A hook without settings is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    /// Port on which the app serves hooks; 0 if it serves none.
    pub port: u16,
    /// Called until the app is ready for the snapshot.
    pub ready: Option<HookSettings>,
    /// Called in a throw-away microVM that is restored from the snapshot.
    pub validate: Option<HookSettings>,
    /// Called once in each microVM.
    pub run: Option<HookSettings>,
    /// Called before a suspend.
    pub suspend: Option<HookSettings>,
    /// Called after a resume.
    pub resume: Option<HookSettings>,
    /// Called before the microVM is terminated.
    pub terminate: Option<HookSettings>,
}

impl Hooks {
    /// The settings of a microVM's hook; none if it is disabled.
    #[must_use]
    pub fn of(&self, hook: Hook) -> Option<HookSettings> {
        match hook {
            Hook::Run => self.run,
            Hook::Suspend => self.suspend,
            Hook::Resume => self.resume,
            Hook::Terminate => self.terminate,
        }
    }
}

/// Settings of an enabled hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSettings {
    /// Time limit for all attempts together, in seconds.
    pub timeout_seconds: u32,
}

impl HookSettings {
    /// Time limit for all attempts together.
    #[must_use]
    pub fn timeout(self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// The outcome of a hook call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HookOutcome {
    /// The hook is disabled and was not called.
    Disabled,
    /// The app responded with this HTTP status.
    Status(u32),
    /// The connection was refused: the app does not listen on the port.
    Refused,
    /// The app did not respond in time.
    TimedOut,
    /// The call failed in another way, for this reason: the connection broke, or the response was no HTTP.
    Failed(String),
}

impl HookOutcome {
    /// Whether the app agrees: it responded with a status of success, or was not asked.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Disabled | Self::Status(200..=299))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_agrees_with_any_status_of_success() {
        for agrees in [HookOutcome::Disabled, HookOutcome::Status(200), HookOutcome::Status(299)] {
            assert!(agrees.is_success(), "{agrees:?}");
        }
        let others = [0, 199, 300, 409, 503].map(HookOutcome::Status);
        for refuses in others.into_iter().chain([
            HookOutcome::Refused,
            HookOutcome::TimedOut,
            HookOutcome::Failed("reset".into()),
        ]) {
            assert!(!refuses.is_success(), "{refuses:?}");
        }
    }

    #[test]
    fn each_hook_of_a_microvm_has_its_own_settings() {
        let seconds = |timeout_seconds| Some(HookSettings { timeout_seconds });
        let hooks = Hooks { run: seconds(1), suspend: seconds(2), resume: seconds(3), ..Hooks::default() };
        let timeout = |hook| hooks.of(hook).map(|settings| settings.timeout().as_secs());
        assert_eq!((timeout(Hook::Run), timeout(Hook::Suspend)), (Some(1), Some(2)));
        assert_eq!((timeout(Hook::Resume), timeout(Hook::Terminate)), (Some(3), None));
    }
}
