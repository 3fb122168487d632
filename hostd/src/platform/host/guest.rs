//! What a driver asks of a running microVM: hooks, suspends, connections, its exit.

use std::time::Duration;

use async_trait::async_trait;
use hearth_host::agent::AgentError;
use hearth_host::agent::exec::{Events, Stdin};
use hearth_host::shell;
use hearth_model::hooks::{Hook, HookOutcome};

use super::phase::Phase;
use super::running::RunningMicrovm;
use super::{hooks, suspend};
use crate::platform::{ConnectError, Connection, Exit, Guest, Spec, Streams, SuspendError};

/// How long the app may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

#[async_trait]
impl Guest for RunningMicrovm {
    async fn call_hook(&self, hook: Hook) -> HookOutcome {
        let Spec { id, hooks, run_hook_payload, .. } = &self.spec;
        let Some(call) = hooks::call(hooks, hook, id.as_str(), run_hook_payload) else {
            return HookOutcome::Disabled;
        };
        let result = self.agent().call_hook(&call).await;
        match &result {
            Ok(result) if result.is_success() => {}
            Ok(result) => tracing::info!(microvm = %id, %hook, ?result, "the hook did not succeed"),
            Err(error) => tracing::warn!(microvm = %id, %hook, %error, "the hook could not be called"),
        }
        hooks::outcome(result)
    }

    async fn suspend(&self, number: u64) -> Result<(), SuspendError> {
        suspend::suspend(self, number).await
    }

    async fn cancel_suspend(&self) {
        suspend::cancel(self).await;
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError> {
        let stream = self.agent().stream(port, CONNECT).await.map_err(connect_error)?;
        Ok(Box::new(stream))
    }

    async fn shell(&self, command: &[String], streams: Streams) -> Result<(Stdin, Events), ConnectError> {
        self.agent().exec(shell::program(command, streams)).await.map_err(connect_error)
    }

    async fn exited(&self) -> Exit {
        let mut exits = self.exit.clone();
        let exit = match exits.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_) => None,
        };
        match exit {
            Some(exit) if *self.phase.borrow() != Phase::Gone => exit,
            // The exit was requested.
            _ => std::future::pending().await,
        }
    }
}

fn connect_error(error: AgentError) -> ConnectError {
    match error {
        AgentError::Refused { .. } => ConnectError::App(error.into()),
        error => ConnectError::Guest(error.into()),
    }
}
