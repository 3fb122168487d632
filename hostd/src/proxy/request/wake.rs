//! The sixth step: the microVM's gate. A request to a microVM that is not ready wakes it, and waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::error::ProxyError;
use super::super::limiter::Limiter;
use super::super::shares::Underway;
use super::host::Host;
use super::limits::Admitted;
use super::port::Target;
use crate::driver::Microvms;
use crate::driver::gate::{Pass, WaitLimits};
use crate::metrics::{Metrics, Outcome};

/// Shorter waits for a microVM are not counted in the metrics.
const WAIT: Duration = Duration::from_millis(1);

/// A request to a microVM that runs, and is not suspended before the request is answered.
#[derive(Debug)]
pub(super) enum Awake {
    /// It is for the app.
    App(Entered),
    /// It is for a shell.
    Shell(Pass, Underway),
}

/// A request to an app that runs.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) host: Host,
    pub(super) pass: Pass,
    pub(super) limiter: Option<Arc<Limiter>>,
    pub(super) underway: Underway,
    /// Port of the app.
    pub(super) port: u16,
    /// Whether the request is a WebSocket handshake.
    pub(super) websocket: bool,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Wakes microVMs, and waits for them.
#[derive(Debug)]
pub(super) struct Wake {
    microvms: Microvms,
    wait_limits: WaitLimits,
    metrics: Metrics,
}

impl Wake {
    /// Wakes these microVMs.
    pub(super) fn new(microvms: Microvms, wait_limits: WaitLimits, metrics: Metrics) -> Self {
        Self { microvms, wait_limits, metrics }
    }

    /// Enters the gate of a request's microVM, or waits at it.
    ///
    /// # Errors
    /// [`ProxyError::Microvm`] if the microVM does not become ready, [`ProxyError::TooMany`] if too many wait for it.
    pub(super) async fn enter(&self, admitted: Admitted) -> Result<Awake, ProxyError> {
        let Admitted { host, to, gate, limiter, underway, .. } = admitted;
        let begun = Instant::now();
        let result = self.microvms.enter(&gate, self.wait_limits).await;
        let took = begun.elapsed();
        if took >= WAIT {
            let outcome = if result.is_ok() { Outcome::Succeeded } else { Outcome::Failed };
            self.metrics.endpoint_waited(outcome, took);
        }
        let pass = result.map_err(|refused| {
            tracing::debug!(microvm = gate.id(), %refused, "a request did not reach its microVM");
            ProxyError::from(refused)
        })?;
        Ok(match to {
            Target::App { port, websocket } => {
                Awake::App(Entered { host, pass, limiter, underway, port, websocket, _checked: Checked })
            }
            Target::Shell => Awake::Shell(pass, underway),
        })
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::microvms::v1::MicrovmState;

    use super::super::tests::{HANDSHAKE, Steps};
    use super::*;
    use crate::lifecycle::microvm::Request as Ask;
    use crate::tokens::Kind;

    #[tokio::test]
    async fn a_suspended_microvm_is_resumed_and_its_app_or_shell_entered() {
        let steps = Steps::new().await;
        steps.host.ask(Ask::Suspend).await;
        steps.host.until(MicrovmState::Suspended).await;
        let Ok(Awake::App(entered)) = steps.awake(&steps.good()).await else { panic!("it is not the app") };
        assert_eq!((entered.port, entered.websocket, entered.pass.gate().counts().0), (8080, false, 1));
        assert_eq!(steps.host.state(), MicrovmState::Running);
        let shell = steps.mint(|grant| (grant.kind, grant.ports) = (Kind::Shell, Vec::new()));
        let request = steps.request(&[&HANDSHAKE[..], &[("x-aws-proxy-auth", &shell)]].concat());
        assert!(matches!(steps.awake(&request).await, Ok(Awake::Shell(..))));
    }

    #[tokio::test]
    async fn a_microvm_that_must_sleep_is_not_reached() {
        let steps = Steps::without_auto_resume().await;
        steps.host.ask(Ask::Suspend).await;
        steps.host.until(MicrovmState::Suspended).await;
        assert_eq!(steps.awake(&steps.good()).await.unwrap_err(), ProxyError::Microvm);
        assert_eq!(steps.host.state(), MicrovmState::Suspended);
    }
}
