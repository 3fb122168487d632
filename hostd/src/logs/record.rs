//! The format of a line in a file.
//!
//! ```text
//!  0  u32  length of the record, including this field and the last one
//!  4  u32  CRC-32 of what follows, without the last field
//!  8  u64  time: nanoseconds since 1970, growing within the stream
//! 16  u64  sequence: the line's number from the guest agent; 0 if it has none
//! 24  u64  origin: who numbers the lines; 0 for nobody
//! 32  u8   source
//! 33       message
//!     u32  length again, for reading backwards
//! ```
//!
//! Numbers are little-endian.

/// Bytes before the message.
const HEADER: usize = 33;
/// Bytes before and after the message.
pub(super) const OVERHEAD: usize = HEADER + 4;
/// Longest message in a record: the guest's longest line. Longer ones are stored as several.
pub(super) const MAX_MESSAGE: usize = 256 * 1024;
/// Longest record.
pub(super) const MAX_RECORD: usize = MAX_MESSAGE + OVERHEAD;

/// Who wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The app, to its standard output.
    Stdout,
    /// The app, to its standard error.
    Stderr,
    /// Hearth itself.
    Platform,
}

impl Source {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Platform => "platform",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Platform => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Platform].into_iter().find(|source| source.byte() == byte)
    }
}

/// A stored line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) time: u64,
    pub(super) sequence: u64,
    pub(super) origin: u64,
    pub(super) source: Source,
    pub(super) message: &'a [u8],
}

/// The result of parsing the bytes at some place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A complete record, and its length.
    Record(Record<'a>, usize),
    /// The beginning of a record that has this length, or at least this length.
    Partial(usize),
    /// The bytes are not a record.
    Damaged,
}

impl Record<'_> {
    /// Appends the encoded record to `into`. The message must not be longer than [`MAX_MESSAGE`].
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let length = u32::try_from(self.message.len() + OVERHEAD).unwrap_or(u32::MAX);
        let start = into.len();
        into.extend(length.to_le_bytes());
        into.extend([0; 4]);
        for number in [self.time, self.sequence, self.origin] {
            into.extend(number.to_le_bytes());
        }
        into.push(self.source.byte());
        into.extend(self.message);
        let crc = crc32fast::hash(&into[start + 8..]);
        into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        into.extend(length.to_le_bytes());
    }
}

/// Parses the record at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(length) = number::<4>(bytes, 0).map(u32::from_le_bytes) else {
        return Parsed::Partial(OVERHEAD);
    };
    let Some(length) = usize::try_from(length).ok().filter(|len| (OVERHEAD..=MAX_RECORD).contains(len))
    else {
        return Parsed::Damaged;
    };
    let Some(bytes) = bytes.get(..length) else {
        return Parsed::Partial(length);
    };
    whole(bytes).map_or(Parsed::Damaged, |record| Parsed::Record(record, length))
}

/// Parses a record that covers all of `bytes`.
pub(super) fn whole(bytes: &[u8]) -> Option<Record<'_>> {
    let body = bytes.get(8..bytes.len().checked_sub(4)?)?;
    let crc = number::<4>(bytes, 4).map(u32::from_le_bytes)?;
    let lengths = [number::<4>(bytes, 0)?, number::<4>(bytes, bytes.len() - 4)?];
    let fits = |len: [u8; 4]| usize::try_from(u32::from_le_bytes(len)) == Ok(bytes.len());
    if !lengths.into_iter().all(fits) || crc32fast::hash(body) != crc {
        return None;
    }
    let field = |at| number::<8>(bytes, at).map(u64::from_le_bytes);
    Some(Record {
        time: field(8)?,
        sequence: field(16)?,
        origin: field(24)?,
        source: Source::of(*bytes.get(32)?)?,
        message: body.get(HEADER - 8..)?,
    })
}

/// The bytes of a number at `at`.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_and_no_part_or_change_of_it_is_one(
            message in prop::collection::vec(any::<u8>(), 0..300),
            (time, sequence, origin) in any::<(u64, u64, u64)>(),
            (at, flip) in (any::<prop::sample::Index>(), 1..=255u8),
        ) {
            let record = Record { time, sequence, origin, source: Source::Stderr, message: &message };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(parse(&bytes), Parsed::Record(record, bytes.len()));
            for end in 0..bytes.len() {
                prop_assert!(matches!(parse(&bytes[..end]), Parsed::Partial(need) if need > end));
            }
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(!matches!(parse(&bytes), Parsed::Record(..)));
        }

        #[test]
        fn any_bytes_are_stood(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
            whole(&bytes);
        }
    }
}
