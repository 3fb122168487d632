//! Hooks: named, they are enabled; a timeout may follow.

use clap::Args;
use hearth_model::hooks::DEFAULT_PORT;
use hearth_proto::microvms::v1::{HookState, Hooks, MicrovmHooks, MicrovmImageHooks};

/// Whether a hook is enabled, and its timeout in seconds where one is given. (Clap tells these types by their spelling.)
#[derive(Debug, Args)]
#[command(next_help_heading = "Hooks (a timeout may follow: --ready=120)")]
pub(super) struct HookOptions {
    /// Port on which the app answers hooks; 9000 unless given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(i32).range(1..=65_535))]
    hooks_port: Option<i32>,
    /// POST /ready until it answers 200, then take the snapshot
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = clap::value_parser!(i32).range(1..=3600))]
    ready: Option<Option<i32>>,
    /// POST /validate in a microVM of the snapshot
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = clap::value_parser!(i32).range(1..=3600))]
    validate: Option<Option<i32>>,
    /// POST /run once in each microVM; needs --ready, as those below
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready", value_parser = clap::value_parser!(i32).range(1..=60))]
    run: Option<Option<i32>>,
    /// POST /suspend before a suspend
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready", value_parser = clap::value_parser!(i32).range(1..=60))]
    suspend: Option<Option<i32>>,
    /// POST /resume after a resume
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready", value_parser = clap::value_parser!(i32).range(1..=60))]
    resume: Option<Option<i32>>,
    /// POST /terminate before the end
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, requires = "ready", value_parser = clap::value_parser!(i32).range(1..=60))]
    terminate: Option<Option<i32>>,
}

fn state(hook: Option<Option<i32>>) -> Option<i32> {
    hook.map(|_| HookState::Enabled.into())
}

impl HookOptions {
    /// Whether the port is given.
    pub(super) fn has_port(&self) -> bool {
        self.hooks_port.is_some()
    }

    pub(super) fn hooks(&self) -> Option<Hooks> {
        let image = MicrovmImageHooks {
            ready: state(self.ready),
            ready_timeout_in_seconds: self.ready.flatten(),
            validate: state(self.validate),
            validate_timeout_in_seconds: self.validate.flatten(),
        };
        let microvm = MicrovmHooks {
            run: state(self.run),
            run_timeout_in_seconds: self.run.flatten(),
            resume: state(self.resume),
            resume_timeout_in_seconds: self.resume.flatten(),
            suspend: state(self.suspend),
            suspend_timeout_in_seconds: self.suspend.flatten(),
            terminate: state(self.terminate),
            terminate_timeout_in_seconds: self.terminate.flatten(),
        };
        let image = (image != MicrovmImageHooks::default()).then_some(image);
        let microvm = (microvm != MicrovmHooks::default()).then_some(microvm);
        if image.is_none() && microvm.is_none() && self.hooks_port.is_none() {
            return None;
        }
        Some(Hooks {
            port: Some(self.hooks_port.unwrap_or(DEFAULT_PORT.into())),
            microvm_hooks: microvm,
            microvm_image_hooks: image,
        })
    }
}

/// The enabled hooks, for people.
pub(super) fn describe(hooks: &Hooks) -> String {
    let microvm = hooks.microvm_hooks.unwrap_or_default();
    let image = hooks.microvm_image_hooks.unwrap_or_default();
    let all = [
        ("ready", image.ready, image.ready_timeout_in_seconds),
        ("validate", image.validate, image.validate_timeout_in_seconds),
        ("run", microvm.run, microvm.run_timeout_in_seconds),
        ("suspend", microvm.suspend, microvm.suspend_timeout_in_seconds),
        ("resume", microvm.resume, microvm.resume_timeout_in_seconds),
        ("terminate", microvm.terminate, microvm.terminate_timeout_in_seconds),
    ];
    let enabled = all.into_iter().filter(|(_, state, _)| *state == Some(HookState::Enabled.into()));
    let texts: Vec<_> = enabled
        .map(|(name, _, timeout)| match timeout {
            Some(seconds) => format!("{name} ({seconds} s)"),
            None => name.to_owned(),
        })
        .collect();
    match hooks.port {
        Some(port) if !texts.is_empty() => format!("{} on port {port}", texts.join(", ")),
        _ => texts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hooks: HookOptions,
    }

    fn parse(words: &str) -> Result<Option<Hooks>, clap::Error> {
        Line::try_parse_from(format!("x {words}").split_whitespace()).map(|line| line.hooks.hooks())
    }

    #[test]
    fn a_hook_is_enabled_by_its_name_and_its_timeout_is_the_daemons_unless_given() {
        assert_eq!(parse("").unwrap(), None);
        let hooks = parse("--ready --run=5 --hooks-port 8000").unwrap().unwrap();
        assert_eq!(hooks.port, Some(8000));
        let image = hooks.microvm_image_hooks.unwrap();
        assert_eq!((image.ready, image.ready_timeout_in_seconds), (Some(HookState::Enabled.into()), None));
        assert_eq!(image.validate, None);
        assert_eq!(hooks.microvm_hooks.unwrap().run_timeout_in_seconds, Some(5));
        assert_eq!(describe(&hooks), "ready, run (5 s) on port 8000");
        assert_eq!(parse("--validate").unwrap().unwrap().port, Some(9000));
    }

    #[test]
    fn hooks_of_microvms_need_the_ready_hook_and_timeouts_have_limits() {
        for wrong in ["--run", "--ready --run=61", "--ready=0", "--hooks-port 0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
