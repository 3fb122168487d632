//! Pages of a group, in order of time across its streams.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hearth_proto::host::v1 as proto;

use super::cursor::{Backward, Forward, Item};
use super::error::LogError;
use super::filter::Filter;
use super::list::{blocking, folders, time};
use super::record::{Record, Source};
use super::writer::nanoseconds;
use super::{Logs, names};
use crate::clock::timestamp;

/// Most bytes of a page: what its lines take as JSON in an answer of CloudWatch Logs. A single line may have more.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes that an event takes beside its message and the name of its stream.
const EVENT_BYTES: usize = 170;
/// Bytes that are searched for one page; then the page is complete with what was found, and the next one continues.
const PAGE_SCAN: u64 = 64 << 20;
/// Time for which is searched for one page.
const PAGE_TIME: Duration = Duration::from_secs(2);
/// Size of the buffers of all streams together, unless there are so many streams that the smallest buffers exceed it.
const BUFFERS: usize = 8 << 20;
const BUFFER: (usize, usize) = (4 << 10, 64 << 10);

/// Text of the line that stands for lines that cannot be read.
const DAMAGE: &str = "[hearth] lines are missing here: a log file is damaged";

/// Which lines to read.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The streams.
    pub streams: Streams,
    /// Only lines from this time on.
    pub start: Option<SystemTime>,
    /// Only lines before this time.
    pub end: Option<SystemTime>,
    /// Only lines that contain this text, of at most 1024 bytes.
    pub contains: Option<String>,
    /// Only lines that match this [`pattern`](super::pattern).
    pub pattern: Option<String>,
    /// Most lines of a page. A page may have fewer lines, or none, although more exist: see [`Page::next`].
    pub limit: usize,
    /// Only lines after this position or, where the query goes backward, only lines up to it.
    pub at: Option<Position>,
    /// Whether the last lines are read first.
    pub backward: bool,
}

/// Streams of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Streams {
    /// All.
    #[default]
    All,
    /// Those with these names.
    Named(Vec<String>),
    /// Those whose names begin with this.
    Prefix(String),
}

/// A line of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Stream.
    pub stream: Arc<str>,
    /// Time of the line.
    pub time: SystemTime,
    /// Who wrote the line.
    pub source: Source,
    /// The line without its end; any bytes.
    pub message: Vec<u8>,
    /// Position of the line in its group.
    pub position: Position,
}

/// A line's position in its group. It stays valid while lines are added and removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    time: u64,
    stream: u64,
}

/// A page of lines.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The lines, oldest first.
    pub events: Vec<LogEvent>,
    /// Position at which the next page in the direction of the query begins; `None` if everything has been read.
    pub next: Option<Position>,
    /// Position after which the lines after this page are, also those that are written later.
    pub after: Position,
    /// Position up to which the lines before this page are.
    pub before: Position,
}

impl Position {
    /// The position as bytes, for a cursor.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.time.to_be_bytes());
        bytes[8..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    /// The position before this one.
    fn previous(self) -> Self {
        Self::from_bytes(u128::from_be_bytes(self.to_bytes()).saturating_sub(1).to_be_bytes())
    }

    /// 56 digits, which grow with the position: the form of CloudWatch's event ids.
    fn id(self) -> String {
        format!("{:056}", u128::from_be_bytes(self.to_bytes()))
    }

    /// Converts the result of [`Self::to_bytes`] back.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
        Self { time: half(number >> 64), stream: half(number) }
    }
}

impl From<LogEvent> for proto::LogEvent {
    fn from(event: LogEvent) -> Self {
        let message = match String::from_utf8(event.message) {
            Ok(message) => message,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Self {
            log_stream: event.stream.to_string(),
            timestamp: Some(timestamp(event.time)),
            source: event.source.name().to_owned(),
            message,
            id: event.position.id(),
        }
    }
}

impl Logs {
    /// Lines of a group's streams in order of time, and of the streams' hashes where times are equal.
    ///
    /// Lines that are added later with earlier times – of a microVM that the daemon had lost sight of – are not found
    /// after a position that is past them.
    ///
    /// # Errors
    /// [`LogError::NoGroup`] and [`LogError::NoStream`]; [`LogError::Filter`] and [`LogError::Pattern`];
    /// [`LogError::Busy`]; [`LogError::Open`] or [`LogError::Read`] if files cannot be read. A damaged file is no error: forward, a line of
    /// the platform reports that lines are missing.
    pub async fn read(&self, account: &str, group: &str, query: Query) -> Result<Page, LogError> {
        let filter = Filter::new(query.contains.as_deref(), query.pattern.as_deref())?;
        let (folder, group) = (self.shared.existing_group(account, group)?, group.to_owned());
        blocking(&self.shared.turns.of(account), move || {
            let streams = query.streams.find(&folder, &group)?;
            match query.backward {
                false => forward(streams, &query, &filter),
                true => backward(streams, &query, &filter),
            }
        })
        .await
    }
}

impl Streams {
    /// The streams' names and folders.
    fn find(&self, folder: &Path, group: &str) -> Result<Vec<(String, PathBuf)>, LogError> {
        match self {
            Self::All => Ok(folders(folder)?.collect()),
            Self::Prefix(prefix) => {
                Ok(folders(folder)?.filter(|(name, _)| name.starts_with(prefix)).collect())
            }
            Self::Named(names) => {
                let mut found = BTreeMap::new();
                for name in names {
                    let stream = folder.join(names::file_name(name)?);
                    if !stream.is_dir() {
                        return Err(LogError::NoStream { group: group.to_owned(), stream: name.clone() });
                    }
                    found.insert(name.clone(), stream);
                }
                Ok(found.into_iter().collect())
            }
        }
    }
}

/// What a page has room for.
struct Room {
    lines: usize,
    bytes: usize,
    scan: u64,
    since: Instant,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { lines: limit.max(1), bytes: PAGE_BYTES, scan: PAGE_SCAN, since: Instant::now() }
    }

    /// Whether another line may be looked at.
    fn is_left(&self) -> bool {
        self.lines > 0 && self.bytes > 0 && self.scan > 0 && self.since.elapsed() < PAGE_TIME
    }

    /// Makes room for a line; returns false if there is none. The first line has room whatever its size.
    fn take(&mut self, event: &LogEvent) -> bool {
        let size = EVENT_BYTES + event.stream.len() + json_bytes(&event.message);
        if size > self.bytes && self.bytes < PAGE_BYTES {
            return false;
        }
        self.lines -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        true
    }
}

/// Bytes of a message as a JSON string.
fn json_bytes(message: &[u8]) -> usize {
    // A byte that is no UTF-8 becomes a character of three bytes.
    let other = if std::str::from_utf8(message).is_ok() { 1 } else { 3 };
    let bytes = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        0x20..0x80 => 1,
        0x80.. => other,
    };
    message.iter().map(bytes).sum()
}

/// The position where a page begins whose query says nothing about it: before the first line that is wanted.
fn beginning(query: &Query) -> Position {
    let before = query.start.map_or(0, |start| nanoseconds(start).saturating_sub(1));
    Position { time: before, stream: if before == 0 { 0 } else { u64::MAX } }
}

fn forward(streams: Vec<(String, PathBuf)>, query: &Query, filter: &Filter) -> Result<Page, LogError> {
    let start = query.start.map(nanoseconds).and_then(|start| start.checked_sub(1));
    let end = query.end.map_or(u64::MAX, nanoseconds);
    let chunk = chunk(streams.len());
    // The next item of each stream, in order: the first one is taken, and replaced by its successor.
    let mut next = BTreeSet::new();
    let mut cursors = Vec::with_capacity(streams.len());
    for (name, folder) in streams {
        let hash = names::hash(&name);
        // Lines with the same time as the position are past it or not depending on the stream's hash.
        let after = query.at.and_then(|at| match hash <= at.stream {
            true => Some(at.time),
            false => at.time.checked_sub(1),
        });
        let after = start.max(after);
        if after.is_some() && Backward::new(folder.clone(), BUFFER.0)?.peek()? <= after {
            continue; // the stream ended before, as most streams of a large group
        }
        let mut cursor = Forward::new(folder, after, chunk);
        if let Some(time) = cursor.peek()?.filter(|&time| time < end) {
            next.insert((time, hash, cursors.len()));
        }
        cursor.scanned(); // finding the place is not counted, so that every page makes progress
        cursors.push((Arc::<str>::from(name), cursor));
    }
    let mut room = Room::new(query.limit);
    let begun = query.at.unwrap_or_else(|| beginning(query));
    let mut page = Page { after: begun, before: begun, ..Page::default() };
    while let Some((time, hash, index)) = next.first().copied() {
        if !room.is_left() {
            page.next = Some(page.after);
            break;
        }
        next.pop_first();
        let position = Position { time, stream: hash };
        let Some((name, cursor)) = cursors.get_mut(index) else { break };
        let event = cursor.next(|item| match item {
            Item::Line(record) => filter.matches(record.message).then(|| event(name, position, &record)),
            Item::Damage(_) => Some(missing(name, position)),
        })?;
        if let Some(event) = event.flatten() {
            if !room.take(&event) {
                page.next = Some(page.after);
                break;
            }
            page.events.push(event);
        }
        page.after = position;
        room.scan = room.scan.saturating_sub(cursor.scanned());
        if let Some(time) = cursor.peek()?.filter(|&time| time < end) {
            next.insert((time, hash, index));
        }
    }
    if let Some(first) = page.events.first() {
        page.before = first.position.previous();
    }
    Ok(page)
}

fn backward(streams: Vec<(String, PathBuf)>, query: &Query, filter: &Filter) -> Result<Page, LogError> {
    let start = query.start.map_or(0, nanoseconds);
    let last = query.end.map_or(Some(u64::MAX), |end| nanoseconds(end).checked_sub(1));
    let chunk = chunk(streams.len());
    // The previous line of each stream, in order: the last one is taken, and replaced by its predecessor.
    let mut previous = BTreeSet::new();
    let mut cursors = Vec::with_capacity(streams.len());
    for (name, folder) in streams {
        let hash = names::hash(&name);
        let up_to = match query.at {
            Some(at) if hash <= at.stream => Some(at.time),
            Some(at) => at.time.checked_sub(1),
            None => Some(u64::MAX),
        };
        let Some(last) = last.and_then(|last| Some(last.min(up_to?))) else { continue };
        let mut cursor = Backward::up_to(folder, last, chunk)?;
        if let Some(time) = cursor.peek()?.filter(|&time| time >= start) {
            previous.insert((time, hash, cursors.len()));
        }
        cursor.scanned(); // as above
        cursors.push((Arc::<str>::from(name), cursor));
    }
    let mut room = Room::new(query.limit);
    let begun = query.at.unwrap_or_else(|| match previous.last() {
        Some(&(time, stream, _)) => Position { time, stream },
        None => beginning(query),
    });
    let mut page = Page { after: begun, before: begun, ..Page::default() };
    while let Some((time, hash, index)) = previous.last().copied() {
        if !room.is_left() {
            page.next = Some(page.before);
            break;
        }
        previous.pop_last();
        let position = Position { time, stream: hash };
        let Some((name, cursor)) = cursors.get_mut(index) else { break };
        let event =
            cursor.next(|record| filter.matches(record.message).then(|| event(name, position, &record)))?;
        if let Some(event) = event.flatten() {
            if !room.take(&event) {
                page.next = Some(page.before);
                break;
            }
            page.events.push(event);
        }
        page.before = position.previous();
        room.scan = room.scan.saturating_sub(cursor.scanned());
        if let Some(time) = cursor.peek()?.filter(|&time| time >= start) {
            previous.insert((time, hash, index));
        }
    }
    page.events.reverse();
    if let Some(last) = page.events.last() {
        page.after = last.position;
    }
    Ok(page)
}

/// Size of each stream's buffer when this many streams are read.
pub(super) fn chunk(streams: usize) -> usize {
    (BUFFERS / streams.max(1)).clamp(BUFFER.0, BUFFER.1)
}

/// Converts a stored line for the caller.
pub(super) fn event(stream: &Arc<str>, position: Position, record: &Record<'_>) -> LogEvent {
    let (source, message) = (record.source, record.message.to_vec());
    LogEvent { stream: Arc::clone(stream), time: time(position.time), source, message, position }
}

/// The line that stands for lines that cannot be read.
pub(super) fn missing(stream: &Arc<str>, position: Position) -> LogEvent {
    let (source, message) = (Source::Platform, DAMAGE.as_bytes().to_vec());
    LogEvent { stream: Arc::clone(stream), time: time(position.time), source, message, position }
}

impl Position {
    pub(super) fn of(time: u64, stream: u64) -> Self {
        Self { time, stream }
    }
}
