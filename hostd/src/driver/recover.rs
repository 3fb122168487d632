//! The start of the daemon: every microVM that has not terminated gets its task, and continues from what is found of
//! it.
//!
//! ```text
//!  record ─► task ─► turn ─► find ─► recovery's step ─┐
//!             ▲                                       ├─► requests in their order, and all else
//!  requests ──┴─ wait ─ (Terminate: 15 s)    ─────────┘
//! ```
//!
//! The tasks search by themselves: neither the start of the daemon nor another microVM waits for a monitor that does not
//! answer. What is counted – memory, states – follows from the records alone. A microVM that is still searched for is what its
//! record says; requests to it wait, a Terminate for [`TERMINATION_GRACE`] at most: an app that is found is told of its end. The
//! end of its lifetime waits no longer than that, too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hearth_model::build::ImageBuild;
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use tokio::time::{Instant, timeout};

use super::context::Context;
use super::deadlines::TERMINATION_GRACE;
use super::error::RequestError;
use super::mailbox::{ClientRequest, MAILBOX, TaskChannels};
use super::microvms::Microvms;
use super::record::{self, Ids};
use super::task::{RETRY, Task, storing};
use crate::lifecycle::microvm::{Request, State, Step};
use crate::lifecycle::recovery::{Remains, recover, suspended_number};
use crate::platform::{Found, Guest, PlatformError, Spec};
use crate::store::{StoreError, Table};
use crate::turns::{Limits, Turns};

/// How many microVMs are searched for at a time. The silent ones of one account leave places to all others.
const SEARCHES: Limits = Limits { places: 32, per_account: 24, waiting: usize::MAX, patience: Duration::MAX };

/// Deadline for finding out what is left of a microVM: a monitor can delay this, and some microVMs cannot be
/// inspected. After the deadline the result is [`Remains::Unknown`].
const FINDING: Duration = Duration::from_secs(120);

/// Why recovery failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The platform could not remove remains of an earlier daemon.
    #[error("removing what an earlier daemon has left and belongs to nothing: {0}")]
    Platform(#[from] PlatformError),
}

impl Microvms {
    /// Starts a task for every microVM that has not terminated, and removes all remains that belong to no microVM. The
    /// tasks search for what is left of their microVMs afterwards. `builds` are the files of builds to keep, in addition
    /// to those that microVMs use.
    ///
    /// # Errors
    /// [`RecoverError`]; in that case no task was started.
    pub async fn recover(&self, mut builds: HashSet<ImageBuild>) -> Result<(), RecoverError> {
        let alive = self.alive()?;
        let mut ids = HashSet::new();
        for (_, Ids { microvm, build }) in &alive {
            ids.insert(microvm.clone());
            builds.insert(build.clone());
        }
        self.context.platform.sweep(&ids, &builds).await?;
        let searches = Turns::new(SEARCHES);
        for (record, ids) in alive {
            self.adopt(record, ids, &searches);
        }
        Ok(())
    }

    /// Starts the task of a microVM of an earlier daemon.
    fn adopt(&self, record: MicrovmRecord, ids: Ids, searches: &Turns) {
        let share = self.context.usage.take(&record.account, record.memory_mib.into());
        let takes = record::state(&record).takes_memory();
        let reservation = takes.then(|| self.context.capacity.take(record.memory_mib.into()));
        let searches = searches.clone();
        self.spawn(record, |context, record, mut channels| async move {
            let search = Search { context: &context, record: &record, ids: &ids };
            let Some(Beginning { step, guest, requests }) = search.begin(&searches, &mut channels).await
            else {
                return; // the daemon stops; the next one searches again
            };
            let takes = step.as_ref().is_some_and(|step| step.state.takes_memory());
            let need = || context.capacity.take(record.memory_mib.into());
            let reservation = reservation.or_else(|| takes.then(need));
            let task = Task::new(Arc::clone(&context), (record, ids), guest, share, reservation, channels);
            task.run_with(step, requests).await;
        });
    }

    /// The microVMs that have not terminated, with their ids. All microVMs are counted by their states.
    fn alive(&self) -> Result<Vec<(MicrovmRecord, Ids)>, StoreError> {
        let mut alive = Vec::new();
        self.context.db.each(Table::Microvms, b"", |key, value| {
            let record: MicrovmRecord = self.context.db.decode(Table::Microvms, &key, &value)?;
            self.context.moved(None, Some(record::state(&record).visible()));
            if record.phase() != Phase::Terminated {
                let damaged = |error| self.context.db.damaged(Table::Microvms, &key, &error);
                let ids = Ids::of(&record).map_err(damaged)?;
                alive.push((record, ids));
            }
            Ok(())
        })?;
        Ok(alive)
    }
}

/// With what a task begins that has searched for its microVM.
struct Beginning {
    /// The step of recovery; none if the microVM is to end, whatever is left of it.
    step: Option<Step>,
    /// The running microVM.
    guest: Option<Arc<dyn Guest>>,
    /// The requests that have waited, in their order.
    requests: Vec<ClientRequest>,
}

/// Waits until a time, if there is one; else for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The search for what is left of a microVM.
struct Search<'a> {
    context: &'a Context,
    record: &'a MicrovmRecord,
    ids: &'a Ids,
}

impl Search<'_> {
    /// Searches when it is the account's turn. None if the daemon stops meanwhile.
    async fn begin(&self, searches: &Turns, channels: &mut TaskChannels) -> Option<Beginning> {
        let state = record::state(self.record);
        let mut requests = Vec::new();
        let search = async {
            let _turn = searches.queue(&self.record.account).await;
            timeout(FINDING, self.look(&state)).await
        };
        let lifetime = storing::lifetime(self.record, state.phase);
        let lifetime_over = async {
            match lifetime {
                Some(time) => self.context.clock.sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(search, lifetime_over);
        let mut lives = true;
        // Once an end is asked for, or the lifetime is over, the search has a while to find the guest, whose app is told of it
        // then.
        let mut patience = None;
        loop {
            let request = tokio::select! {
                found = &mut search => {
                    let (remains, guest) = match found {
                        Ok(Found::Running(guest)) => (Remains::Running, Some(guest)),
                        Ok(Found::Suspended) => (Remains::Suspended, None),
                        Ok(Found::Nothing) => (Remains::Nothing, None),
                        Err(_) => (Remains::Unknown, None),
                    };
                    return Some(Beginning { step: Some(self.step(&state, remains)), guest, requests });
                }
                request = channels.mailbox.recv() => request?,
                () = &mut lifetime_over, if lives => {
                    lives = false;
                    patience.get_or_insert_with(|| Instant::now() + TERMINATION_GRACE);
                    continue;
                }
                () = until(patience) => {
                    // The end kills whatever there is; where the lifetime is over, the task begins it at once. A microVM that was
                    // ending already goes on with that.
                    let ending = matches!(state.phase, Phase::TerminateHook | Phase::Ending);
                    let step = ending.then(|| self.step(&state, Remains::Unknown));
                    return Some(Beginning { step, guest: None, requests });
                }
            };
            let ends = matches!(request.request, Request::Terminate);
            let most = if ends { MAILBOX.saturating_mul(2) } else { MAILBOX };
            if requests.len() >= most {
                let (id, state) = (record::id(self.record).to_owned(), state.visible().as_str_name());
                let hint = "wait until it is found after the restart of the service";
                let _ = request.response.send(Err(RequestError::Conflict { id, state, hint })); // the client may have gone
                continue;
            }
            requests.push(request);
            if ends && patience.is_none() {
                patience = Some(Instant::now() + TERMINATION_GRACE);
            }
        }
    }

    /// The step with which the microVM continues.
    fn step(&self, state: &State, remains: Remains) -> Step {
        let step = recover(state, remains, self.context.rules);
        tracing::info!(
            microvm = record::id(self.record),
            phase = state.phase.as_str_name(),
            ?remains,
            goes_on = step.state.phase.as_str_name(),
            "found a microVM of an earlier daemon"
        );
        step
    }

    /// Looks until something is known, retrying after errors: the next attempt may succeed.
    async fn look(&self, state: &State) -> Found {
        let spec: Spec = record::spec(self.record, self.ids);
        let mut pause = RETRY.0;
        loop {
            match self.context.platform.find(&spec, suspended_number(state)).await {
                Ok(found) => return found,
                Err(error) => {
                    tracing::error!(microvm = %spec.id, %error, "looking for what is left of a microVM, trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}
