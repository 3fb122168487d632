//! State that the tasks of all microVMs share.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_proto::microvms::v1::MicrovmState;
use hearth_proto::store::v1::MicrovmRecord;
use tokio::sync::mpsc;

use super::capacity::Capacity;
use super::deadlines::Deadlines;
use super::faults::Faults;
use super::gate::Gate;
use super::mailbox::{ClientRequest, TaskHandle};
use super::record;
use crate::clock::Clock;
use crate::lifecycle::microvm::{Event, Rules, State};
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::store::Db;
use crate::usage::Usage;

/// A change of a microVM's state.
#[derive(Debug)]
pub struct Change<'a> {
    /// The microVM's record before the change.
    pub before: &'a MicrovmRecord,
    /// The microVM's record after the change; [`crate::lifecycle::microvm::must_be_stored`] decides whether it is
    /// durable.
    pub after: &'a MicrovmRecord,
    /// The machine's state before.
    pub from: &'a State,
    /// The machine's state now.
    pub to: &'a State,
}

/// Receives notifications of changes: events, metrics, images. Its methods must not block.
pub trait MicrovmObserver: Send + Sync + 'static {
    /// A new microVM was stored and is being launched.
    fn launch_accepted(&self, record: &MicrovmRecord);
    /// A microVM's state has changed.
    fn state_changed(&self, change: &Change<'_>);
    /// An effect has finished.
    fn effect_finished(&self, effect: &'static str, outcome: &Event, took: Duration);
    /// A microVM is terminated and no longer uses the files of its build.
    fn terminated(&self, record: &MicrovmRecord);
}

/// Ignores all notifications; for tests and benches.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl MicrovmObserver for NoObserver {
    fn launch_accepted(&self, _: &MicrovmRecord) {}
    fn state_changed(&self, _: &Change<'_>) {}
    fn effect_finished(&self, _: &'static str, _: &Event, _: Duration) {}
    fn terminated(&self, _: &MicrovmRecord) {}
}

/// State that the tasks of all microVMs share.
pub struct Context {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) platform: Arc<dyn Platform>,
    pub(super) observer: Arc<dyn MicrovmObserver>,
    pub(super) capacity: Capacity,
    pub(super) usage: Usage,
    pub(super) rules: Rules,
    pub(super) faults: Faults,
    /// How long terminated microVMs can still be read by clients.
    pub(super) retention: Duration,
    /// Number of microVMs in each state that clients see.
    pub(super) states: Mutex<BTreeMap<&'static str, usize>>,
    /// How long a suspend waits for exchanges that are under way.
    pub(super) drain: Duration,
    /// The deadlines of effects.
    pub(super) deadlines: Deadlines,
    /// The tasks by microVM id.
    pub(super) tasks: Mutex<HashMap<String, TaskHandle>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn retention_ms(&self) -> u64 {
        u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a microVM that went from one visible state to another: from none when it is new, to none when it is
    /// forgotten.
    pub(super) fn moved(&self, from: Option<MicrovmState>, to: Option<MicrovmState>) {
        let mut states = self.states.lock().unwrap_or_else(poisoned);
        if let Some(count) = from.and_then(|from| states.get_mut(from.as_str_name())) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *states.entry(to.as_str_name()).or_default() += 1;
        }
    }

    pub(super) fn mailbox(&self, id: &str) -> Option<mpsc::Sender<ClientRequest>> {
        self.tasks.lock().unwrap_or_else(poisoned).get(id).map(|task| task.mailbox.clone())
    }

    pub(super) fn gate(&self, id: &str) -> Option<Arc<Gate>> {
        self.tasks.lock().unwrap_or_else(poisoned).get(id).map(|task| Arc::clone(&task.gate))
    }

    /// A microVM's task is finished: forgets the task and notifies the observer.
    pub(super) fn task_finished(&self, record: &MicrovmRecord) {
        self.tasks.lock().unwrap_or_else(poisoned).remove(record::id(record));
        self.observer.terminated(record);
    }
}
