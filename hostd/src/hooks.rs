//! The hooks of an image as the API has them, read as the rest of the daemon has them. What a user did not give has its
//! default. A timeout of 0 or less, which the API refuses but a record may hold, has the default as well: a call without
//! any time would fail each launch of the image.

use std::time::Duration;

use hearth_model::hooks::{Hook, HookSettings, Hooks, ImageHook};
use hearth_proto::microvms::v1::{HookState, Hooks as ApiHooks};

/// The enabled hooks with their timeouts.
#[must_use]
pub fn enabled(hooks: &ApiHooks) -> Hooks {
    let (image, microvm) =
        (hooks.microvm_image_hooks.unwrap_or_default(), hooks.microvm_hooks.unwrap_or_default());
    let settings = |state: HookState, given: Option<i32>, default: u32| {
        (state == HookState::Enabled).then(|| HookSettings { timeout_seconds: seconds(given, default) })
    };
    let of_image = |state, given, hook: ImageHook| settings(state, given, hook.default_timeout_seconds());
    let of_microvm = |state, given| settings(state, given, Hook::DEFAULT_TIMEOUT_SECONDS);
    Hooks {
        port: hooks.port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
        ready: of_image(image.ready(), image.ready_timeout_in_seconds, ImageHook::Ready),
        validate: of_image(image.validate(), image.validate_timeout_in_seconds, ImageHook::Validate),
        run: of_microvm(microvm.run(), microvm.run_timeout_in_seconds),
        suspend: of_microvm(microvm.suspend(), microvm.suspend_timeout_in_seconds),
        resume: of_microvm(microvm.resume(), microvm.resume_timeout_in_seconds),
        terminate: of_microvm(microvm.terminate(), microvm.terminate_timeout_in_seconds),
    }
}

/// How long the app may take to respond to a hook of its microVM, whether the hook is enabled or not.
#[must_use]
pub fn timeout(hooks: Option<&ApiHooks>, hook: Hook) -> Duration {
    let settings = hooks.and_then(|hooks| hooks.microvm_hooks.as_ref());
    let given = settings.and_then(|settings| match hook {
        Hook::Run => settings.run_timeout_in_seconds,
        Hook::Suspend => settings.suspend_timeout_in_seconds,
        Hook::Resume => settings.resume_timeout_in_seconds,
        Hook::Terminate => settings.terminate_timeout_in_seconds,
    });
    Duration::from_secs(seconds(given, Hook::DEFAULT_TIMEOUT_SECONDS).into())
}

/// The timeout in seconds: the one that was given, if it is at least 1, else the default.
fn seconds(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::{MicrovmHooks, MicrovmImageHooks};

    use super::*;

    fn hooks() -> ApiHooks {
        let enabled = Some(HookState::Enabled.into());
        ApiHooks {
            port: Some(9000),
            microvm_image_hooks: Some(MicrovmImageHooks {
                ready: enabled,
                validate: Some(HookState::Disabled.into()),
                validate_timeout_in_seconds: Some(7),
                ..MicrovmImageHooks::default()
            }),
            microvm_hooks: Some(MicrovmHooks {
                run: enabled,
                suspend: enabled,
                suspend_timeout_in_seconds: Some(42),
                resume: Some(HookState::Disabled.into()),
                resume_timeout_in_seconds: Some(5),
                terminate: enabled,
                terminate_timeout_in_seconds: Some(-1),
                ..MicrovmHooks::default()
            }),
        }
    }

    #[test]
    fn what_is_not_given_has_its_default_and_a_disabled_hook_is_none() {
        let seconds = |hook: Option<HookSettings>| hook.map(|hook| hook.timeout_seconds);
        let read = enabled(&hooks());
        assert_eq!((read.port, seconds(read.ready), seconds(read.validate)), (9000, Some(60), None));
        assert_eq!((seconds(read.run), seconds(read.suspend)), (Some(1), Some(42)));
        assert_eq!((seconds(read.resume), seconds(read.terminate)), (None, Some(1)));
        let validate =
            MicrovmImageHooks { validate: Some(HookState::Enabled.into()), ..MicrovmImageHooks::default() };
        let read = enabled(&ApiHooks { microvm_image_hooks: Some(validate), ..ApiHooks::default() });
        assert_eq!((seconds(read.validate), read.run), (Some(30), None));
        assert_eq!(enabled(&ApiHooks::default()), Hooks::default());
        for port in [None, Some(0), Some(-1), Some(65_536)] {
            assert_eq!(enabled(&ApiHooks { port, ..hooks() }).port, 0, "{port:?}");
        }
    }

    #[test]
    fn a_timeout_is_that_of_the_hook_or_a_second() {
        let seconds = |hook| timeout(Some(&hooks()), hook).as_secs();
        assert_eq!((seconds(Hook::Run), seconds(Hook::Suspend)), (1, 42));
        assert_eq!((seconds(Hook::Resume), seconds(Hook::Terminate)), (5, 1));
        assert_eq!(timeout(None, Hook::Run), Duration::from_secs(1));
        assert_eq!(timeout(Some(&ApiHooks::default()), Hook::Run), Duration::from_secs(1));
        assert_eq!([Some(0), Some(-1), Some(3)].map(|given| super::seconds(given, 7)), [7, 7, 3]);
    }
}
