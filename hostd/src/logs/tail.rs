//! The last lines of a group, and new lines as they arrive.
//!
//! A follower is notified which streams have changed, without the lines themselves; it reads the files later. A slow
//! follower delays no writer, and costs only the names of the streams that it has not read yet.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use tokio::sync::Notify;

use super::cursor::{Backward, Forward, Item};
use super::error::LogError;
use super::filter::Filter;
use super::list::{blocking, folders};
use super::read::{LogEvent, Position, chunk, event, missing};
use super::{AccountTurns, Group, Logs, lock, names};

/// Most lines, and most bytes of lines, that are read from one stream before the next stream's turn.
const TURN: (usize, usize) = (256, 256 << 10);
/// Bytes that a line takes besides its message.
const OVERHEAD: usize = 128;
/// Most bytes of lines that are read before the client has taken them.
const MOST_READY: usize = 1 << 20;
/// Most last lines that a client can request, and most bytes of them together.
const MOST_LAST: (usize, usize) = (10_000, 8 << 20);
/// Most bytes that are searched for the last lines.
const LAST_SCAN: u64 = 64 << 20;
/// Number of remembered streams from which on removed streams are forgotten.
const PLACES: usize = 4096;

/// A client that follows a group.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// Streams to which lines were appended since they were read last.
    changed: Mutex<HashSet<Arc<str>>>,
    wake: Notify,
}

impl Group {
    /// Notifies the followers of the group of a new line in a stream.
    pub(super) fn notify(&self, stream: &Arc<str>) {
        lock(&self.followers).retain(|follower| {
            let Some(follower) = follower.upgrade() else { return false };
            lock(&follower.changed).insert(Arc::clone(stream));
            follower.wake.notify_one();
            true
        });
    }
}

/// The state of following a group, or one of its streams.
struct Tail {
    group: Arc<Group>,
    follower: Arc<Follower>,
    /// Turns at reading files.
    turns: AccountTurns,
    only: Option<String>,
    filter: Filter,
    /// Where reading continues in each stream; a stream that is missing here is read from its beginning.
    places: HashMap<Arc<str>, Forward>,
    /// Lines that were read but not taken yet.
    ready: VecDeque<LogEvent>,
}

impl Logs {
    /// Returns the last `last` lines of a group or of one of its streams (at most 10,000, and 8 MiB), in order of
    /// time, and then each new line as it arrives: no line is lost or repeated. Neither group nor stream need exist
    /// yet. New lines are in order of time as far as they are read together; within a stream, always.
    ///
    /// The stream ends with an error if files cannot be read.
    ///
    /// # Errors
    /// [`LogError::Name`], [`LogError::Filter`]; [`LogError::Busy`]; [`LogError::Open`] or [`LogError::Read`] if files cannot be read.
    pub async fn tail(
        &self,
        account: &str,
        group: &str,
        stream: Option<&str>,
        contains: Option<&str>,
        last: usize,
    ) -> Result<impl Stream<Item = Result<LogEvent, LogError>> + Send + 'static + use<>, LogError> {
        let filter = Filter::new(contains, None)?;
        let group = self.shared.group(account, group)?;
        if let Some(stream) = stream {
            names::file_name(stream)?;
        }
        // Lines that are appended from here on cause notifications; earlier ones are read below.
        let follower = Arc::<Follower>::default();
        lock(&group.followers).push(Arc::downgrade(&follower));
        let mut tail = Tail {
            group,
            follower,
            turns: self.shared.turns.of(account),
            only: stream.map(str::to_owned),
            filter,
            places: HashMap::new(),
            ready: VecDeque::new(),
        };
        let turns = tail.turns.clone();
        let tail = blocking(&turns, move || {
            tail.begin(last.min(MOST_LAST.0))?;
            Ok(tail)
        })
        .await?;
        Ok(futures_util::stream::unfold(Some(tail), |tail| async move {
            match tail?.next().await {
                Ok((event, tail)) => Some((Ok(event), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl Tail {
    /// Records where all streams end, and prepares the last lines before that.
    fn begin(&mut self, last: usize) -> Result<(), LogError> {
        let streams: Vec<(String, PathBuf)> = match &self.only {
            Some(name) => vec![(name.clone(), self.group.folder.join(names::file_name(name)?))],
            None => folders(&self.group.folder)?.collect(),
        };
        let chunk = chunk(streams.len());
        let mut cursors = Vec::with_capacity(streams.len());
        // The newest unread line of each stream: the newest of all is taken, and replaced by its predecessor.
        let mut newest = BTreeSet::new();
        for (name, folder) in streams {
            let (name, hash) = (Arc::<str>::from(name.as_str()), names::hash(&name));
            let mut cursor = Backward::new(folder.clone(), chunk)?;
            self.places.insert(Arc::clone(&name), Forward::at(folder, cursor.end(), chunk));
            if let Some(time) = cursor.peek()? {
                newest.insert((time, hash, cursors.len()));
            }
            cursors.push((name, cursor));
        }
        let (mut bytes, mut scanned) = (0, 0);
        while self.ready.len() < last && bytes < MOST_LAST.1 && scanned < LAST_SCAN {
            let Some((time, hash, index)) = newest.pop_last() else { break };
            let Some((name, cursor)) = cursors.get_mut(index) else { break };
            let position = Position::of(time, hash);
            let filter = &self.filter;
            let found = cursor
                .next(|record| filter.matches(record.message).then(|| event(name, position, &record)))?;
            if let Some(event) = found.flatten() {
                bytes += event.message.len() + OVERHEAD;
                self.ready.push_front(event);
            }
            scanned += cursor.scanned();
            if let Some(time) = cursor.peek()? {
                newest.insert((time, hash, index));
            }
        }
        Ok(())
    }

    async fn next(mut self) -> Result<(LogEvent, Self), LogError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok((event, self));
            }
            let changed = std::mem::take(&mut *lock(&self.follower.changed));
            if changed.is_empty() {
                self.follower.wake.notified().await;
                continue;
            }
            let turns = self.turns.clone();
            self = blocking(&turns, move || {
                self.read(changed)?;
                Ok(self)
            })
            .await?;
        }
    }

    /// Prepares new lines of these streams.
    fn read(&mut self, changed: HashSet<Arc<str>>) -> Result<(), LogError> {
        let chunk = chunk(changed.len());
        let mut found = Vec::new();
        let mut total = 0;
        let mut changed = changed.into_iter();
        for name in changed.by_ref() {
            if self.only.as_deref().is_some_and(|only| *only != *name) {
                continue;
            }
            let folder = self.group.folder.join(names::file_name(&name)?);
            let place = self.places.entry(Arc::clone(&name));
            let cursor = place.or_insert_with(|| Forward::new(folder, None, chunk));
            let hash = names::hash(&name);
            let (mut lines, mut bytes) = (0, 0);
            while let Some(time) = cursor.peek()? {
                if lines >= TURN.0 || bytes >= TURN.1 {
                    // The stream has more lines.
                    lock(&self.follower.changed).insert(Arc::clone(&name));
                    break;
                }
                let position = Position::of(time, hash);
                let filter = &self.filter;
                let event = cursor.next(|item| match item {
                    Item::Line(record) => (
                        record.message.len(),
                        filter.matches(record.message).then(|| event(&name, position, &record)),
                    ),
                    Item::Damage(_) => (0, Some(missing(&name, position))),
                })?;
                let Some((length, event)) = event else { continue };
                (lines, bytes) = (lines + 1, bytes + length + OVERHEAD);
                found.extend(event);
            }
            total += bytes;
            if total >= MOST_READY {
                break;
            }
        }
        lock(&self.follower.changed).extend(changed);
        found.sort_unstable_by_key(|event| event.position);
        self.ready.extend(found);
        if self.places.len() > PLACES {
            // A stream that is created again is read from its beginning.
            self.places.retain(|_, cursor| cursor.folder().is_dir());
        }
        Ok(())
    }
}
