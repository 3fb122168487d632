//! `hearth suspend`, `resume` and `rm`.

use std::time::Duration;

use clap::Args;
use hearth_proto::microvms::v1::{
    MicrovmState, ResumeMicrovmRequest, SuspendMicrovmRequest, TerminateMicrovmRequest,
};

use super::Context;
use crate::error::Failure;
use crate::parse;

/// Default timeout of a change: the longest hook, and time to save memory.
const CHANGE: Duration = Duration::from_secs(120);

/// Which microVMs, and whether they are waited for.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Ids, or their beginnings
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Wait until it is done; for 2m unless given
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = parse::duration)]
    wait: Option<Option<Duration>>,
}

/// The requested state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetState {
    Suspended,
    Running,
    Terminated,
}

impl Change {
    /// Changes all microVMs, even if one fails. Failures are printed as they come, except the first one, which is returned.
    pub(crate) async fn execute(self, context: &Context, target: TargetState) -> Result<(), Failure> {
        let ids = context.client.microvm_ids(&self.ids).await?;
        let mut failed = None;
        let mut accepted = Vec::new();
        for id in ids {
            match request(context, &id, target).await {
                Ok(()) => accepted.push(id),
                Err(failure) => record_failure(&mut failed, failure),
            }
        }
        let mut microvms = Vec::new();
        for id in accepted {
            let state = match target {
                TargetState::Suspended => MicrovmState::Suspended,
                TargetState::Running => MicrovmState::Running,
                TargetState::Terminated => MicrovmState::Terminated,
            };
            if let Some(limit) = self.wait {
                match context.wait(&id, state, limit.unwrap_or(CHANGE)).await {
                    Ok(microvm) if context.out.json => microvms.push(microvm),
                    Ok(_) => context.out.line(&id)?,
                    Err(failure) => record_failure(&mut failed, failure),
                }
            } else if context.out.json {
                microvms.push(context.microvm(&id).await?);
            } else {
                context.out.line(&id)?;
            }
        }
        if context.out.json {
            context.out.json_list(&microvms)?;
        }
        failed.map_or(Ok(()), Err)
    }
}

fn record_failure(failed: &mut Option<Failure>, failure: Failure) {
    match failed {
        None => *failed = Some(failure),
        Some(_) => drop(failure.report()),
    }
}

async fn request(context: &Context, id: &str, target: TargetState) -> Result<(), Failure> {
    let client = &context.client;
    let mut microvms = client.microvms();
    let microvm_identifier = Some(id.to_owned());
    match target {
        TargetState::Suspended => {
            let answer = microvms.suspend_microvm(SuspendMicrovmRequest { microvm_identifier });
            client.call(format!("suspend {id}"), answer).await.map(|_| ())
        }
        TargetState::Running => {
            let answer = microvms.resume_microvm(ResumeMicrovmRequest { microvm_identifier });
            client.call(format!("resume {id}"), answer).await.map(|_| ())
        }
        TargetState::Terminated => {
            let answer = microvms.terminate_microvm(TerminateMicrovmRequest { microvm_identifier });
            client.call(format!("terminate {id}"), answer).await.map(|_| ())
        }
    }
}
