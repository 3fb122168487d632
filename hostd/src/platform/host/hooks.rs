//! Calls of lifecycle hooks (docs/behaviour.md, "Hooks").

use hearth_host::agent::AgentError;
use hearth_host::agent::control::{HookCall, HookResult};
use hearth_proto::guest::v1 as proto;
use hearth_proto::microvms::v1::{HookState, Hooks};
use hearth_vmm_client::ClientError;

use crate::platform::{Hook, HookOutcome};

/// The call of a hook; none if it is disabled. `payload` is sent to `/run` only, and is never logged.
pub(super) fn call(hooks: Option<&Hooks>, hook: Hook, microvm: &str, payload: &str) -> Option<HookCall> {
    let hooks = hooks?;
    let settings = hooks.microvm_hooks.as_ref()?;
    let (state, kind) = match hook {
        Hook::Run => (settings.run, proto::Hook::Run),
        Hook::Suspend => (settings.suspend, proto::Hook::Suspend),
        Hook::Resume => (settings.resume, proto::Hook::Resume),
        Hook::Terminate => (settings.terminate, proto::Hook::Terminate),
    };
    if state != Some(HookState::Enabled.into()) {
        return None;
    }
    let port = hooks.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    let body = (hook == Hook::Run)
        .then(|| serde_json::json!({ "microvmId": microvm, "runHookPayload": payload }).to_string());
    Some(HookCall { hook: kind, port, timeout: hook.timeout(Some(hooks)), body })
}

/// The outcome of a hook call.
pub(super) fn outcome(result: &Result<HookResult, AgentError>) -> HookOutcome {
    match result {
        Ok(HookResult::Status(status)) => HookOutcome::Status(*status),
        Ok(HookResult::Refused) => HookOutcome::Refused,
        Ok(HookResult::TimedOut)
        | Err(AgentError::TimedOut { .. } | AgentError::Monitor(ClientError::Silent { .. })) => {
            HookOutcome::TimedOut
        }
        Ok(HookResult::Transport(_)) | Err(_) => HookOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_proto::microvms::v1::MicrovmHooks;

    use super::*;

    fn hooks() -> Hooks {
        let enabled = Some(HookState::Enabled.into());
        let microvm_hooks = MicrovmHooks {
            run: enabled,
            run_timeout_in_seconds: Some(7),
            resume: enabled,
            suspend: Some(HookState::Disabled.into()),
            terminate: enabled,
            terminate_timeout_in_seconds: Some(-1),
            ..MicrovmHooks::default()
        };
        Hooks { port: Some(9000), microvm_hooks: Some(microvm_hooks), ..Hooks::default() }
    }

    #[test]
    fn run_alone_has_a_body_with_the_payload_as_it_was_given() {
        let payload = "{\"a\": \"\u{1}ü\\\"\"}\n";
        let call = |hook| call(Some(&hooks()), hook, "microvm-1", payload);
        let run = call(Hook::Run).unwrap();
        assert_eq!((run.hook, run.port, run.timeout), (proto::Hook::Run, 9000, Duration::from_secs(7)));
        let body = run.body.unwrap();
        assert!(body.starts_with("{\"microvmId\":\"microvm-1\",\"runHookPayload\":"), "{body}");
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["runHookPayload"], payload);
        let resume = call(Hook::Resume).unwrap();
        assert_eq!((resume.hook, resume.body), (proto::Hook::Resume, None));
        assert_eq!(resume.timeout, Duration::from_secs(1), "without a time");
        assert_eq!(
            call(Hook::Terminate).unwrap().timeout,
            Duration::from_secs(1),
            "without one that makes sense"
        );
        assert!(call(Hook::Suspend).is_none(), "disabled");
    }

    #[test]
    fn without_hooks_or_a_port_nothing_is_called() {
        assert!(call(None, Hook::Run, "m", "").is_none());
        assert!(call(Some(&Hooks::default()), Hook::Run, "m", "").is_none());
        for port in [None, Some(0), Some(-1), Some(65_536)] {
            assert!(call(Some(&Hooks { port, ..hooks() }), Hook::Run, "m", "").is_none(), "{port:?}");
        }
    }

    #[test]
    fn every_result_has_its_outcome() {
        let silent = ClientError::Silent { path: "control.sock".into(), limit: Duration::from_secs(30) };
        let timed_out = AgentError::TimedOut { what: "calling", limit: Duration::from_secs(1) };
        for (result, expected) in [
            (Ok(HookResult::Status(409)), HookOutcome::Status(409)),
            (Ok(HookResult::Refused), HookOutcome::Refused),
            (Ok(HookResult::TimedOut), HookOutcome::TimedOut),
            (Ok(HookResult::Transport("reset".into())), HookOutcome::Failed),
            (Err(timed_out), HookOutcome::TimedOut),
            (Err(AgentError::Monitor(silent)), HookOutcome::TimedOut),
            (Err(AgentError::Confused), HookOutcome::Failed),
        ] {
            assert_eq!(outcome(&result), expected);
        }
    }
}
