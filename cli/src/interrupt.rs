//! Handling of Ctrl-C, and of other signals that terminate a program.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;

/// Handler of SIGINT, which does not terminate the process any more once this exists.
///
/// Commands that follow something create it before they print anything, so that Ctrl-C always ends them cleanly.
#[derive(Debug)]
pub(crate) struct Interrupt(Signal);

impl Interrupt {
    /// Starts to listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let signal = signal(SignalKind::interrupt());
        signal.map(Self).map_err(|error| Failure::failed(format!("cannot listen to Ctrl-C: {error}")))
    }

    /// Waits for SIGINT.
    pub(crate) async fn wait(&mut self) {
        self.0.recv().await;
    }
}

/// Handler of the signals that terminate a program; they do not terminate this one any more once this exists.
///
/// For commands that have to clean up first: a terminal, a file with a secret.
#[derive(Debug)]
pub(crate) struct TerminationSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl TerminationSignals {
    /// Starts to listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for one of the signals.
    pub(crate) async fn wait(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
        }
    }
}

/// The exit status after termination by a signal, as in shells.
pub(crate) fn terminated_by(signal: i32) -> Failure {
    Failure::Ended(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX))
}
