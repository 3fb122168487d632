//! How an exchange of the endpoint comes to a microVM: through its gate, after a resume if it has to be.

use std::sync::Arc;

use tokio::time::timeout;

use super::error::RequestError;
use super::gate::{Door, Gate, Pass, Patience, Refused};
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
    /// [`Refused`].
    pub async fn enter(&self, gate: &Arc<Gate>, patience: Patience) -> Result<Pass, Refused> {
        if let Some(pass) = gate.pass() {
            return Ok(pass);
        }
        let _waiting = gate.wait(patience.held)?;
        let limit = gate.resume_hook.saturating_add(patience.beside_hook);
        timeout(limit, self.wake(gate, patience)).await.unwrap_or(Err(Refused::TooLong(limit)))
    }

    async fn wake(&self, gate: &Arc<Gate>, patience: Patience) -> Result<Pass, Refused> {
        let mut doors = gate.door.subscribe();
        let mut asked = false;
        loop {
            let door = doors.borrow_and_update().clone();
            match door {
                Door::Open(_) => {
                    if let Some(pass) = gate.pass() {
                        return Ok(pass);
                    }
                }
                Door::Opening { first: true } if !patience.launching => return Err(Refused::Launching),
                Door::Opening { .. } => {}
                Door::Closing | Door::Closed(_) if !gate.auto_resume => return Err(Refused::Asleep),
                Door::Closed(Some(why)) if asked => return Err(Refused::NotResumed(why)),
                Door::Closing | Door::Closed(_) => {
                    asked = true;
                    match self.request(&gate.account, &gate.id, Request::Resume).await {
                        // A conflict has passed when the door changes.
                        Ok(()) | Err(RequestError::Conflict { .. }) => {}
                        Err(RequestError::NotFound(_) | RequestError::Terminated(_)) => {
                            return Err(Refused::Gone);
                        }
                        Err(error) => return Err(Refused::NotResumed(error.to_string())),
                    }
                }
                Door::Gone => return Err(Refused::Gone),
            }
            if doors.changed().await.is_err() {
                return Err(Refused::Gone);
            }
        }
    }
}
