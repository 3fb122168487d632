//! The start of the daemon: every microVM that has not terminated gets its task, and continues from what is found of
//! it.

use std::collections::HashSet;
use std::time::Duration;

use hearth_model::build::ImageBuild;
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::microvms::Microvms;
use super::record::{self, Ids};
use super::task::{RETRY, Task};
use crate::lifecycle::recovery::{Remains, recover, suspended_number};
use crate::platform::{Found, PlatformError, Spec};
use crate::store::{StoreError, Table};

/// Number of microVMs whose processes are searched for at a time.
const AT_ONCE: usize = 16;

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
    /// A task that looked for a microVM has ended before its time.
    #[error("looking for what is left of a microVM: {0}")]
    Task(#[from] JoinError),
}

impl Microvms {
    /// Starts a task for every microVM that has not terminated, and removes all remains that belong to no microVM.
    /// `builds` are the files of builds to keep, in addition to those that microVMs use.
    ///
    /// # Errors
    /// [`RecoverError`]; some tasks may run already.
    pub async fn recover(&self, mut builds: HashSet<ImageBuild>) -> Result<(), RecoverError> {
        let alive = self.alive()?;
        let mut ids = HashSet::new();
        for (_, Ids { microvm, build }) in &alive {
            ids.insert(microvm.clone());
            builds.insert(build.clone());
        }
        self.context.platform.sweep(&ids, &builds).await?;
        let mut records = alive.into_iter();
        let mut finding = JoinSet::new();
        loop {
            while finding.len() < AT_ONCE
                && let Some((record, ids)) = records.next()
            {
                let this = self.clone();
                finding.spawn(async move { this.find(record, ids).await });
            }
            match finding.join_next().await {
                Some(found) => found?,
                None => return Ok(()),
            }
        }
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

    /// Looks for the remains of a microVM until they are known, retrying after errors: a microVM that cannot be
    /// inspected must not keep the daemon from starting, and the next attempt may succeed.
    async fn look(&self, spec: &Spec, suspends: u64) -> Found {
        let mut pause = RETRY.0;
        loop {
            match self.context.platform.find(spec, suspends).await {
                Ok(found) => return found,
                Err(error) => {
                    tracing::error!(microvm = %spec.id, %error, "looking for what is left of a microVM, trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Starts the task of a microVM with what is found of it.
    async fn find(&self, record: MicrovmRecord, ids: Ids) {
        let state = record::state(&record);
        let spec = record::spec(&record, &ids);
        let found = timeout(FINDING, self.look(&spec, suspended_number(&state))).await;
        let (remains, guest) = match found {
            Ok(Found::Running(guest)) => (Remains::Running, Some(guest)),
            Ok(Found::Suspended) => (Remains::Suspended, None),
            Ok(Found::Nothing) => (Remains::Nothing, None),
            Err(_) => (Remains::Unknown, None),
        };
        let step = recover(&state, remains, self.context.rules);
        tracing::info!(
            microvm = record::id(&record),
            phase = state.phase.as_str_name(),
            ?remains,
            goes_on = step.state.phase.as_str_name(),
            "found a microVM of an earlier daemon"
        );
        let share = self.context.usage.take(&record.account, record.memory_mib.into());
        let takes = state.takes_memory() || step.state.takes_memory();
        let reservation = takes.then(|| self.context.capacity.take(record.memory_mib.into()));
        self.spawn(record, |context, record, channels| {
            Task::new(context, (record, ids), guest, share, reservation, channels).run(Some(step))
        });
    }
}
