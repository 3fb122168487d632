//! Suspends a running microVM.
//!
//! ```text
//!  app frozen, ──► saved as a diff over the image's snapshot ──► folder renamed ──────────► process exits, and its
//!  lines taken     (the guest does not run; cancellable)         (committed: no way back)    resources are removed
//!     ▼                ▼
//!  thawed, if the suspend is cancelled or fails
//! ```
//!
//! The app is frozen so that after a resume it does not run before the guest has the current time and its identity;
//! identification also thaws the app. The guest is not quiesced: its page cache is part of the state to restore.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_host::agent::control::Control;
use hearth_host::agent::{Agent, AgentError};
use hearth_host::microvm::process::Process;
use hearth_model::id::MicrovmId;
use hearth_proto::guest::v1::Status;
use hearth_proto::vmm::v1::{ErrorCode, Step};
use hearth_vmm_client::snapshot::{self, Overlay, Take, TakeError};
use hearth_vmm_client::{CONTROL_SOCKET, Client, ClientError};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::error::failed;
use super::exclusive::TURN;
use super::layout::{Keep, Place, remove_folder};
use super::monitors::EXIT_TIMEOUT;
use super::phase::Phase;
use super::running::RunningMicrovm;
use super::timeline::{OperationReport, TimedOperation, Timeline};
use super::{Host, logs};
use crate::disk::DiskError;
use crate::platform::SuspendError;

/// Deadline for the agent to freeze the app. A freeze takes a few seconds at most (hearth-guest,
/// `agent/freezing.rs`).
const FREEZE: Duration = Duration::from_secs(10);
/// How long the host takes lines that the app has written. Lines that are not taken by then are saved with the guest.
const LINES: Duration = Duration::from_secs(2);
/// Pause before a cancellation is retried that came before the save.
const RETRY: Duration = Duration::from_millis(2);

/// Why a running microVM was not suspended. The driver sees it as a [`SuspendError`].
#[derive(Debug, thiserror::Error)]
enum SaveError {
    /// The suspend was cancelled in time.
    #[error("the suspend was cancelled")]
    Cancelled,
    /// The microVM does not run; contains its id.
    #[error("{0} is being suspended already, or gone")]
    Busy(MicrovmId),
    /// The disk has no room for what the microVM has in memory, or its account may take no more.
    #[error("no room for what is in its memory: {0}")]
    NoRoom(#[from] DiskError),
    /// The agent did not freeze the app.
    #[error(transparent)]
    Freeze(#[from] AgentError),
    /// Another thread holds the microVM's folder.
    #[error(transparent)]
    Turn(io::Error),
    /// The thread that saves has panicked.
    #[error(transparent)]
    Thread(#[from] JoinError),
    /// The number of the new state is not greater than that of the state before.
    #[error("state {number} is not later than {from}, which it was made from")]
    NotLater {
        /// Number of the new state.
        number: u64,
        /// Number of the state that the microVM was made from.
        from: u64,
    },
    /// A file operation failed.
    #[error("{what}: {source}")]
    File {
        /// The operation, for the message.
        what: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The monitor or the client could not take the snapshot.
    #[error("saving it: {0}")]
    Take(#[source] TakeError),
}

impl From<SaveError> for SuspendError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Cancelled => Self::Cancelled,
            error => Self::Failed(error.into()),
        }
    }
}

/// Saves the microVM as suspended state `number`, and terminates it.
pub(super) async fn suspend(microvm: &RunningMicrovm, number: u64) -> Result<(), SuspendError> {
    let began = microvm.phase.send_if_modified(|phase| {
        let runs = *phase == Phase::Running;
        if runs {
            microvm.cancel.store(false, Ordering::Release);
            *phase = Phase::Suspending;
        }
        runs
    });
    if !began {
        return Err(SaveError::Busy(microvm.spec.id.clone()).into());
    }
    let mut timeline = Timeline::start();
    let _freezing = microvm.freezing.lock().await;
    // If this future is dropped half-way, the process is left as it is, and its exit is not reported.
    let result = save(microvm, number, &mut timeline).await;
    let succeeded = result.is_ok();
    if !succeeded {
        // The app is thawed before the microVM counts as running again and its hooks are called.
        microvm.thaw().await;
        timeline.done("thaw");
        microvm.phase.send_if_modified(|phase| {
            let goes_on = *phase == Phase::Suspending;
            if goes_on {
                *phase = Phase::Running;
            }
            goes_on
        });
    }
    let report = OperationReport {
        operation: TimedOperation::Suspend,
        microvm: &microvm.spec.id,
        succeeded,
        timeline: &timeline,
    };
    microvm.host.observer.notify(&report);
    Ok(result?)
}

async fn save(microvm: &RunningMicrovm, number: u64, timeline: &mut Timeline) -> Result<(), SaveError> {
    // A disk that this would fill is left alone: no more than the microVM has written to its memory is saved. What cannot
    // be found out is found out by the save.
    let needed = microvm.parts.process.private_memory().unwrap_or_default();
    let _hold = microvm.host.disk.hold(microvm.spec.account.as_str(), needed)?;
    let (mut control, frozen) = freeze(microvm.agent()).await?;
    timeline.done("freeze");
    // Lines that are not taken now stay in the guest.
    let _ = timeout(LINES, logs::taken(&mut control, &frozen)).await;
    timeline.done("logs");
    if microvm.is_cancelled() {
        return Err(SaveError::Cancelled);
    }
    let client = Arc::clone(microvm.parts.microvm.client());
    let (place, base, from) = (microvm.parts.place.clone(), microvm.parts.base.clone(), microvm.parts.from);
    let host = Arc::clone(&microvm.host);
    let taken = spawn_blocking(move || {
        let _turn = host.making.hold(&place.state, TURN).map_err(SaveError::Turn)?;
        take(&client, &place, &base, from, number)
    });
    let taken = taken.await??;
    timeline.done("save");
    timeline.parts("save", &taken);
    microvm.stop_serving();
    let (host, id, place) = (Arc::clone(&microvm.host), microvm.spec.id.clone(), microvm.parts.place.clone());
    host.forget(&id);
    let process = Arc::clone(&microvm.parts.process);
    // From here on the microVM is suspended, whatever happens. Remains are removed with the microVM.
    let _ = spawn_blocking(move || release(&host, &id, &place, &process, number)).await;
    timeline.done("end");
    Ok(())
}

/// Freezes the app. After that the app writes no more lines: the returned status holds the number of the last one.
async fn freeze(agent: &Agent) -> Result<(Control, Status), AgentError> {
    agent.freeze(false, FREEZE).await
}

/// Takes the snapshot, after which the monitor exits on request. Returns the monitor's steps.
fn take(client: &Client, place: &Place, base: &Path, from: u64, number: u64) -> Result<Vec<Step>, SaveError> {
    let file = |what: &'static str| move |source| SaveError::File { what, source };
    if number <= from {
        return Err(SaveError::NotLater { number, from });
    }
    let path = place.overlay(from);
    let overlay = File::open(&path).and_then(|file| Overlay::of(0, &path, &file));
    let overlay = overlay.map_err(file("looking at the overlay"))?;
    if from == 0
        && let Some(states) = place.state.parent()
    {
        // The folder of the microVM must be as durable as what will be in it.
        let synced = File::open(states).and_then(|folder| folder.sync_all());
        synced.map_err(file("making the microVM's folder durable"))?;
    }
    let to = place.suspended(number);
    // No client has been notified of an existing state with this number.
    remove_folder(&to).map_err(file("removing what is in the state's place"))?;
    let take = Take { base: Some(base.to_owned()), overlays: vec![overlay], ..Take::default() };
    match snapshot::suspend(client, &to, &take) {
        Ok(taken) => Ok(taken.saved.steps),
        Err(TakeError::Client(ClientError::Refused { code: ErrorCode::Cancelled, .. })) => {
            Err(SaveError::Cancelled)
        }
        Err(TakeError::Unsettled { path, source }) => {
            // The guest is paused and its state is written, but may not survive a crash of the host. The suspend is
            // undone.
            if remove_folder(&path).is_err() && place.is_suspended(number) {
                return Ok(Vec::new()); // the guest cannot continue: the overlay that it writes to may belong to the state
            }
            let _ = client.resume();
            Err(file("making the suspended state durable")(source))
        }
        // Only the request to exit has failed.
        Err(_) if place.is_suspended(number) => Ok(Vec::new()),
        Err(error) => Err(SaveError::Take(error)),
    }
}

/// Waits for the process to exit, and removes its resources on the host.
fn release(host: &Host, id: &MicrovmId, place: &Place, process: &Process, number: u64) {
    let ended = process.wait(EXIT_TIMEOUT).unwrap_or(false);
    if !ended {
        tracing::warn!(microvm = %id, "the monitor does not exit on request: it is killed");
    }
    let removed = host.end_run(place);
    let tidied = place.tidy(Keep::State(number)).map_err(failed("tidying", &place.state));
    if let Err(error) = removed.and(tidied) {
        tracing::warn!(microvm = %id, %error, "something of a suspended microVM stays until it is removed");
    }
}

/// Cancels the suspend that is under way, as long as it is not committed.
pub(super) async fn cancel(microvm: &RunningMicrovm) {
    let mut phase = microvm.phase.subscribe();
    if *phase.borrow_and_update() != Phase::Suspending {
        return;
    }
    microvm.cancel.store(true, Ordering::Release);
    let socket = microvm.parts.place.run.join(CONTROL_SOCKET);
    loop {
        // A new connection is needed: the one that requested the save waits for its result.
        let socket = socket.clone();
        let cancelled =
            spawn_blocking(move || Client::connect(socket).is_ok_and(|client| client.cancel_save().is_ok()));
        if cancelled.await.unwrap_or(false) {
            return;
        }
        // The save has not begun, or all is written already and the suspend is soon over.
        tokio::select! {
            changed = phase.changed() => if changed.is_err() || *phase.borrow_and_update() != Phase::Suspending {
                return;
            },
            () = sleep(RETRY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_host::agent::double::{Fault, served};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_agent_makes_a_suspend_fail_in_time() {
        let (agent, start) = (served(|line| line.strike(Fault::Deaf)), Instant::now());
        assert!(freeze(&agent).await.is_err());
        assert!(start.elapsed() <= FREEZE + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
