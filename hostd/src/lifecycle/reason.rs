//! The sentences of `stateReason` (docs/behaviour.md, "State reasons"). Clients match on them.

use hearth_model::hooks::{Hook, HookOutcome};

use crate::platform::Exit;

/// The reason after TerminateMicrovm.
pub const SUCCESS: &str = "Success.";
/// The reason after the maximum duration or the suspended duration is over.
pub const LIFETIME: &str = "MicroVM exceeded maximum lifetime.";

/// The reason for the outcome of a hook call.
#[must_use]
pub fn hook(hook: Hook, outcome: &HookOutcome) -> String {
    let what = match outcome {
        HookOutcome::Disabled => return SUCCESS.to_owned(),
        HookOutcome::Failed(_) => return format!("{hook} lifecycle hook failed."),
        HookOutcome::Status(status) => format!("returned HTTP status {status}"),
        HookOutcome::Refused => "connection was refused".to_owned(),
        HookOutcome::TimedOut => "timed out".to_owned(),
    };
    format!(
        "{hook} lifecycle hook {what}. Please check your hook endpoint and application logs for more details."
    )
}

/// The reason when a microVM has exited by itself.
#[must_use]
pub fn exit(exit: &Exit) -> String {
    match exit {
        Exit::App(code) => format!("Container Stopped with Exit Code: {code}"),
        Exit::Guest(why) => platform(&format!("the guest has ended: {why}")),
        Exit::Monitor(why) => platform(&format!("the microVM's process has ended: {why}")),
    }
}

/// The reason why a microVM could not be suspended.
#[must_use]
pub fn not_suspended(why: &str) -> String {
    platform(&format!("the microVM could not be suspended: {why}"))
}

/// The reason for a failure that the user has not caused.
#[must_use]
pub fn platform(what: &str) -> String {
    format!("Internal platform error: {what}")
}
