//! Ctrl-C, and the other signals that end a program.

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

/// The signals that end a program, which end this one no more from when this is made.
///
/// For what has to put something in order first: a terminal, a file with a secret.
#[derive(Debug)]
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Ending {
    /// Listens from now on.
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

    /// Waits for one of them.
    pub(crate) async fn wait(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
        }
    }
}

/// The exit status of what a signal has ended, as shells count it.
pub(crate) fn ended_by(signal: i32) -> Failure {
    Failure::Ended(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX))
}
