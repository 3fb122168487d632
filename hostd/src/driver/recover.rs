//! The start of the daemon: every microVM that has not terminated gets its task, and continues from what is found of
//! it.

use std::collections::HashSet;
use std::time::Duration;

use hearth_model::build::Artifact;
use hearth_proto::store::v1::{MicrovmRecord, Phase};
use prost::Message as _;
use tokio::time::timeout;

use super::task::{RETRY, Task};
use super::{Microvms, record};
use crate::lifecycle::recovery::{Remains, recover, suspended_number};
use crate::platform::{Found, PlatformError, Spec};
use crate::store::{Scan, StoreError, Table};

/// Number of records that are read at a time.
const PAGE: usize = 1000;
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
    /// The record of a microVM cannot be decoded.
    #[error("the record of a microVM is damaged ({0}); restore a backup (`hearthd store restore`)")]
    Record(String),
    /// The platform could not remove remains of an earlier daemon.
    #[error("removing what an earlier daemon has left and belongs to nothing: {0}")]
    Platform(#[from] PlatformError),
}

impl Microvms {
    /// Starts a task for every microVM that has not terminated, and removes all remains that belong to no microVM.
    /// `artifacts` are the files of builds to keep, in addition to those that microVMs use.
    ///
    /// # Errors
    /// [`RecoverError`]; some tasks may run already.
    pub async fn recover(&self, mut artifacts: HashSet<Artifact>) -> Result<(), RecoverError> {
        let alive = self.alive()?;
        let mut ids = HashSet::new();
        for record in &alive {
            ids.insert(record::id(record).to_owned());
            artifacts.insert(record::artifact(record));
        }
        self.context.platform.sweep(&ids, &artifacts).await?;
        let mut records = alive.into_iter();
        let mut finding = tokio::task::JoinSet::new();
        loop {
            while finding.len() < AT_ONCE
                && let Some(record) = records.next()
            {
                let this = self.clone();
                finding.spawn(async move { this.find(record).await });
            }
            match finding.join_next().await {
                Some(Ok(found)) => found?,
                Some(Err(error)) => return Err(RecoverError::Record(error.to_string())),
                None => return Ok(()),
            }
        }
    }

    /// The microVMs that have not terminated. All microVMs are counted by their states.
    fn alive(&self) -> Result<Vec<MicrovmRecord>, RecoverError> {
        let (mut alive, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let scan = Scan { table: Table::Microvms, prefix: b"", after: after.as_deref(), limit: PAGE };
            let page = self.context.db.scan(&scan)?;
            let Some((last, _)) = page.last() else { return Ok(alive) };
            after = Some(last.clone());
            for (key, value) in &page {
                let record = MicrovmRecord::decode(value.as_slice()).map_err(|error| {
                    RecoverError::Record(format!("{}: {error}", String::from_utf8_lossy(key)))
                })?;
                self.context.moved(None, Some(record::state(&record).visible()));
                if record.phase() != Phase::Terminated {
                    alive.push(record);
                }
            }
        }
    }

    /// Looks for the remains of a microVM until they are known, retrying after errors: a microVM that cannot be
    /// inspected must not keep the daemon from starting, and the next attempt may succeed.
    async fn look(&self, spec: &Spec, suspends: u64) -> Found {
        let mut pause = RETRY.0;
        loop {
            match self.context.platform.find(spec, suspends).await {
                Ok(found) => return found,
                Err(error) => {
                    tracing::error!(microvm = spec.id, %error, "looking for what is left of a microVM, trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn find(&self, record: MicrovmRecord) -> Result<(), RecoverError> {
        let state = record::state(&record);
        let found = timeout(FINDING, self.look(&record::spec(&record), suspended_number(&state))).await;
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
        let takes = state.takes_memory() || step.state.takes_memory();
        let reservation = takes.then(|| self.context.capacity.take(record.memory_mib.into()));
        self.spawn(record, |context, record, ends| {
            Task::new(context, record, guest, reservation, ends).run(Some(step))
        });
        Ok(())
    }
}
