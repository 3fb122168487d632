//! The file `sums`: checksums of files that carry none of their own, for what reads all of a folder.
//!
//! ```text
//!  0  magic "HRTHSUMS"          16  number of files (u64)
//!  8  version (u32)             24  the files
//! 12  zero (u32)                    CRC-32 of all before (u32)
//! each file:   length of its name (u64), name, size (u64), number of pieces (u64)
//! each piece:  number (u64), CRC-32 of its content (u32)            ascending
//! ```
//!
//! A piece is a MiB of the file, at a multiple of that; the last one may be shorter. Pieces that were holes are not listed,
//! and have to be zero.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::bulk::{Bulk, CHUNK};

/// Size of a piece in bytes.
pub const PIECE: u64 = CHUNK;
/// Name of the file.
pub const SUMS: &str = "sums";

const MAGIC: [u8; 8] = *b"HRTHSUMS";
const VERSION: u32 = 1;
/// Most bytes of the file that are read: pieces of 4 TiB.
const MOST: u64 = 48 << 20;
/// Longest name in bytes.
const NAME_MAX: u64 = 255;

/// The reason for which files are not what their checksums say.
#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    /// The file with the checksums is damaged, or something else.
    #[error("the file of checksums `{0}` is damaged")]
    Damaged(String),
    /// The file was written by a newer release.
    #[error(
        "the file of checksums `{name}` has format version {version}, this release reads version {VERSION}"
    )]
    Version {
        /// Name of the file.
        name: String,
        /// Format version of the file.
        version: u32,
    },
    /// A file does not have the size that it had.
    #[error("the file `{name}` is damaged: it has {found} bytes instead of {expected}")]
    Length {
        /// Name of the file.
        name: String,
        /// Size in bytes.
        found: u64,
        /// Size in bytes that it had.
        expected: u64,
    },
    /// A piece of a file is not what was written.
    #[error("the file `{name}` is damaged: its {length} bytes at {offset} are not what was written")]
    Piece {
        /// Name of the file.
        name: String,
        /// Offset of the piece in bytes.
        offset: u64,
        /// Length of the piece in bytes.
        length: u64,
    },
    /// A file cannot be read.
    #[error("reading the file `{name}`: {source}")]
    Read {
        /// Name of the file.
        name: String,
        /// The error that the host returned.
        source: io::Error,
    },
}

/// Checksums of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileSums {
    /// Size of the file in bytes.
    length: u64,
    /// Pieces with their checksums, ascending.
    pieces: Vec<(u64, u32)>,
}

impl FileSums {
    /// Reads a file, called `name` in errors, and makes its checksums.
    ///
    /// # Errors
    /// [`SumsError::Read`].
    pub fn make(file: &File, name: &str, bulk: &mut Bulk<'_>) -> Result<Self, SumsError> {
        let mut made = Self::default();
        let reading = |source| SumsError::Read { name: name.to_owned(), source };
        made.length = file.metadata().map_err(reading)?.len();
        let mut file = bulk.file(file);
        let mut at = 0;
        while let Some(data) = file.next_data(at).map_err(reading)?.filter(|data| *data < made.length) {
            let piece = data / PIECE;
            let content = file.read(piece * PIECE, made.length_of(piece)).map_err(reading)?;
            made.pieces.push((piece, crc32fast::hash(content)));
            at = (piece + 1) * PIECE;
        }
        Ok(made)
    }

    /// Reads all of a file, called `name` in errors, and compares it; returns the number of bytes that have checksums.
    ///
    /// # Errors
    /// [`SumsError`] for the first piece that differs.
    pub fn check(&self, file: &File, name: &str, bulk: &mut Bulk<'_>) -> Result<u64, SumsError> {
        let reading = |source| SumsError::Read { name: name.to_owned(), source };
        let found = file.metadata().map_err(reading)?.len();
        if found != self.length {
            return Err(SumsError::Length { name: name.to_owned(), found, expected: self.length });
        }
        let mut file = bulk.file(file);
        let (mut listed, mut at, mut bytes) = (self.pieces.iter().peekable(), 0, 0);
        loop {
            let data = file.next_data(at).map_err(reading)?.filter(|data| *data < self.length);
            let next = [data.map(|data| data / PIECE), listed.peek().map(|(piece, _)| *piece)];
            let Some(piece) = next.into_iter().flatten().min() else { return Ok(bytes) };
            let sum = listed.next_if(|(listed, _)| *listed == piece).map(|(_, sum)| *sum);
            let (offset, length) = (piece * PIECE, self.length_of(piece));
            let content = file.read(offset, length).map_err(reading)?;
            let same = match sum {
                Some(sum) => crc32fast::hash(content) == sum,
                None => content.iter().all(|byte| *byte == 0),
            };
            if !same {
                return Err(SumsError::Piece { name: name.to_owned(), offset, length });
            }
            bytes += sum.map_or(0, |_| length);
            at = (piece + 1) * PIECE;
        }
    }

    fn length_of(&self, piece: u64) -> u64 {
        self.length.saturating_sub(piece * PIECE).min(PIECE)
    }
}

/// Checksums of files, by their names in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// By name; parts of a name are divided by `/`.
    pub files: BTreeMap<String, FileSums>,
}

impl Sums {
    /// Returns the bytes that are stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let number = |number: usize| (number as u64).to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&number(self.files.len()));
        for (name, FileSums { length, pieces }) in &self.files {
            bytes.extend_from_slice(&number(name.len()));
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&number(pieces.len()));
            for (piece, sum) in pieces {
                bytes.extend_from_slice(&piece.to_le_bytes());
                bytes.extend_from_slice(&sum.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a file that has what [`Self::encode`] returned, called `name` in errors.
    ///
    /// # Errors
    /// [`SumsError`].
    pub fn read(file: &File, name: &str) -> Result<Self, SumsError> {
        let reading = |source| SumsError::Read { name: name.to_owned(), source };
        let damaged = || SumsError::Damaged(name.to_owned());
        let length = file.metadata().map_err(reading)?.len();
        let mut bytes = vec![0; usize::try_from(length.min(MOST)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(reading)?;
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        let version = content.get(8..12).and_then(|version| version.try_into().ok()).map(u32::from_le_bytes);
        if !content.starts_with(&MAGIC) || crc32fast::hash(content).to_le_bytes() != *sum {
            return Err(damaged());
        }
        match version {
            Some(VERSION) => Self::decode(content.get(16..).unwrap_or_default()).ok_or_else(damaged),
            version => Err(SumsError::Version { name: name.to_owned(), version: version.unwrap_or(0) }),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut rest, mut sums) = (bytes, Self::default());
        for _ in 0..number(&mut rest)? {
            let length = number(&mut rest).filter(|length| *length <= NAME_MAX)?;
            let (name, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            let mut file = FileSums { length: number(&mut rest)?, pieces: Vec::new() };
            let mut free = 0;
            for _ in 0..number(&mut rest)? {
                let piece = number(&mut rest)?;
                let (sum, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                if piece < free || piece >= file.length.div_ceil(PIECE) {
                    return None;
                }
                free = piece + 1;
                file.pieces.push((piece, u32::from_le_bytes(*sum)));
            }
            sums.files.insert(std::str::from_utf8(name).ok()?.to_owned(), file);
        }
        rest.is_empty().then_some(sums)
    }
}

/// Takes a number from the front.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn quiet<T>(work: impl FnOnce(&mut Bulk<'_>) -> T) -> T {
        let mut none = |_| Ok(());
        work(&mut Bulk::from_disk(&mut none))
    }

    /// A file of a bit more than 5 MiB with data in the pieces 0, 3 and 5.
    fn sparse() -> (File, FileSums) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5 * MIB + 100).unwrap();
        for (at, length) in [(0, 10_usize), (3 * MIB + 5000, 8192), (5 * MIB, 100)] {
            file.write_all_at(&vec![7; length], at).unwrap();
        }
        let sums = quiet(|bulk| FileSums::make(&file, "disk", bulk)).unwrap();
        (file, sums)
    }

    fn check(file: &File, sums: &FileSums) -> Result<u64, String> {
        quiet(|bulk| sums.check(file, "disk", bulk)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flipped_bit_of_a_file_is_found_by_its_piece() {
        let (file, sums) = sparse();
        assert_eq!(sums.pieces.iter().map(|(piece, _)| *piece).collect::<Vec<_>>(), [0, 3, 5]);
        assert_eq!(check(&file, &sums), Ok(2 * MIB + 100));
        for (at, words) in [
            (9, "its 1048576 bytes at 0 are"),
            (2 * MIB + 77, "its 1048576 bytes at 2097152 are"),
            (3 * MIB, "its 1048576 bytes at 3145728 are"),
            (5 * MIB + 99, "its 100 bytes at 5242880 are"),
        ] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            for bit in 0..8 {
                file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
                let found = check(&file, &sums).unwrap_err();
                assert!(found.contains(words) && found.contains("`disk`"), "byte {at}: {found}");
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(check(&file, &sums), Ok(2 * MIB + 100), "zeros that were written are what a hole is");
        file.set_len(5 * MIB).unwrap();
        assert!(check(&file, &sums).unwrap_err().contains("5242880 bytes instead of 5242980"));
    }

    #[test]
    fn a_copy_without_holes_is_the_same_and_one_with_a_lost_piece_is_not() {
        let (file, sums) = sparse();
        let mut content = vec![0; usize::try_from(5 * MIB + 100).unwrap()];
        file.read_exact_at(&mut content, 0).unwrap();
        let copy = tempfile::tempfile().unwrap();
        copy.write_all_at(&content, 0).unwrap();
        check(&copy, &sums).unwrap();
        let lost = tempfile::tempfile().unwrap();
        lost.set_len(5 * MIB + 100).unwrap();
        lost.write_all_at(&content[..10], 0).unwrap();
        assert!(check(&lost, &sums).unwrap_err().contains("bytes at 3145728"));
    }

    #[test]
    fn sums_survive_their_file_and_every_flipped_bit_of_it_is_found() {
        let (_, disk) = sparse();
        let files = [("disk".to_owned(), disk), ("snapshot/disk0".to_owned(), FileSums::default())];
        let sums = Sums { files: files.into() };
        let (bytes, file) = (sums.encode(), tempfile::tempfile().unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(Sums::read(&file, SUMS).unwrap(), sums);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
                Sums::read(&file, SUMS).expect_err(&format!("bit {bit} of byte {at}"));
            }
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        for length in 0..bytes.len() as u64 {
            file.set_len(length).unwrap();
            Sums::read(&file, SUMS).expect_err(&format!("{length} bytes"));
            file.write_all_at(&bytes, 0).unwrap();
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let (_, disk) = sparse();
        let sums = Sums { files: [("disk".to_owned(), disk)].into() };
        let bytes = sums.encode();
        for (at, value) in
            [(16, 2_u8), (16, 0), (24, 0xff), (31, 0xff), (38, 0), (44, 0xff), (52, 9), (64, 0)]
        {
            let mut bad = bytes[..bytes.len() - 4].to_vec();
            bad[at] = value;
            bad.extend_from_slice(&crc32fast::hash(&bad).to_le_bytes());
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bad, 0).unwrap();
            assert!(matches!(Sums::read(&file, SUMS), Err(SumsError::Damaged(_))), "byte {at}");
        }
        let mut newer = bytes[..bytes.len() - 4].to_vec();
        newer[8] = 2;
        newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&newer, 0).unwrap();
        assert!(matches!(Sums::read(&file, SUMS), Err(SumsError::Version { version: 2, .. })));
    }
}
