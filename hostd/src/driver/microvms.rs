//! The handle of all microVMs: launches and requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_proto::store::v1::{ArtifactRecord, MicrovmRecord};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::capacity::Capacity;
use super::context::{Context, MicrovmObserver};
use super::deadlines::Deadlines;
use super::error::{LaunchError, RequestError};
use super::faults::Faults;
use super::mailbox::{self, ClientRequest, TaskChannels};
use super::record::{self, Ids};
use super::task::Task;
use crate::clock::Clock;
use crate::lifecycle::microvm::{Effect, Phase, Request, Rules, Step};
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::records;
use crate::store::{Batch, CommitError, Db, Table};
use crate::usage::{OverLimit, Usage};

/// Configuration of the drivers.
#[derive(Debug, Clone, Copy)]
pub struct DriverConfig {
    /// Memory that the microVMs of one account may have together until they are terminated, by their baselines, in
    /// MiB; unlimited unless given.
    pub max_memory_mib: Option<u64>,
    /// Which behaviour to follow where the documentation and AWS differ.
    pub rules: Rules,
    /// How long terminated microVMs can still be read by clients.
    pub retention: Duration,
    /// How long a suspend waits for exchanges with the app that are under way.
    pub drain: Duration,
    /// Deadlines of effects.
    pub deadlines: Deadlines,
}

/// The drivers of all microVMs. Clones are cheap and share the same drivers.
#[derive(Debug, Clone)]
pub struct Microvms {
    pub(super) context: Arc<Context>,
    running: Arc<Mutex<JoinSet<()>>>,
}

impl Microvms {
    /// Creates drivers without any microVM; [`Self::recover`] adopts those of an earlier daemon. `capacity` is the host's memory for
    /// them, by their baselines.
    #[must_use]
    pub fn new(
        config: DriverConfig,
        capacity: Capacity,
        db: Db,
        clock: Clock,
        platform: Arc<dyn Platform>,
        observer: Arc<dyn MicrovmObserver>,
        faults: Faults,
    ) -> Self {
        let context = Context {
            db,
            clock,
            platform,
            observer,
            capacity,
            usage: Usage::new(config.max_memory_mib),
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

    /// Launches a microVM. Its record (phase LAUNCHING) is stored together with `with` – for example the client token
    /// – and with the drivers' own entries (indices, use of the build); all of it is durable when this returns.
    /// The launch itself happens afterwards.
    ///
    /// # Errors
    /// [`LaunchError`]; in that case nothing was stored.
    pub async fn launch(&self, record: MicrovmRecord, with: Batch) -> Result<(), LaunchError> {
        let context = &self.context;
        let ids = Ids::of(&record)?;
        let share = context.usage.reserve(&record.account, record.memory_mib.into());
        let share = share.map_err(|OverLimit(limit_mib)| LaunchError::Quota {
            account: record.account.clone(),
            limit_mib,
        })?;
        let reservation = context.capacity.reserve(record.memory_mib.into())?;
        // The microVM's entry in `artifact_uses` keeps the files of the build until the microVM has terminated.
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
        self.context.observer.launch_accepted(&record);
        self.spawn(record, |context, record, channels| {
            Task::new(context, (record, ids), None, share, Some(reservation), channels).run(Some(first))
        });
        Ok(())
    }

    /// Sends a request to a microVM's task. An accepted request is durable when this returns, and is carried out
    /// afterwards.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, account: &str, id: &str, request: Request) -> Result<(), RequestError> {
        let not_found = || RequestError::NotFound(id.to_owned());
        let db = &self.context.db;
        let record: MicrovmRecord =
            db.get(Table::Microvms, &records::microvm(account, id))?.ok_or_else(not_found)?;
        let (response, received) = oneshot::channel();
        if record.phase() != Phase::Terminated
            && let Some(mailbox) = self.context.mailbox(id)
            && mailbox.send(ClientRequest { request, response }).await.is_ok()
            && let Ok(result) = received.await
        {
            return result;
        }
        // The microVM's task has finished because the microVM has terminated, or all tasks are being stopped.
        let record: MicrovmRecord =
            db.get(Table::Microvms, &records::microvm(account, id))?.ok_or_else(not_found)?;
        match (record.phase(), request) {
            (Phase::Terminated, Request::Terminate) => Ok(()),
            (Phase::Terminated, _) => Err(RequestError::Terminated(id.to_owned())),
            _ => Err(RequestError::Stopping),
        }
    }

    /// Baseline memory in MiB: the total for microVMs on this host, and what the running ones hold.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        self.context.capacity.figures()
    }

    /// Memory of an account's microVMs that have not ended, by their baselines, in MiB.
    #[must_use]
    pub fn memory_of(&self, account: &str) -> u64 {
        self.context.usage.of(account)
    }

    /// The ids of the microVMs that have not ended, with their accounts.
    #[must_use]
    pub fn owners(&self) -> Vec<(String, String)> {
        let tasks = self.context.tasks.lock().unwrap_or_else(poisoned);
        tasks.iter().map(|(id, task)| (id.clone(), task.gate.account.clone())).collect()
    }

    /// Number of microVMs in each state that clients see, over all accounts, by the state's name.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        self.context.states.lock().unwrap_or_else(poisoned).clone()
    }

    /// Stops all tasks and leaves the microVMs as they are. Effects that would leave something half made are
    /// completed first.
    pub async fn stop(&self) {
        self.context.tasks.lock().unwrap_or_else(poisoned).clear();
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(poisoned));
        while running.join_next().await.is_some() {}
    }

    /// Starts the task of a microVM.
    pub(super) fn spawn<F>(
        &self,
        record: MicrovmRecord,
        task: impl FnOnce(Arc<Context>, MicrovmRecord, TaskChannels) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (id, (handle, channels)) = (record::id(&record).to_owned(), mailbox::open(&record));
        let future = task(Arc::clone(&self.context), record, channels);
        self.context.tasks.lock().unwrap_or_else(poisoned).insert(id, handle);
        let mut running = self.running.lock().unwrap_or_else(poisoned);
        while running.try_join_next().is_some() {}
        running.spawn(future);
    }
}
