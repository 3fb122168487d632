//! A file of a stream.
//!
//! The name of the file is the time of its first line, in 16 hexadecimal digits, so that names are in order. A header
//! is followed by records.
//!
//! ```text
//!  0  "hearthlg"
//!  8  u32  version: 1
//! 12  u32  number of origins that follow
//! 16  u64  origin                         ⎫ the last line of each origin before this file, so that
//! 24  u64  its last sequence number       ⎭ opening a stream reads one file
//!     u32  CRC-32 of the header so far
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::record::{self, MAX_RECORD, Parsed, number};

const MAGIC: &[u8; 8] = b"hearthlg";
const VERSION: u32 = 1;
const FIXED: usize = 16;
/// Most origins in a header: those that have written last.
const MAX_ORIGINS: usize = 1024;
/// Longest header.
pub(super) const MAX_HEADER: usize = FIXED + 16 * MAX_ORIGINS + 4;

/// A segment, identified by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// Time of its first line; no line of the segment is earlier.
    pub(super) first: u64,
}

impl Segment {
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:016x}.log", self.first))
    }

    fn of(file_name: &str) -> Option<Self> {
        let digits = file_name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok().map(|first| Self { first })
    }
}

/// The segments of a stream, oldest first; none if the folder does not exist.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in entries(folder)? {
        segments.extend(entry?.file_name().to_str().and_then(Segment::of));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The entries of a folder; none if the folder does not exist.
pub(super) fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    Ok(entries.into_iter().flatten())
}

/// Makes a folder with its parents, accessible by the daemon's user only.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The last sequence number of each origin, and the time of that line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Origins(BTreeMap<u64, (u64, u64)>);

impl Origins {
    /// The last sequence number of an origin; 0 when there is none.
    pub(super) fn last(&self, origin: u64) -> u64 {
        self.0.get(&origin).map_or(0, |&(sequence, _)| sequence)
    }

    /// Records a line. Lines without a number are not recorded.
    pub(super) fn note(&mut self, origin: u64, sequence: u64, time: u64) {
        if sequence == 0 {
            return;
        }
        self.0.insert(origin, (sequence, time));
        if self.0.len() > MAX_ORIGINS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, time))| *time).map(|(&origin, _)| origin)
        {
            self.0.remove(&oldest);
        }
    }
}

/// The header of a new segment.
pub(super) fn header(origins: &Origins) -> Vec<u8> {
    let count = u32::try_from(origins.0.len()).unwrap_or(u32::MAX);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    for (origin, (sequence, _)) in &origins.0 {
        bytes.extend(origin.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// The result of parsing the beginning of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A complete header, and its length.
    Whole(Origins, usize),
    /// A part of a header.
    Partial,
    /// No readable header; contains the cause.
    Unreadable(String),
}

/// Parses the header at the beginning of `bytes`; `first` is the time in the segment's name.
pub(super) fn parse_header(bytes: &[u8], first: u64) -> Header {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Header::Unreadable("it does not begin like a log segment".into());
    }
    match number(bytes, 8).map(u32::from_le_bytes) {
        None => return Header::Partial,
        Some(VERSION) => {}
        Some(other) => {
            return Header::Unreadable(format!("it has version {other}, and this daemon reads {VERSION}"));
        }
    }
    let Some(count) = number(bytes, 12).map(u32::from_le_bytes) else {
        return Header::Partial;
    };
    let Some(count) = usize::try_from(count).ok().filter(|&count| count <= MAX_ORIGINS) else {
        return Header::Unreadable("its header is damaged".into());
    };
    let end = FIXED + 16 * count;
    let Some(crc) = number(bytes, end).map(u32::from_le_bytes) else {
        return Header::Partial;
    };
    if crc32fast::hash(&bytes[..end]) != crc {
        return Header::Unreadable("its header is damaged".into());
    }
    let mut origins = Origins::default();
    for at in (FIXED..end).step_by(16) {
        let [origin, sequence] = [at, at + 8].map(|at| number(bytes, at).map_or(0, u64::from_le_bytes));
        origins.note(origin, sequence, first);
    }
    Header::Whole(origins, end + 4)
}

/// A summary of a whole file.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) origins: Origins,
    /// Time of the last record.
    pub(super) last_time: Option<u64>,
    /// Offset of the end of the last record.
    pub(super) end: usize,
}

/// Scans a whole file after its header, up to damage or the end.
pub(super) fn scan(bytes: &[u8], origins: Origins, header: usize) -> Contents {
    let mut found = Contents { origins, last_time: None, end: header };
    while let Parsed::Record(record, length) = record::parse(&bytes[found.end..]) {
        found.origins.note(record.origin, record.sequence, record.time);
        found.last_time = Some(record.time);
        found.end += length;
    }
    found
}

/// Whether this many bytes after the last complete record can be a record that was not written completely.
pub(super) fn can_be_torn(rest: usize) -> bool {
    rest < MAX_RECORD
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_comes_back_and_its_parts_are_known_as_such() {
        let mut origins = Origins::default();
        origins.note(7, 70, 1);
        origins.note(8, 80, 1);
        let bytes = header(&origins);
        assert_eq!(parse_header(&bytes, 1), Header::Whole(origins, bytes.len()));
        for end in 0..bytes.len() {
            assert_eq!(parse_header(&bytes[..end], 1), Header::Partial);
        }
    }

    #[test]
    fn a_header_of_another_version_is_refused_by_its_number() {
        let mut bytes = header(&Origins::default());
        bytes[8] = 9;
        let Header::Unreadable(why) = parse_header(&bytes, 1) else { panic!("it was read") };
        assert!(why.contains("version 9"));
    }

    #[test]
    fn the_origins_that_have_written_last_are_kept() {
        let mut origins = Origins::default();
        for origin in 0..2000 {
            origins.note(origin, 5, origin);
        }
        assert_eq!((origins.last(0), origins.last(1999), origins.0.len()), (0, 5, MAX_ORIGINS));
        assert!(header(&origins).len() <= MAX_HEADER);
    }

    proptest! {
        #[test]
        fn any_bytes_are_stood(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            parse_header(&bytes, 0);
            parse_header(&[header(&Origins::default())[..12].to_vec(), bytes].concat(), 0);
        }
    }
}
