//! Pages of a group, in order of time across its streams.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hearth_proto::host::v1 as proto;

use super::cursor::{Backward, Forward, Item};
use super::error::LogError;
use super::list::{blocking, folders, time};
use super::record::{Record, Source};
use super::writer::nanoseconds;
use super::{Logs, names};
use crate::clock::timestamp;

/// Bytes of messages after which a page is complete: below the limit of a gRPC message, with room for the rest.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes that are searched for one page; then the page is complete with what was found, and the next one continues.
const PAGE_SCAN: u64 = 64 << 20;
/// Size of the buffers of all streams together, unless there are so many streams that the smallest buffers exceed it.
const BUFFERS: usize = 8 << 20;
const BUFFER: (usize, usize) = (4 << 10, 64 << 10);
/// Longest text that can be searched for.
const LONGEST_FILTER: usize = 1024;

/// Text of the line that stands for lines that cannot be read.
const DAMAGE: &str = "[hearth] lines are missing here: a log file is damaged";

/// Which lines to read.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The stream; none for all streams of the group.
    pub stream: Option<String>,
    /// Only lines from this time on.
    pub start: Option<SystemTime>,
    /// Only lines before this time.
    pub end: Option<SystemTime>,
    /// Only lines that contain this text, of at most 1024 bytes.
    pub contains: Option<String>,
    /// Most lines of a page. A page may have fewer lines, or none, although more exist: see [`Page::next`].
    pub limit: usize,
    /// Only lines after this position.
    pub after: Option<Position>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    time: u64,
    stream: u64,
}

/// A page of lines.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The lines, oldest first.
    pub events: Vec<LogEvent>,
    /// Position after which the next page begins; `None` if everything has been read.
    pub next: Option<Position>,
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
        }
    }
}

impl Logs {
    /// Lines of a group's streams in order of time, and of the streams' hashes where times are equal.
    ///
    /// Lines that are added later with earlier times – a microVM's that the daemon had lost sight of – are not found behind a
    /// Lines that are added later with earlier times – of a microVM that the daemon had lost sight of – are not found
    /// after a position that is past them.
    /// # Errors
    /// [`LogError::NoGroup`] and [`LogError::NoStream`]; [`LogError::Filter`]; [`LogError::Open`] or
    /// [`LogError::Read`] if files cannot be read. A damaged file is no error: a line of the platform reports that
    /// lines are missing.
    pub async fn read(&self, account: &str, group: &str, query: Query) -> Result<Page, LogError> {
        let filter = Filter::new(query.contains.as_deref())?;
        let folder = self.shared.existing_group(account, group)?;
        let streams = match &query.stream {
            None => None,
            Some(name) => {
                let stream = folder.join(names::file_name(name)?);
                if !stream.is_dir() {
                    return Err(LogError::NoStream { group: group.to_owned(), stream: name.clone() });
                }
                Some(vec![(name.clone(), stream)])
            }
        };
        blocking(move || {
            let streams = match streams {
                Some(streams) => streams,
                None => folders(&folder)?.collect(),
            };
            merge(streams, &query, &filter)
        })
        .await
    }
}

fn merge(streams: Vec<(String, PathBuf)>, query: &Query, filter: &Filter) -> Result<Page, LogError> {
    let start = query.start.map(nanoseconds).and_then(|start| start.checked_sub(1));
    let end = query.end.map_or(u64::MAX, nanoseconds);
    let chunk = chunk(streams.len());
    // The next item of each stream, in order: the first one is taken, and replaced by its successor.
    let mut next = BTreeSet::new();
    let mut cursors = Vec::with_capacity(streams.len());
    for (name, folder) in streams {
        let hash = names::hash(&name);
        // Lines with the same time as the position are past it or not depending on the stream's hash.
        let after = query.after.and_then(|after| match hash <= after.stream {
            true => Some(after.time),
            false => after.time.checked_sub(1),
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
    let mut page = Page::default();
    let (mut bytes, mut scanned) = (0, 0);
    let mut last = None;
    while let Some((time, hash, index)) = next.first().copied() {
        if page.events.len() >= query.limit.max(1) || bytes >= PAGE_BYTES || scanned >= PAGE_SCAN {
            page.next = last;
            break;
        }
        next.pop_first();
        let position = Position { time, stream: hash };
        let Some((name, cursor)) = cursors.get_mut(index) else { break };
        let event = cursor.next(|item| match item {
            Item::Line(record) => filter.matches(record.message).then(|| event(name, position, &record)),
            Item::Damage(_) => Some(missing(name, position)),
        })?;
        last = Some(position);
        if let Some(event) = event.flatten() {
            bytes += event.message.len();
            page.events.push(event);
        }
        scanned += cursor.scanned();
        if let Some(time) = cursor.peek()?.filter(|&time| time < end) {
            next.insert((time, hash, index));
        }
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

/// Selects lines by their contents.
#[derive(Debug, Clone)]
pub(super) struct Filter(Option<regex::bytes::Regex>);

impl Filter {
    pub(super) fn new(contains: Option<&str>) -> Result<Self, LogError> {
        let Some(contains) = contains.filter(|contains| !contains.is_empty()) else { return Ok(Self(None)) };
        if contains.len() > LONGEST_FILTER {
            return Err(LogError::Filter(LONGEST_FILTER));
        }
        // A regular expression of literal text only: the crate searches for it fast.
        let search = regex::bytes::Regex::new(&regex::escape(contains));
        search.map(|search| Self(Some(search))).map_err(|_| LogError::Filter(LONGEST_FILTER))
    }

    pub(super) fn matches(&self, message: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|search| search.is_match(message))
    }
}
