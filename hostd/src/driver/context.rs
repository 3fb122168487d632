//! What the tasks of all microVMs share.

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
use super::record;
use super::task::Asked;
use crate::clock::Clock;
use crate::lifecycle::microvm::{Event, Rules, State};
use crate::panics::poisoned;
use crate::platform::Platform;
use crate::store::Db;

/// A microVM's state has changed.
#[derive(Debug)]
pub struct Change<'a> {
    /// Its record before.
    pub before: &'a MicrovmRecord,
    /// Its record now; what of it is durable says [`crate::lifecycle::microvm::must_be_stored`].
    pub after: &'a MicrovmRecord,
    /// The machine's state before.
    pub from: &'a State,
    /// The machine's state now.
    pub to: &'a State,
}

/// Whom changes are told to: events, metrics, images. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// A new microVM was stored; it is being launched.
    fn accepted(&self, record: &MicrovmRecord);
    /// A state has changed.
    fn changed(&self, change: &Change<'_>);
    /// An effect is over.
    fn done(&self, effect: &'static str, outcome: &Event, took: Duration);
    /// A microVM has ended and uses the files of its build no more.
    fn ended(&self, record: &MicrovmRecord);
}

/// Tells nobody, for tests and benches.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn accepted(&self, _: &MicrovmRecord) {}
    fn changed(&self, _: &Change<'_>) {}
    fn done(&self, _: &'static str, _: &Event, _: Duration) {}
    fn ended(&self, _: &MicrovmRecord) {}
}

/// What the tasks of all microVMs share.
pub struct Context {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) platform: Arc<dyn Platform>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) capacity: Capacity,
    pub(super) rules: Rules,
    pub(super) faults: Faults,
    /// How long microVMs that have ended can still be asked for.
    pub(super) retention: Duration,
    /// How many microVMs clients see in each state.
    pub(super) states: Mutex<BTreeMap<&'static str, usize>>,
    /// How long a suspend waits for exchanges that are under way.
    pub(super) drain: Duration,
    /// How long effects have.
    pub(super) deadlines: Deadlines,
    /// The tasks.
    pub(super) tasks: Mutex<HashMap<String, Handle>>,
}

/// A microVM's task, from outside.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) mailbox: mpsc::Sender<Asked>,
    pub(super) gate: Arc<Gate>,
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

    /// A microVM went from one state to another: from none when it is new, to none when it is forgotten.
    pub(super) fn moved(&self, from: Option<MicrovmState>, to: Option<MicrovmState>) {
        let mut states = self.states.lock().unwrap_or_else(poisoned);
        if let Some(count) = from.and_then(|from| states.get_mut(from.as_str_name())) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            *states.entry(to.as_str_name()).or_default() += 1;
        }
    }

    pub(super) fn mailbox(&self, id: &str) -> Option<mpsc::Sender<Asked>> {
        self.tasks.lock().unwrap_or_else(poisoned).get(id).map(|task| task.mailbox.clone())
    }

    pub(super) fn gate(&self, id: &str) -> Option<Arc<Gate>> {
        self.tasks.lock().unwrap_or_else(poisoned).get(id).map(|task| Arc::clone(&task.gate))
    }

    /// A task is at its end.
    pub(super) fn ended(&self, record: &MicrovmRecord) {
        self.tasks.lock().unwrap_or_else(poisoned).remove(record::id(record));
        self.observer.ended(record);
    }
}
