//! Ctrl-C.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;

/// SIGINT, which ends the process no more from when this is made.
///
/// What is followed makes it before it shows anything: whoever sees something can end it cleanly.
#[derive(Debug)]
pub(crate) struct Interrupt(Signal);

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let signal = signal(SignalKind::interrupt());
        signal.map(Self).map_err(|error| Failure::failed(format!("cannot listen to Ctrl-C: {error}")))
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        self.0.recv().await;
    }
}
