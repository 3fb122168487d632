//! A task per microVM that executes what its state machine says, and recovery.
//!
//! * [`task`] – the task of one microVM; [`context`] – what all tasks share, and whom they tell
//! * [`recover`] – the start of the daemon; [`retention`] – what is removed some time after its end
//! * [`record`] – between records, states and the platform
//! * [`gate`] – what the endpoint knows of a microVM, and its task of the endpoint
//! * [`deadlines`] – how long each effect has
//! * [`capacity`] – the host's memory; [`faults`] – points at which a crash is tried out

pub mod capacity;
pub mod context;
pub mod deadlines;
pub mod faults;
pub mod gate;
pub mod record;
pub mod recover;
pub mod retention;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_proto::store::v1::{ArtifactRecord, MicrovmRecord};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::lifecycle::microvm::{Effect, Phase, Rules, Step};
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::records;
use crate::store::{Batch, CommitError, Db, StoreError, Table};
use capacity::Capacity;
use context::{Context, Handle, Observer};
use deadlines::Deadlines;
use faults::Faults;
use gate::Gate;
use task::{Asked, Task};

/// Requests that wait for a microVM's task; further ones wait outside.
const MAILBOX: usize = 64;

/// The task's ends of what others reach it by.
struct Ends {
    mailbox: mpsc::Receiver<Asked>,
    gate: Arc<Gate>,
}

/// What a client asks of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// SuspendMicrovm.
    Suspend,
    /// ResumeMicrovm.
    Resume,
    /// TerminateMicrovm.
    Terminate,
}

/// Why a microVM was not launched. Nothing of it is left.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// An expectation of the batch did not hold: the client token was used meanwhile, or the version is gone.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The host is full.
    #[error("the host has no room for {needed_mib} MiB: {free_mib} MiB of its capacity are free")]
    Capacity {
        /// What it takes.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Why a request was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// There is no such microVM in the account.
    #[error("Unable to find microvmIdentifier {0}")]
    NotFound(String),
    /// It is terminating or terminated.
    #[error("The MicroVM {0} has been terminated and its state cannot be changed.")]
    Terminated(String),
    /// Its state does not allow it.
    #[error("The MicroVM {id} is in state {state}; {hint}")]
    Conflict {
        /// Which.
        id: String,
        /// Its state, like `PENDING`.
        state: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The host is full, so that it cannot be resumed.
    #[error("the host has no room for {needed_mib} MiB: {free_mib} MiB of its capacity are free")]
    Capacity {
        /// What it takes.
        needed_mib: u64,
        /// What is free.
        free_mib: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What drivers are made with.
#[derive(Debug, Clone, Copy)]
pub struct DriverConfig {
    /// What microVMs may have of the host's memory, by their baselines, in MiB.
    pub capacity_mib: u64,
    /// Where the documentation and AWS differ.
    pub rules: Rules,
    /// How long microVMs that have ended can still be asked for.
    pub retention: Duration,
    /// How long a suspend waits for exchanges with the app that are under way.
    pub drain: Duration,
    /// How long what is done for a microVM may take.
    pub deadlines: Deadlines,
}

/// The drivers of all microVMs. Copies are cheap and reach the same.
#[derive(Debug, Clone)]
pub struct Microvms {
    context: Arc<Context>,
    running: Arc<Mutex<JoinSet<()>>>,
}

impl Microvms {
    /// Drivers without any microVM yet; [`Self::recover`] brings back those of an earlier daemon.
    #[must_use]
    pub fn new(
        config: DriverConfig,
        db: Db,
        clock: Clock,
        platform: Arc<dyn Platform>,
        observer: Arc<dyn Observer>,
        faults: Faults,
    ) -> Self {
        let context = Context {
            db,
            clock,
            platform,
            observer,
            capacity: Capacity::new(config.capacity_mib),
            rules: config.rules,
            faults,
            retention: config.retention,
            drain: config.drain,
            deadlines: config.deadlines,
            states: Mutex::default(),
            tasks: Mutex::default(),
        };
        Self { context: Arc::new(context), running: Arc::default() }
    }

    /// Launches a microVM: its record (phase LAUNCHING) is stored together with `with` – the client token, say – and what the
    /// drivers keep beside it (indices, use of the artifact); durable when this returns. The launch itself goes on afterwards.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing was stored then.
    pub async fn launch(&self, record: MicrovmRecord, with: Batch) -> Result<(), LaunchError> {
        let context = &self.context;
        let reservation = context.capacity.reserve(record.memory_mib.into());
        let reservation = reservation
            .map_err(|full| LaunchError::Capacity { needed_mib: full.needed_mib, free_mib: full.free_mib })?;
        // The files are there until the microVM uses no more of them.
        let artifact = records::artifact(&record.build_id);
        let stored = context.db.get_bytes(Table::Artifacts, &artifact)?.ok_or(LaunchError::Conflict)?;
        if ArtifactRecord::decode(stored.as_slice()).is_ok_and(|artifact| artifact.retired) {
            return Err(LaunchError::Conflict);
        }
        let batch = record::insert(&record).expect_value(Table::Artifacts, artifact, stored).and(with);
        context.faults.at("microvm", "accept", "before-commit").await;
        context.db.commit(batch).await.map_err(|error| match error {
            CommitError::Conflict => LaunchError::Conflict,
            CommitError::Store(error) => LaunchError::Store(error),
        })?;
        context.faults.at("microvm", "accept", "after-commit").await;
        let state = record::state(&record);
        self.context.moved(None, Some(state.visible()));
        let first = Step { state, effect: Some(Effect::Launch) };
        self.context.observer.accepted(&record);
        self.spawn(record, |context, record, ends| {
            Task::new(context, record, None, Some(reservation), ends).run(Some(first))
        });
        Ok(())
    }

    /// Asks something of a microVM. What was accepted is durable when this returns, and happens afterwards.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, account: &str, id: &str, request: Request) -> Result<(), RequestError> {
        let not_found = || RequestError::NotFound(id.to_owned());
        let db = &self.context.db;
        let record: MicrovmRecord =
            db.get(Table::Microvms, &records::microvm(account, id))?.ok_or_else(not_found)?;
        let (answer, answered) = oneshot::channel();
        if record.phase() != Phase::Terminated
            && let Some(mailbox) = self.context.mailbox(id)
            && mailbox.send(Asked { request, answer }).await.is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        // Its task has ended, as it has; or all tasks are ending.
        let record: MicrovmRecord =
            db.get(Table::Microvms, &records::microvm(account, id))?.ok_or_else(not_found)?;
        match (record.phase(), request) {
            (Phase::Terminated, Request::Terminate) => Ok(()),
            (Phase::Terminated, _) => Err(RequestError::Terminated(id.to_owned())),
            _ => Err(RequestError::Stopping),
        }
    }

    /// Baseline memory in MiB: what microVMs may have on this host, and what those that run have.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        self.context.capacity.figures()
    }

    /// How many microVMs clients see in each state, over all accounts, by the state's name.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        self.context.states.lock().unwrap_or_else(poisoned).clone()
    }

    /// Ends all tasks, and leaves the microVMs as they are. What is half made is finished before.
    pub async fn stop(&self) {
        self.context.tasks.lock().unwrap_or_else(poisoned).clear();
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(poisoned));
        while running.join_next().await.is_some() {}
    }

    fn spawn<F>(&self, record: MicrovmRecord, task: impl FnOnce(Arc<Context>, MicrovmRecord, Ends) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (id, gate) = (record::id(&record).to_owned(), Arc::new(Gate::new(&record)));
        let handle = Handle { mailbox: sender, gate: Arc::clone(&gate) };
        let future = task(Arc::clone(&self.context), record, Ends { mailbox, gate });
        self.context.tasks.lock().unwrap_or_else(poisoned).insert(id, handle);
        let mut running = self.running.lock().unwrap_or_else(poisoned);
        while running.try_join_next().is_some() {}
        running.spawn(future);
    }
}
