//! The sentences of `stateReason` (docs/behaviour.md, "State reasons"). Clients match on them.

use hearth_model::hooks::{Hook, HookOutcome};

use crate::platform::Exit;

/// Longest description of a failure in bytes.
const LONGEST: usize = 1024;

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

/// The reason for a failure that the user has not caused. Where files of the host are is its operator's business and in the daemon's log: paths
/// are left out, and so is what a long text has after its beginning.
#[must_use]
pub fn platform(what: &str) -> String {
    format!("Internal platform error: {}", without_paths(what))
}

/// A text in which `…` stands for each absolute path, cut off after [`LONGEST`] bytes.
fn without_paths(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(LONGEST));
    let (mut in_path, mut before) = (false, ' ');
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if kept.len() >= LONGEST {
            kept.push('…');
            break;
        }
        let ends_word = |character: char| character.is_whitespace() || "\"'`,;()<>[]{}|".contains(character);
        let next = characters.peek().copied();
        if in_path {
            // `path: error` and `path.` at the end of a sentence.
            let ends = ends_word(character)
                || ":.!?".contains(character) && next.is_none_or(|next| next.is_whitespace());
            if !ends {
                continue;
            }
            in_path = false;
        }
        let begins = character == '/' && (ends_word(before) || "=:".contains(before));
        if begins && next.is_some_and(|next| next != '/' && !ends_word(next)) {
            in_path = true;
            kept.push('…');
        } else {
            kept.push(character);
        }
        before = character;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_are_left_out() {
        for (text, expected) in [
            ("writing /var/lib/hearth/x: Input/output error", "writing …: Input/output error"),
            ("/run/hearth/microvms/microvm-1 is gone", "… is gone"),
            ("cannot read \"/a/b c/d\".", "cannot read \"… c/d\"."),
            ("file=/etc/x, and (/srv/y)", "file=…, and (…)"),
            ("see https://example.com/a/b and a/b", "see https://example.com/a/b and a/b"),
            ("5 / 3 and // and /", "5 / 3 and // and /"),
            ("panicked at /build/src/main.rs:12:5:\nno", "panicked at …:\nno"),
            ("it lies in /a/b.", "it lies in …."),
            ("no room", "no room"),
        ] {
            assert_eq!(without_paths(text), expected);
        }
        let long = without_paths(&"é".repeat(10_000));
        assert!(long.len() <= LONGEST + 4 && long.ends_with("é…"), "{}", long.len());
        assert_eq!(
            exit(&Exit::Monitor("at /x/y".into())),
            "Internal platform error: the microVM's process has ended: at …"
        );
    }
}
