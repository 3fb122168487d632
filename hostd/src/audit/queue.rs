//! Lines on their way to the writer: a queue for each account, and one for callers that nobody knows.
//!
//! A queue is bounded in bytes. Where it is full, the calls of its account wait for room, and no others. The writer takes
//! some lines of each queue in turn, and holds the lock only for that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::panics::poisoned;

/// Bytes that an account's lines may take until they are written.
const ACCOUNT: usize = 1 << 20;
/// Bytes that the lines of unknown callers may take until they are written.
const UNKNOWN: usize = 256 << 10;
/// Lines that are taken from one queue before the next one's turn.
const TURN: usize = 64;

/// A line that is to be written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    pub(super) operation: String,
    pub(super) request_id: String,
}

/// A line in a queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) line: Line,
    /// Notified when the line is written, or lost.
    pub(super) written: oneshot::Sender<()>,
    /// The line's room in its queue.
    _room: OwnedSemaphorePermit,
}

/// What the writer has to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) known: Vec<Queued>,
    pub(super) unknown: Vec<Queued>,
    /// Refusals of unknown callers for which there was no room.
    pub(super) skipped: u64,
    /// Notified when everything that was queued before is written and synced. Empty while lines wait.
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// Nothing will come any more.
    pub(super) closed: bool,
}

/// The queues of all accounts.
#[derive(Debug)]
pub(super) struct Queues {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug)]
struct State {
    accounts: HashMap<Arc<str>, Queue>,
    /// The accounts whose queues have lines, next one first.
    order: VecDeque<Arc<str>>,
    unknown: Queue,
    skipped: u64,
    flushes: Vec<oneshot::Sender<()>>,
    closed: bool,
}

#[derive(Debug)]
struct Queue {
    lines: VecDeque<Queued>,
    room: Arc<Semaphore>,
}

impl Queue {
    fn new(bytes: usize) -> Self {
        Self { lines: VecDeque::new(), room: Arc::new(Semaphore::new(bytes)) }
    }

    fn take(&mut self) -> impl Iterator<Item = Queued> {
        self.lines.drain(..self.lines.len().min(TURN))
    }
}

/// Units of room that a line takes.
pub(super) fn size(line: &Line) -> u32 {
    u32::try_from(line.bytes.len().min(ACCOUNT)).unwrap_or(u32::MAX)
}

impl Queues {
    pub(super) fn new() -> Self {
        let state = State {
            accounts: HashMap::new(),
            order: VecDeque::new(),
            unknown: Queue::new(UNKNOWN),
            skipped: 0,
            flushes: Vec::new(),
            closed: false,
        };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(poisoned)
    }

    /// The room of an account's queue.
    pub(super) fn room(&self, account: &str) -> Arc<Semaphore> {
        let mut state = self.lock();
        if let Some(queue) = state.accounts.get(account) {
            return Arc::clone(&queue.room);
        }
        let queue = Queue::new(ACCOUNT);
        let room = Arc::clone(&queue.room);
        state.accounts.insert(account.into(), queue);
        room
    }

    /// Queues a line of an account that has room for it. Returns the notice that it is written.
    pub(super) fn push(
        &self,
        account: &str,
        line: Line,
        room: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<()> {
        let (written, notice) = oneshot::channel();
        let mut state = self.lock();
        let name = state.accounts.get_key_value(account).map(|(name, _)| Arc::clone(name));
        let name = name.unwrap_or_else(|| account.into());
        let queue = state.accounts.entry(Arc::clone(&name)).or_insert_with(|| Queue::new(ACCOUNT));
        queue.lines.push_back(Queued { line, written, _room: room });
        if queue.lines.len() == 1 {
            state.order.push_back(name);
        }
        drop(state);
        self.filled.notify_one();
        notice
    }

    /// Queues a line of an unknown caller, unless there are too many.
    pub(super) fn push_unknown(&self, line: Line) {
        let mut state = self.lock();
        match Arc::clone(&state.unknown.room).try_acquire_many_owned(size(&line)) {
            Ok(room) => {
                let (written, _) = oneshot::channel();
                state.unknown.lines.push_back(Queued { line, written, _room: room });
            }
            Err(_) => state.skipped += 1,
        }
        drop(state);
        self.filled.notify_one();
    }

    /// A notice for when everything that is queued now is written and synced.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (flushed, notice) = oneshot::channel();
        self.lock().flushes.push(flushed);
        self.filled.notify_one();
        notice
    }

    /// Has the writer end when it has written everything.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Waits for work, no longer than `limit`.
    pub(super) fn work(&self, limit: Option<Duration>) -> Work {
        let mut state = self.lock();
        let idle = |state: &mut State| {
            let nothing = state.order.is_empty() && state.unknown.lines.is_empty() && state.skipped == 0;
            nothing && state.flushes.is_empty() && !state.closed
        };
        state = match limit {
            Some(limit) => self.filled.wait_timeout_while(state, limit, idle).unwrap_or_else(poisoned).0,
            None => self.filled.wait_while(state, idle).unwrap_or_else(poisoned),
        };
        let mut work = Work { skipped: std::mem::take(&mut state.skipped), ..Work::default() };
        work.unknown.extend(state.unknown.take());
        for _ in 0..state.order.len() {
            let Some(name) = state.order.pop_front() else { break };
            let Some(queue) = state.accounts.get_mut(&name) else { continue };
            work.known.extend(queue.take());
            if !queue.lines.is_empty() {
                state.order.push_back(name);
            }
        }
        if state.order.is_empty() && state.unknown.lines.is_empty() {
            work.flushes = std::mem::take(&mut state.flushes);
            work.closed = state.closed;
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { bytes: text.into(), operation: "GetMicrovm".into(), request_id: text.into() }
    }

    fn push(queues: &Queues, account: &str, text: &str) -> bool {
        let line = line(text);
        let Ok(room) = queues.room(account).try_acquire_many_owned(size(&line)) else { return false };
        drop(queues.push(account, line, room));
        true
    }

    fn ids(lines: &[Queued]) -> Vec<&str> {
        lines.iter().map(|queued| queued.line.request_id.as_str()).collect()
    }

    #[test]
    fn accounts_take_turns_and_one_that_is_full_does_not_fill_another() {
        let queues = Queues::new();
        for _ in 0..100 {
            assert!(push(&queues, "1", "one"));
        }
        assert!(push(&queues, "2", "two"));
        let work = queues.work(None);
        assert_eq!((work.known.len(), ids(&work.known)[TURN]), (TURN + 1, "two"));
        assert!(push(&queues, "1", &"x".repeat(ACCOUNT / 2)));
        assert!(!push(&queues, "1", &"x".repeat(ACCOUNT / 2)), "lines count until they are written");
        assert!(push(&queues, "2", &"x".repeat(ACCOUNT / 2)));
        drop(work);
        let flush = queues.flush();
        let rest = queues.work(None);
        assert_eq!((rest.known.len(), rest.flushes.len()), (38, 1));
        drop((rest, flush));
        assert!(push(&queues, "1", &"x".repeat(ACCOUNT)));
    }

    #[test]
    fn unknown_callers_have_a_bounded_queue_of_their_own() {
        let queues = Queues::new();
        for _ in 0..1000 {
            queues.push_unknown(line(&"x".repeat(UNKNOWN / 8)));
        }
        assert!(push(&queues, "1", "one"));
        let work = queues.work(None);
        assert_eq!((work.unknown.len(), work.skipped, ids(&work.known)), (8, 992, vec!["one"]));
    }
}
