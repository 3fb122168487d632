//! Calls of lifecycle hooks (docs/behaviour.md, "Hooks").

use hearth_host::agent::AgentError;
use hearth_host::agent::control::HookCall;
use hearth_model::hooks::{Hook, HookOutcome, Hooks};
use hearth_proto::guest::v1 as proto;
use hearth_vmm_client::ClientError;

/// The call of a hook; none if it is disabled. `payload` is sent to `/run` only, and is never logged.
pub(super) fn call(hooks: &Hooks, hook: Hook, microvm: &str, payload: &str) -> Option<HookCall> {
    let settings = hooks.of(hook)?;
    if hooks.port == 0 {
        return None;
    }
    let kind = match hook {
        Hook::Run => proto::Hook::Run,
        Hook::Suspend => proto::Hook::Suspend,
        Hook::Resume => proto::Hook::Resume,
        Hook::Terminate => proto::Hook::Terminate,
    };
    let body = (hook == Hook::Run)
        .then(|| serde_json::json!({ "microvmId": microvm, "runHookPayload": payload }).to_string());
    Some(HookCall { hook: kind, port: hooks.port, timeout: settings.timeout(), body })
}

/// The outcome of a hook call, which the agent may not have been able to make.
pub(super) fn outcome(result: Result<HookOutcome, AgentError>) -> HookOutcome {
    result.unwrap_or_else(|error| match error {
        AgentError::TimedOut { .. } | AgentError::Monitor(ClientError::Silent { .. }) => {
            HookOutcome::TimedOut
        }
        error => HookOutcome::Failed(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_model::hooks::HookSettings;

    use super::*;

    fn hooks() -> Hooks {
        let seconds = |timeout_seconds| Some(HookSettings { timeout_seconds });
        Hooks { port: 9000, run: seconds(7), resume: seconds(1), ..Hooks::default() }
    }

    #[test]
    fn run_alone_has_a_body_with_the_payload_as_it_was_given() {
        let payload = "{\"a\": \"\u{1}ü\\\"\"}\n";
        let call = |hook| call(&hooks(), hook, "microvm-1", payload);
        let run = call(Hook::Run).unwrap();
        assert_eq!((run.hook, run.port, run.timeout), (proto::Hook::Run, 9000, Duration::from_secs(7)));
        let body = run.body.unwrap();
        assert!(body.starts_with("{\"microvmId\":\"microvm-1\",\"runHookPayload\":"), "{body}");
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["runHookPayload"], payload);
        let resume = call(Hook::Resume).unwrap();
        assert_eq!((resume.hook, resume.body), (proto::Hook::Resume, None));
        assert_eq!(resume.timeout, Duration::from_secs(1));
        assert!(call(Hook::Suspend).is_none(), "disabled");
    }

    #[test]
    fn without_hooks_or_a_port_nothing_is_called() {
        assert!(call(&Hooks::default(), Hook::Run, "m", "").is_none());
        assert!(call(&Hooks { port: 0, ..hooks() }, Hook::Run, "m", "").is_none());
    }

    #[test]
    fn every_result_has_its_outcome() {
        let silent = ClientError::Silent { path: "control.sock".into(), limit: Duration::from_secs(30) };
        let timed_out = AgentError::TimedOut { what: "calling", limit: Duration::from_secs(1) };
        for (result, expected) in [
            (Ok(HookOutcome::Status(409)), HookOutcome::Status(409)),
            (Ok(HookOutcome::Failed("reset".into())), HookOutcome::Failed("reset".into())),
            (Err(timed_out), HookOutcome::TimedOut),
            (Err(AgentError::Monitor(silent)), HookOutcome::TimedOut),
            (Err(AgentError::Confused), HookOutcome::Failed(AgentError::Confused.to_string())),
        ] {
            assert_eq!(outcome(result), expected);
        }
    }
}
