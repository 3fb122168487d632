//! Waits for a state.

use std::time::Duration;

use hearth_proto::microvms::v1::{GetMicrovmRequest, Microvm, MicrovmState};
use tokio::time::{Instant, sleep};

use super::Context;
use crate::error::Failure;
use crate::names::has_ended;

/// First and longest interval between requests for the state: short at first, because most changes take less than a second.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_millis(500);

impl Context {
    pub(crate) async fn microvm(&self, id: &str) -> Result<Microvm, Failure> {
        let request = GetMicrovmRequest { microvm_identifier: Some(id.to_owned()) };
        self.client.call(format!("get {id}"), self.client.microvms().get_microvm(request)).await
    }

    /// Waits until the microVM is in the state `expected`. If it ends, or has a reason not to get there, that is an error.
    pub(crate) async fn wait(
        &self,
        id: &str,
        expected: MicrovmState,
        limit: Duration,
    ) -> Result<Microvm, Failure> {
        let began = Instant::now();
        let mut pause = SOONEST;
        loop {
            let microvm = self.microvm(id).await?;
            let state = microvm.state();
            if state == expected {
                return Ok(microvm);
            }
            let reason = microvm.state_reason.as_deref();
            // It has ended, or is in its previous state again because a hook refused.
            let stable = state == MicrovmState::Running || state == MicrovmState::Suspended;
            if has_ended(microvm.state) && expected != MicrovmState::Terminated || stable && reason.is_some()
            {
                let reason = reason.unwrap_or("no reason is given");
                return Err(Failure::failed(format!(
                    "{id} is {}, not {}: {reason}; `hearth logs {id}` shows what its app wrote",
                    state.as_str_name(),
                    expected.as_str_name()
                )));
            }
            if began.elapsed() >= limit {
                return Err(Failure::failed(format!(
                    "{id} is still {} after {} s, not {}; wait longer with --wait=DURATION, or look with `hearth get {id}`",
                    state.as_str_name(),
                    limit.as_secs(),
                    expected.as_str_name()
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATEST);
        }
    }
}
