//! Reading a stream forwards and backwards.
//!
//! Readers share no state with writers: they read the files up to the last complete record. No file stays open
//! between two reads, and a segment that has been removed meanwhile is skipped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::LogError;
use super::record::{self, MAX_RECORD, OVERHEAD, Parsed, Record};
use super::segment::{self, Header, MAX_HEADER, Segment};

/// The next item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Line(Record<'a>),
    /// Some lines cannot be read; contains a time that they could have had.
    Damage(u64),
}

/// Reads a stream from its older to its newer lines, and waits at the end.
#[derive(Debug)]
pub(super) struct Forward {
    folder: PathBuf,
    /// Number of bytes that are read at a time, unless a record is longer.
    chunk: usize,
    /// Lines up to this time are skipped.
    after: Option<u64>,
    segment: Option<Place>,
    buffer: Vec<u8>,
    /// Number of bytes at the front of the buffer that were consumed.
    taken: usize,
    ready: Option<Ready>,
    /// Number of bytes that were read.
    scanned: u64,
}

/// A place in a segment.
#[derive(Debug, Clone)]
pub(super) struct Place {
    segment: Segment,
    /// Offset of the next record; 0 before the header.
    offset: u64,
    /// Time of the last record before it.
    last: Option<u64>,
    /// Whether the segment is complete although this was not known when its end was reached.
    over: bool,
    /// Whether damage at this place was reported.
    damage_reported: bool,
}

impl Place {
    fn new(segment: Segment, offset: u64) -> Self {
        Self { segment, offset, last: None, over: false, damage_reported: false }
    }

    fn damage(&self) -> u64 {
        self.last.map_or(self.segment.first, |last| last.saturating_add(1))
    }
}

#[derive(Debug, Clone, Copy)]
enum Ready {
    /// The next part of the buffer is a record with this length and time.
    Line(usize, u64),
    Damage(u64),
}

impl Forward {
    /// Reads from the first line after time `after`, or from the first line of all.
    pub(super) fn new(folder: PathBuf, after: Option<u64>, chunk: usize) -> Self {
        let buffer = Vec::new();
        Self { folder, chunk, after, segment: None, buffer, taken: 0, ready: None, scanned: 0 }
    }

    /// Reads from a place where the stream ended before.
    pub(super) fn at(folder: PathBuf, place: Option<Place>, chunk: usize) -> Self {
        Self { segment: place, ..Self::new(folder, None, chunk) }
    }

    /// The time of the next item; `None` while there is none.
    pub(super) fn peek(&mut self) -> Result<Option<u64>, LogError> {
        loop {
            match self.ready {
                Some(Ready::Line(_, time) | Ready::Damage(time)) => {
                    if self.after.is_none_or(|after| time > after) {
                        // Many streams are read at the same time: a long record is read again when it is its turn.
                        if self.buffer.len() > self.chunk {
                            self.refill(Vec::new());
                            self.ready = None;
                        }
                        return Ok(Some(time));
                    }
                    self.advance();
                }
                None => {
                    if !self.step()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Passes the next item to `take`, which is not called if there is none.
    pub(super) fn next<T>(&mut self, take: impl FnOnce(Item<'_>) -> T) -> Result<Option<T>, LogError> {
        if self.peek()?.is_none() {
            return Ok(None);
        }
        while self.ready.is_none() {
            if !self.step()? {
                return Ok(None); // removed meanwhile
            }
        }
        let taken = match self.ready {
            Some(Ready::Damage(time)) => Some(take(Item::Damage(time))),
            _ => match record::parse(self.rest()) {
                Parsed::Record(record, _) => Some(take(Item::Line(record))),
                Parsed::Partial(_) | Parsed::Damaged => None,
            },
        };
        self.advance();
        Ok(taken)
    }

    /// Number of bytes that were read since the last call.
    pub(super) fn scanned(&mut self) -> u64 {
        std::mem::take(&mut self.scanned)
    }

    /// The stream's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Skips the item that is ready.
    fn advance(&mut self) {
        if let Some(Ready::Line(length, time)) = self.ready.take()
            && let Some(place) = &mut self.segment
        {
            self.taken += length;
            place.offset += u64::try_from(length).unwrap_or(u64::MAX);
            place.last = Some(time);
        }
    }

    /// The part of the buffer that was not consumed; empty after any failure.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    fn refill(&mut self, buffer: Vec<u8>) {
        (self.buffer, self.taken) = (buffer, 0);
    }

    /// Prepares the next item, or makes progress towards it; returns `false` at the end.
    fn step(&mut self) -> Result<bool, LogError> {
        let Some(place) = self.segment.clone() else {
            self.segment = self.first()?.map(|segment| Place::new(segment, 0));
            return Ok(self.segment.is_some());
        };
        if place.damage_reported {
            return self.leave();
        }
        let path = place.segment.path(&self.folder);
        let need = if place.offset == 0 {
            match segment::parse_header(self.rest(), place.segment.first) {
                Header::Whole(_, length) => {
                    self.taken += length;
                    self.segment = Some(Place { offset: u64::try_from(length).unwrap_or(u64::MAX), ..place });
                    return Ok(true);
                }
                Header::Partial => self.rest().len() + 1,
                Header::Unreadable(why) => {
                    tracing::warn!(segment = %path.display(), why, "a log segment cannot be read");
                    return Ok(self.report_damage());
                }
            }
        } else {
            match record::parse(self.rest()) {
                Parsed::Record(record, length) => {
                    self.ready = Some(Ready::Line(length, record.time));
                    return Ok(true);
                }
                Parsed::Partial(need) => need,
                Parsed::Damaged => return self.pause(),
            }
        };
        let length = if place.offset == 0 { MAX_HEADER } else { need }.max(self.chunk);
        let Some(bytes) = read_at(&path, place.offset, length)? else {
            return self.leave(); // removed
        };
        self.scanned += u64::try_from(bytes.len().saturating_sub(self.rest().len())).unwrap_or(0);
        let is_enough = bytes.len() >= need;
        self.refill(bytes);
        if is_enough { Ok(true) } else { self.pause() }
    }

    /// Handles the end of the readable part of a segment. A segment is complete when there is a later one; then the
    /// segment is read once more, since it may have grown just before the later one began.
    fn pause(&mut self) -> Result<bool, LogError> {
        let is_whole = self.rest().is_empty();
        self.refill(Vec::new());
        let later = self.later()?.is_some();
        let Some(place) = &mut self.segment else { return Ok(false) };
        if later && !place.over {
            place.over = true;
            return Ok(true);
        }
        let path = place.segment.path(&self.folder);
        let size = path.metadata().map_or(0, |data| data.len()).saturating_sub(place.offset);
        let can_be_torn = usize::try_from(size).is_ok_and(segment::can_be_torn);
        if !is_whole && (later || !can_be_torn) {
            tracing::warn!(segment = %path.display(), offset = place.offset, "a log segment is damaged");
            return Ok(self.report_damage());
        }
        if later { self.leave() } else { Ok(false) }
    }

    fn report_damage(&mut self) -> bool {
        self.refill(Vec::new());
        if let Some(place) = &mut self.segment {
            place.damage_reported = true;
            self.ready = Some(Ready::Damage(place.damage()));
        }
        true
    }

    /// Continues with the next segment; returns `false` while there is none.
    fn leave(&mut self) -> Result<bool, LogError> {
        self.refill(Vec::new());
        let later = self.later()?;
        let is_there = later.is_some();
        if let Some(segment) = later {
            self.segment = Some(Place::new(segment, 0));
        }
        Ok(is_there)
    }

    /// The segment to begin with: the last one that begins before the wanted lines, or the first of all.
    fn first(&self) -> Result<Option<Segment>, LogError> {
        let segments = self.segments()?;
        let before = |segment: &Segment| self.after.is_some_and(|after| segment.first <= after);
        let index = segments.partition_point(before).saturating_sub(1);
        Ok(segments.into_iter().nth(index))
    }

    fn later(&self) -> Result<Option<Segment>, LogError> {
        let here = self.segment.as_ref().map(|place| &place.segment);
        Ok(self.segments()?.into_iter().find(|segment| here.is_none_or(|here| segment > here)))
    }

    fn segments(&self) -> Result<Vec<Segment>, LogError> {
        segment::list(&self.folder).map_err(|source| LogError::Open { path: self.folder.clone(), source })
    }
}

/// Reads a stream from its newest line to older ones. Unreadable parts are skipped.
#[derive(Debug)]
pub(super) struct Backward {
    folder: PathBuf,
    chunk: usize,
    /// The segments before the current one, oldest first.
    earlier: Vec<Segment>,
    /// The current segment, the offset of its first record, and the offset where the next record to be read ends.
    here: Option<(Segment, u64, u64)>,
    buffer: Vec<u8>,
    /// Offset of the buffer in the file.
    base: u64,
    end: Option<Place>,
    scanned: u64,
}

impl Backward {
    /// Reads from the newest line.
    pub(super) fn new(folder: PathBuf, chunk: usize) -> Result<Self, LogError> {
        let segments =
            segment::list(&folder).map_err(|source| LogError::Open { path: folder.clone(), source })?;
        Self::of(folder, segments, chunk)
    }

    /// Reads from the newest line of these segments, which are in order.
    pub(super) fn of(folder: PathBuf, earlier: Vec<Segment>, chunk: usize) -> Result<Self, LogError> {
        let newest = earlier.last().cloned();
        let mut backward =
            Self { folder, chunk, earlier, here: None, buffer: Vec::new(), base: 0, end: None, scanned: 0 };
        backward.enter()?;
        backward.end = match (backward.here.clone(), newest) {
            (Some((segment, _, end)), Some(newest)) if segment == newest => {
                let place = Place::new(newest, end);
                Some(Place { last: backward.peek()?, ..place })
            }
            // Nothing of the newest segment can be read yet: its place is the beginning.
            (_, newest) => newest.map(|segment| Place::new(segment, 0)),
        };
        Ok(backward)
    }

    /// Reads from the last line that is not later than `last`.
    pub(super) fn up_to(folder: PathBuf, last: u64, chunk: usize) -> Result<Self, LogError> {
        let mut segments =
            segment::list(&folder).map_err(|source| LogError::Open { path: folder.clone(), source })?;
        segments.retain(|segment| segment.first <= last);
        let mut backward = Self::of(folder, segments, chunk)?;
        while backward.peek()?.is_some_and(|time| time > last) {
            backward.next(|_| ())?;
        }
        Ok(backward)
    }

    /// Where the stream ended when this cursor was made: a [`Forward`] can continue there.
    pub(super) fn end(&self) -> Option<Place> {
        self.end.clone()
    }

    /// The time of the previous line.
    pub(super) fn peek(&mut self) -> Result<Option<u64>, LogError> {
        let time = self.record()?.map(|record| record.time);
        if self.buffer.len() > self.chunk {
            self.buffer = Vec::new();
        }
        Ok(time)
    }

    /// Passes the previous line to `take`.
    pub(super) fn next<T>(&mut self, take: impl FnOnce(Record<'_>) -> T) -> Result<Option<T>, LogError> {
        let Some(record) = self.record()? else { return Ok(None) };
        let length = u64::try_from(record.message.len() + OVERHEAD).unwrap_or(u64::MAX);
        let taken = take(record);
        if let Some((_, _, end)) = &mut self.here {
            *end -= length;
        }
        self.scanned += length;
        Ok(Some(taken))
    }

    /// Number of bytes that were read since the last call.
    pub(super) fn scanned(&mut self) -> u64 {
        std::mem::take(&mut self.scanned)
    }

    /// The previous line.
    fn record(&mut self) -> Result<Option<Record<'_>>, LogError> {
        while let Some((segment, start, end)) = self.here.clone() {
            let path = segment.path(&self.folder);
            if end <= start {
                self.enter()?;
            } else if let Some(range) = self.whole_before(&path, end)? {
                return Ok(self.buffer.get(range).and_then(record::whole));
            } else {
                self.pass_damage(&path, start, end)?;
            }
        }
        Ok(None)
    }

    /// The range in the buffer of the record that ends at `end`; `None` if there is no readable one.
    fn whole_before(&mut self, path: &Path, end: u64) -> Result<Option<Range<usize>>, LogError> {
        let Some(length) = self.length_before(path, end)? else { return Ok(None) };
        let end = usize::try_from(end - self.base).unwrap_or(usize::MAX);
        let range = end.saturating_sub(length)..end;
        Ok(self.buffer.get(range.clone()).and_then(record::whole).map(|_| range))
    }

    /// The length of the record that ends at `end`. The record is in the buffer afterwards.
    fn length_before(&mut self, path: &Path, end: u64) -> Result<Option<usize>, LogError> {
        if !self.fill(path, end, 4)? {
            return Ok(None);
        }
        let at = usize::try_from(end - self.base).unwrap_or(usize::MAX).saturating_sub(4);
        let length = record::number(&self.buffer, at).map(u32::from_le_bytes);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| (OVERHEAD..=MAX_RECORD).contains(length)) else {
            return Ok(None);
        };
        Ok(self.fill(path, end, length)?.then_some(length))
    }

    /// Reads the `length` bytes before `end` into the buffer; returns `false` if the file has fewer.
    fn fill(&mut self, path: &Path, end: u64, length: usize) -> Result<bool, LogError> {
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let Some(from) = end.checked_sub(wide(length)) else { return Ok(false) };
        if self.base <= from && self.base + wide(self.buffer.len()) >= end && !self.buffer.is_empty() {
            return Ok(true);
        }
        self.base = from.min(end.saturating_sub(wide(self.chunk)));
        let length = usize::try_from(end - self.base).unwrap_or(usize::MAX);
        self.buffer = read_at(path, self.base, length)?.unwrap_or_default();
        Ok(self.buffer.len() >= length)
    }

    /// Moves to the last complete record before `end`, parsing from the front.
    fn pass_damage(&mut self, path: &Path, start: u64, end: u64) -> Result<(), LogError> {
        let length = usize::try_from(end.saturating_sub(1)).unwrap_or(usize::MAX);
        let bytes = read_at(path, 0, length)?.unwrap_or_default();
        let mut at = usize::try_from(start).unwrap_or(usize::MAX).min(bytes.len());
        while let Parsed::Record(_, length) = record::parse(&bytes[at..]) {
            at += length;
        }
        if let Some((_, _, end)) = &mut self.here {
            *end = u64::try_from(at).unwrap_or(u64::MAX);
        }
        self.buffer = Vec::new();
        Ok(())
    }

    /// Moves to the end of the previous segment.
    fn enter(&mut self) -> Result<(), LogError> {
        (self.here, self.buffer) = (None, Vec::new());
        while let Some(segment) = self.earlier.pop() {
            let path = segment.path(&self.folder);
            let Some(head) = read_at(&path, 0, MAX_HEADER)? else { continue };
            let Header::Whole(_, start) = segment::parse_header(&head, segment.first) else { continue };
            let start = u64::try_from(start).unwrap_or(u64::MAX);
            let size = path.metadata().map_or(start, |data| data.len()).max(start);
            self.here = Some((segment, start, size));
            // A record that is being written, or was not written completely, is ignored.
            if size > start && self.whole_before(&path, size)?.is_none() {
                self.pass_damage(&path, start, size + 1)?;
            }
            break;
        }
        Ok(())
    }
}

/// Reads up to `length` bytes of a file; `None` if the file no longer exists.
fn read_at(path: &Path, offset: u64, length: usize) -> Result<Option<Vec<u8>>, LogError> {
    let read = || {
        let file = File::open(path)?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match file.read_at(&mut bytes[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LogError::Read { path: path.to_owned(), source }),
    }
}
