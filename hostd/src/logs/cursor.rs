//! A stream forwards and backwards.
//!
//! Readers share nothing with writers: they read the files up to the last whole record. No file stays open between two reads,
//! and a segment that has been removed meanwhile is passed over.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::LogError;
use super::record::{self, MAX_RECORD, OVERHEAD, Parsed, Record};
use super::segment::{self, Header, MAX_HEADER, Segment};

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Line(Record<'a>),
    /// Some lines cannot be read; this is a time that they would have had.
    Damage(u64),
}

/// Goes through a stream from its older to its newer lines, and waits at the end.
#[derive(Debug)]
pub(super) struct Forward {
    folder: PathBuf,
    /// What is read at a time, unless a record is longer.
    chunk: usize,
    /// Lines up to this time are passed over.
    after: Option<u64>,
    segment: Option<Place>,
    buffer: Vec<u8>,
    /// What of the buffer was taken already.
    taken: usize,
    ready: Option<Ready>,
    /// Bytes that were gone through.
    scanned: u64,
}

/// A place in a segment.
#[derive(Debug, Clone)]
pub(super) struct Place {
    segment: Segment,
    /// Of the next record; 0 before the header.
    offset: u64,
    /// Time of the last record before it.
    last: Option<u64>,
    /// The segment is over, and this was not known when its end was reached.
    over: bool,
    /// Damage at this place was told.
    told: bool,
}

impl Place {
    fn new(segment: Segment, offset: u64) -> Self {
        Self { segment, offset, last: None, over: false, told: false }
    }

    fn damage(&self) -> u64 {
        self.last.map_or(self.segment.first, |last| last.saturating_add(1))
    }
}

#[derive(Debug, Clone, Copy)]
enum Ready {
    /// The buffer goes on with a record of this length and time.
    Line(usize, u64),
    Damage(u64),
}

impl Forward {
    /// From the first line that is after `after`, or the first of all.
    pub(super) fn new(folder: PathBuf, after: Option<u64>, chunk: usize) -> Self {
        let buffer = Vec::new();
        Self { folder, chunk, after, segment: None, buffer, taken: 0, ready: None, scanned: 0 }
    }

    /// From a place on, where the stream has ended before.
    pub(super) fn at(folder: PathBuf, place: Option<Place>, chunk: usize) -> Self {
        Self { segment: place, ..Self::new(folder, None, chunk) }
    }

    /// The time of what comes next; `None` while nothing does.
    pub(super) fn peek(&mut self) -> Result<Option<u64>, LogError> {
        loop {
            match self.ready {
                Some(Ready::Line(_, time) | Ready::Damage(time)) => {
                    if self.after.is_none_or(|after| time > after) {
                        // Many streams are read at once: what is long is read again when it is its turn.
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

    /// What comes next, given to `take`; not called while nothing does.
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

    /// Bytes that were gone through since this was asked last.
    pub(super) fn scanned(&mut self) -> u64 {
        std::mem::take(&mut self.scanned)
    }

    /// The stream's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Goes past what is ready.
    fn advance(&mut self) {
        if let Some(Ready::Line(length, time)) = self.ready.take()
            && let Some(place) = &mut self.segment
        {
            self.taken += length;
            place.offset += u64::try_from(length).unwrap_or(u64::MAX);
            place.last = Some(time);
        }
    }

    /// What of the buffer was not taken yet; empty after whatever has gone wrong.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    fn refill(&mut self, buffer: Vec<u8>) {
        (self.buffer, self.taken) = (buffer, 0);
    }

    /// Gets something ready, or comes nearer to it; `false` at the end.
    fn step(&mut self) -> Result<bool, LogError> {
        let Some(place) = self.segment.clone() else {
            self.segment = self.first()?.map(|segment| Place::new(segment, 0));
            return Ok(self.segment.is_some());
        };
        if place.told {
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
                    return Ok(self.tell_damage());
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

    /// At the end of what can be read of the segment. It is over when there is a later one; and what was written to it just before
    /// that one is looked for once more.
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
            return Ok(self.tell_damage());
        }
        if later { self.leave() } else { Ok(false) }
    }

    fn tell_damage(&mut self) -> bool {
        self.refill(Vec::new());
        if let Some(place) = &mut self.segment {
            place.told = true;
            self.ready = Some(Ready::Damage(place.damage()));
        }
        true
    }

    /// Goes on with the next segment; `false` while there is none.
    fn leave(&mut self) -> Result<bool, LogError> {
        self.refill(Vec::new());
        let later = self.later()?;
        let is_there = later.is_some();
        if let Some(segment) = later {
            self.segment = Some(Place::new(segment, 0));
        }
        Ok(is_there)
    }

    /// Where to begin: the last segment that begins before what is wanted, or the first of all.
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

/// Goes through a stream from its newest line to older ones. What cannot be read is passed over.
#[derive(Debug)]
pub(super) struct Backward {
    folder: PathBuf,
    chunk: usize,
    /// Those before the one at hand, oldest first.
    earlier: Vec<Segment>,
    /// The segment at hand, where its records begin, and where the next one to be read ends.
    here: Option<(Segment, u64, u64)>,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    base: u64,
    end: Option<Place>,
    scanned: u64,
}

impl Backward {
    /// From the newest line on.
    pub(super) fn new(folder: PathBuf, chunk: usize) -> Result<Self, LogError> {
        let segments =
            segment::list(&folder).map_err(|source| LogError::Open { path: folder.clone(), source })?;
        Self::of(folder, segments, chunk)
    }

    /// From the newest line on of these segments, which are in order.
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
            // Nothing of it can be read yet: from its beginning.
            (_, newest) => newest.map(|segment| Place::new(segment, 0)),
        };
        Ok(backward)
    }

    /// Where the stream ended when this was made: what a [`Forward`] goes on from.
    pub(super) fn end(&self) -> Option<Place> {
        self.end.clone()
    }

    /// The time of the line before.
    pub(super) fn peek(&mut self) -> Result<Option<u64>, LogError> {
        let time = self.record()?.map(|record| record.time);
        if self.buffer.len() > self.chunk {
            self.buffer = Vec::new();
        }
        Ok(time)
    }

    /// The line before, given to `take`.
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

    /// Bytes that were gone through since this was asked last.
    pub(super) fn scanned(&mut self) -> u64 {
        std::mem::take(&mut self.scanned)
    }

    /// The line before.
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

    /// Where in the buffer the record is that ends at `end`; `None` when there is none that can be read.
    fn whole_before(&mut self, path: &Path, end: u64) -> Result<Option<Range<usize>>, LogError> {
        let Some(length) = self.length_before(path, end)? else { return Ok(None) };
        let end = usize::try_from(end - self.base).unwrap_or(usize::MAX);
        let range = end.saturating_sub(length)..end;
        Ok(self.buffer.get(range.clone()).and_then(record::whole).map(|_| range))
    }

    /// The length of the record that ends at `end`, which is in the buffer then.
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

    /// Has the `length` bytes before `end` in the buffer; `false` when the file has not so many.
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

    /// Goes to the last whole record before `end`, from the front.
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

    /// Goes to the end of the segment before.
    fn enter(&mut self) -> Result<(), LogError> {
        (self.here, self.buffer) = (None, Vec::new());
        while let Some(segment) = self.earlier.pop() {
            let path = segment.path(&self.folder);
            let Some(head) = read_at(&path, 0, MAX_HEADER)? else { continue };
            let Header::Whole(_, start) = segment::parse_header(&head, segment.first) else { continue };
            let start = u64::try_from(start).unwrap_or(u64::MAX);
            let size = path.metadata().map_or(start, |data| data.len()).max(start);
            self.here = Some((segment, start, size));
            // A record that is being written, or was not written to its end, is not there.
            if size > start && self.whole_before(&path, size)?.is_none() {
                self.pass_damage(&path, start, size + 1)?;
            }
            break;
        }
        Ok(())
    }
}

/// Up to `length` bytes of a file; `None` when it is gone.
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
