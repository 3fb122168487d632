//! How an exchange of the endpoint comes to a microVM: through its gate, after a resume if it has to be.

use std::sync::Arc;

use tokio::time::timeout;

use super::error::RequestError;
use super::gate::{Gate, GateError, GateState, Pass, WaitLimits};
use super::microvms::Microvms;
use crate::lifecycle::microvm::Request;

impl Microvms {
    /// The gate of a microVM that has not ended.
    #[must_use]
    pub fn gate(&self, id: &str) -> Option<Arc<Gate>> {
        self.context.gate(id)
    }

    /// Passes a gate. If the microVM is suspended and its policy allows it, the microVM is resumed first; a suspend
    /// that is under way is cancelled.
    ///
    /// # Errors
    /// [`GateError`].
    pub async fn enter(&self, gate: &Arc<Gate>, wait_limits: WaitLimits) -> Result<Pass, GateError> {
        if let Some(pass) = gate.pass() {
            return Ok(pass);
        }
        let _waiting = gate.wait(wait_limits.max_waiting)?;
        let limit = gate.resume_hook.saturating_add(wait_limits.beyond_hook);
        timeout(limit, self.wake(gate, wait_limits)).await.unwrap_or(Err(GateError::Timeout(limit)))
    }

    async fn wake(&self, gate: &Arc<Gate>, wait_limits: WaitLimits) -> Result<Pass, GateError> {
        let mut states = gate.state.subscribe();
        let mut requested = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                GateState::Open(_) => {
                    if let Some(pass) = gate.pass() {
                        return Ok(pass);
                    }
                }
                GateState::Opening { first: true } if !wait_limits.launching => {
                    return Err(GateError::Launching);
                }
                GateState::Opening { .. } => {}
                GateState::Closing | GateState::Closed(_) if !gate.auto_resume => {
                    return Err(GateError::Suspended);
                }
                GateState::Closed(Some(why)) if requested => return Err(GateError::ResumeFailed(why)),
                GateState::Closing | GateState::Closed(_) => {
                    requested = true;
                    match self.request(&gate.account, &gate.id, Request::Resume).await {
                        // A conflict has passed when the state changes.
                        Ok(()) | Err(RequestError::Conflict { .. }) => {}
                        Err(RequestError::NotFound(_) | RequestError::Terminated(_)) => {
                            return Err(GateError::Terminated);
                        }
                        Err(error) => return Err(GateError::ResumeFailed(error.to_string())),
                    }
                }
                GateState::Gone => return Err(GateError::Terminated),
            }
            if states.changed().await.is_err() {
                return Err(GateError::Terminated);
            }
        }
    }
}
