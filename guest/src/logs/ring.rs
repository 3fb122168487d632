//! The records of lines that the host has not stored yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_proto::guest::v1::{LogRecord, LogSource};
use tokio::sync::Notify;

use super::lines::Line;
use hearth_agent_protocol::frame;

/// Default bound in bytes of the lines that are kept.
pub const BOUND: usize = 4 << 20;

/// Bytes that a record takes besides its line.
const OVERHEAD: usize = 96;

/// The records that the host has not stored yet, and their sequence numbers.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<State>,
    bound: usize,
    /// Notified when there are new records.
    news: Notify,
    /// Notified when there is room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<LogRecord>,
    bytes: usize,
    last: u64,
    acknowledged: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new(BOUND)
    }
}

impl Ring {
    /// An empty ring with room for `bound` bytes of records. A line that is longer than the room left is still accepted while there
    /// is any room.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { state: Mutex::default(), bound, news: Notify::new(), room: Notify::new() }
    }

    /// Adds lines, each as soon as there is room for it.
    pub async fn add(&self, source: LogSource, lines: Vec<Line>) {
        let records = lines.into_iter().map(|Line { bytes: line, continues }| {
            let source = source.into();
            LogRecord { source, line, continues, ..LogRecord::default() }
        });
        self.put(records).await;
    }

    /// Adds a line of the agent's own about a process that was killed, as soon as there is room for it.
    pub async fn add_killed(&self, line: String, killed: String) {
        let source = LogSource::Agent.into();
        self.put([LogRecord { source, line: line.into_bytes(), killed, ..LogRecord::default() }].into_iter())
            .await;
    }

    async fn put(&self, records: impl Iterator<Item = LogRecord>) {
        let mut records = records.peekable();
        while records.peek().is_some() {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let added = self.put_what_fits(&mut records);
            if added {
                self.news.notify_waiters();
            }
            if records.peek().is_some() {
                room.await;
            }
        }
    }

    fn put_what_fits(&self, records: &mut impl Iterator<Item = LogRecord>) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        let mut added = false;
        while state.bytes < self.bound {
            let Some(record) = records.next() else { break };
            state.bytes += record.line.len() + OVERHEAD;
            state.last += 1;
            let sequence = state.last;
            state.records.push_back(LogRecord { sequence, timestamp_ns, ..record });
            added = true;
        }
        added
    }

    /// Drops all records up to this one: the host has stored them.
    pub fn acknowledge(&self, sequence: u64) {
        let mut state = self.lock();
        // A record that was never sent cannot have been stored.
        let sequence = sequence.min(state.last);
        while let Some(record) = state.records.pop_front_if(|record| record.sequence <= sequence) {
            state.bytes -= record.line.len() + OVERHEAD;
        }
        state.acknowledged = state.acknowledged.max(sequence);
        if state.records.is_empty() {
            // An idle guest's memory is in every snapshot.
            state.records = VecDeque::new();
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Appends frames of the records after `cursor` to `buffer` until it has `limit` bytes, and moves the cursor. Waits until
    /// there is such a record.
    pub async fn next(&self, cursor: &mut u64, buffer: &mut Vec<u8>, limit: usize) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            self.append(cursor, buffer, limit);
            if !buffer.is_empty() {
                return;
            }
            news.await;
        }
    }

    fn append(&self, cursor: &mut u64, buffer: &mut Vec<u8>, limit: usize) {
        let state = self.lock();
        let first = state.records.partition_point(|record| record.sequence <= *cursor);
        for record in state.records.range(first..) {
            if buffer.len() >= limit {
                break;
            }
            // No line is as long as the longest message.
            let _ = frame::append(buffer, record);
            *cursor = record.sequence;
        }
    }

    /// Sequence number of the newest record, and of the newest that the host has stored.
    pub fn sequences(&self) -> (u64, u64) {
        let state = self.lock();
        (state.last, state.acknowledged)
    }

    /// Whether lines wait for room.
    pub fn is_full(&self) -> bool {
        self.lock().bytes >= self.bound
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
