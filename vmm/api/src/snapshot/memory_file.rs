//! The file `memory`: guest memory in guest-physical layout, checksums of its pages, and a trailer that identifies the
//! snapshot.
//!
//! ```text
//! 0                                       memory size
//! ├─ guest memory, holes where it is zero ─┼─ checksums ─┼─ trailer ─┤
//! trailer:  0  magic "HRTHMEM\0"              16  size of the memory in bytes (u64)    40  id of the base, or zeros
//!           8  version (u32)                  24  id of the snapshot                   56  CRC-32 of bytes 0–55 (u32)
//!          12  size of the checksums (u32)                                             60  CRC-32 of the checksums (u32)
//! ```
//!
//! Version 1 has no checksums. [`checksums`](super::checksums) has their format. A restore does not compare them: it would
//! have to read all of memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::bulk::{Bulk, CHUNK};
use super::checksums::{PAGE, PAGE_BYTES, PageChecksums};
use super::{SnapshotId, id_text};

/// Size of the trailer in bytes.
const TRAILER: u64 = 64;

const MAGIC: [u8; 8] = *b"HRTHMEM\0";
const VERSION: u32 = 2;
/// The version without checksums.
const PLAIN: u32 = 1;
const CHECKED: usize = 56;
const LENGTH: usize = 64;

/// The reason for which a file is not the memory that belongs to a state.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFileError {
    /// The file is too short or too long.
    #[error(
        "the file `{name}` is too short: it has {found} bytes instead of {expected}; restore it from its source"
    )]
    Length {
        /// Name of the file.
        name: &'static str,
        /// Size of the file in bytes.
        found: u64,
        /// Expected size in bytes.
        expected: u64,
    },
    /// The file has no valid trailer.
    #[error(
        "the file `{0}` is not a saved memory: its trailer is missing or damaged; restore it from its source"
    )]
    NotMemory(&'static str),
    /// The file was written by another release, in another version of the format.
    #[error(
        "the file `{name}` has format version {version}, this hearth-vmm reads versions {PLAIN} and {VERSION}"
    )]
    Version {
        /// Name of the file.
        name: &'static str,
        /// Format version of the file.
        version: u32,
    },
    /// The file belongs to another snapshot.
    #[error(
        "the file `{name}` belongs to snapshot {found}, not to {expected}: pass the files of one snapshot"
    )]
    Other {
        /// Name of the file.
        name: &'static str,
        /// Id of the snapshot to which the file belongs.
        found: String,
        /// Id of the snapshot that is expected.
        expected: String,
    },
    /// The checksums are damaged.
    #[error("the checksums of the file `{0}` are damaged; restore it from its source")]
    Checksums(&'static str),
    /// A page is not what was written.
    #[error(
        "the file `{name}` is damaged: its 4096 bytes at {offset} are not what was written; restore it from its source"
    )]
    Page {
        /// Name of the file.
        name: &'static str,
        /// Offset of the page in bytes.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("reading the file `{name}`: {source}")]
    Read {
        /// Name of the file.
        name: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
}

/// The trailer of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Size of the guest memory in bytes.
    pub bytes: u64,
    /// Id of the snapshot.
    pub id: SnapshotId,
    /// Size in bytes of the checksums behind the memory, and their CRC-32; `None` in a file of version 1.
    checksums: Option<(u32, u32)>,
}

/// Builds the trailer of a memory of `bytes` bytes in a file without checksums.
#[must_use]
pub fn trailer(bytes: u64, id: &SnapshotId, base: Option<&SnapshotId>) -> [u8; LENGTH] {
    build(bytes, id, base, None)
}

/// Builds what follows a memory of `bytes` bytes: checksums and trailer.
#[must_use]
pub fn ending(bytes: u64, id: &SnapshotId, base: Option<&SnapshotId>, checksums: &PageChecksums) -> Vec<u8> {
    let mut ending = checksums.encode();
    // Memory has at most 32 GiB, its checksums far below 4 GiB.
    let described = (u32::try_from(ending.len()).unwrap_or(u32::MAX), crc32fast::hash(&ending));
    ending.extend_from_slice(&build(bytes, id, base, Some(described)));
    ending
}

fn build(
    bytes: u64,
    id: &SnapshotId,
    base: Option<&SnapshotId>,
    checksums: Option<(u32, u32)>,
) -> [u8; LENGTH] {
    let mut trailer = [0; LENGTH];
    let version = if checksums.is_some() { VERSION } else { PLAIN };
    let (size, sum) = checksums.unwrap_or_default();
    let fields: [&[u8]; 6] = [
        &MAGIC,
        &version.to_le_bytes(),
        &size.to_le_bytes(),
        &bytes.to_le_bytes(),
        id,
        base.unwrap_or(&[0; 16]),
    ];
    for (to, from) in trailer.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    let checksum = crc32fast::hash(trailer.split_at(CHECKED).0);
    for (to, from) in
        trailer.iter_mut().skip(CHECKED).zip(checksum.to_le_bytes().into_iter().chain(sum.to_le_bytes()))
    {
        *to = from;
    }
    trailer
}

/// Reads the trailer of `file`, called `name` in errors.
///
/// # Errors
/// [`MemoryFileError`].
pub fn read(file: &File, name: &'static str) -> Result<Trailer, MemoryFileError> {
    let reading = |source| MemoryFileError::Read { name, source };
    let length = file.metadata().map_err(reading)?.len();
    let at = length.checked_sub(TRAILER).ok_or(MemoryFileError::NotMemory(name))?;
    let mut trailer = [0; LENGTH];
    file.read_exact_at(&mut trailer, at).map_err(reading)?;
    let (checked, rest) = trailer.split_at(CHECKED);
    let word = |at: usize| {
        trailer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    if !checked.starts_with(&MAGIC) || !rest.starts_with(&crc32fast::hash(checked).to_le_bytes()) {
        return Err(MemoryFileError::NotMemory(name));
    }
    let checksums = match word(8) {
        PLAIN => None,
        VERSION => Some((word(12), word(60))),
        version => return Err(MemoryFileError::Version { name, version }),
    };
    let bytes = u64::from(word(16)) | u64::from(word(20)) << 32;
    let expected = bytes.saturating_add(checksums.map_or(0, |(size, _)| size.into())).saturating_add(TRAILER);
    if length != expected {
        return Err(MemoryFileError::Length { name, found: length, expected });
    }
    let id = checked.get(24..40).and_then(|id| id.try_into().ok()).unwrap_or_default();
    Ok(Trailer { bytes, id, checksums })
}

/// Checks that `file`, called `name` in errors, is the memory of snapshot `id` and has `bytes` bytes of guest memory.
///
/// # Errors
/// [`MemoryFileError`].
pub fn check(file: &File, name: &'static str, bytes: u64, id: &[u8]) -> Result<(), MemoryFileError> {
    let found = file.metadata().map_err(|source| MemoryFileError::Read { name, source })?.len();
    if found < bytes.saturating_add(TRAILER) {
        return Err(MemoryFileError::Length { name, found, expected: bytes.saturating_add(TRAILER) });
    }
    let trailer = read(file, name)?;
    if trailer.id[..] != *id || trailer.bytes != bytes {
        return Err(MemoryFileError::Other { name, found: id_text(&trailer.id), expected: id_text(id) });
    }
    Ok(())
}

/// Reads the checksums of `file`, called `name` in errors; `None` if the file has none.
///
/// # Errors
/// [`MemoryFileError`].
pub fn checksums(
    file: &File,
    name: &'static str,
    trailer: &Trailer,
) -> Result<Option<PageChecksums>, MemoryFileError> {
    let Some((size, sum)) = trailer.checksums else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, trailer.bytes).map_err(|source| MemoryFileError::Read { name, source })?;
    let decoded = PageChecksums::decode(&bytes, trailer.bytes / PAGE);
    match decoded.filter(|_| crc32fast::hash(&bytes) == sum) {
        Some(decoded) => Ok(Some(decoded)),
        None => Err(MemoryFileError::Checksums(name)),
    }
}

/// Reads all pages of `file` that have checksums, and compares them; returns how many there are. `None` if the file was
/// written by a release that made none.
///
/// # Errors
/// [`MemoryFileError::Page`] for the first page that differs.
pub fn verify(file: &File, name: &'static str, bulk: &mut Bulk<'_>) -> Result<Option<u64>, MemoryFileError> {
    let trailer = read(file, name)?;
    let Some(checksums) = checksums(file, name, &trailer)? else { return Ok(None) };
    let mut sums = checksums.iter();
    let mut file = bulk.file(file);
    for chunk in checksums.chunks(CHUNK / PAGE) {
        let content = file
            .read(chunk.start * PAGE, (chunk.end - chunk.start) * PAGE)
            .map_err(|source| MemoryFileError::Read { name, source })?;
        for (content, (page, sum)) in content.chunks(PAGE_BYTES).zip(&mut sums) {
            if PageChecksums::of(content) != sum {
                return Err(MemoryFileError::Page { name, offset: page * PAGE });
            }
        }
    }
    Ok(Some(checksums.pages()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;

    fn verify(file: &File, name: &'static str) -> Result<Option<u64>, MemoryFileError> {
        super::verify(file, name, &mut Bulk::from_disk(&mut |_| Ok(())))
    }

    fn file(id: SnapshotId) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&trailer(BYTES, &id, None), BYTES).unwrap();
        file
    }

    #[test]
    fn a_memory_is_known_by_its_id() {
        check(&file([1; 16]), "memory", BYTES, &[1; 16]).unwrap();
        let message = check(&file([1; 16]), "memory", BYTES, &[2; 16]).unwrap_err().to_string();
        assert!(message.contains(&"01".repeat(16)) && message.contains(&"02".repeat(16)), "{message}");
    }

    #[test]
    fn what_is_short_damaged_or_something_else_is_refused() {
        let refused = |change: &dyn Fn(&File), expected: &str| {
            let file = file([1; 16]);
            change(&file);
            let message = check(&file, "memory", BYTES, &[1; 16]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(&|file| file.set_len(BYTES).unwrap(), "1048576 bytes instead of 1048640");
        refused(&|file| file.set_len(BYTES + 65).unwrap(), "trailer is missing or damaged");
        refused(&|file| file.set_len(0).unwrap(), "0 bytes instead of");
        refused(&|file| file.write_all_at(b"X", BYTES).unwrap(), "trailer is missing or damaged");
        refused(&|file| file.write_all_at(&[9], BYTES + 30).unwrap(), "trailer is missing or damaged");
    }

    /// A file with pages 3, 4 and 200, and checksums of 3 and 200.
    fn with_checksums() -> File {
        let file = tempfile::tempfile().unwrap();
        let mut sums = PageChecksums::default();
        for page in [3, 4, 200] {
            let content = [page as u8; PAGE as usize];
            file.write_all_at(&content, page * PAGE).unwrap();
            if page != 4 {
                sums.push(page, PageChecksums::of(&content));
            }
        }
        file.write_all_at(&ending(BYTES, &[1; 16], None, &sums), BYTES).unwrap();
        file
    }

    #[test]
    fn every_flipped_bit_of_a_page_with_a_checksum_and_of_what_follows_is_found() {
        let file = with_checksums();
        check(&file, "memory", BYTES, &[1; 16]).unwrap();
        assert_eq!(verify(&file, "memory").unwrap(), Some(2));
        let mut byte = [0];
        let length = file.metadata().unwrap().len();
        for at in [3 * PAGE, 4 * PAGE - 1, 200 * PAGE + 77].into_iter().chain(BYTES..length) {
            file.read_exact_at(&mut byte, at).unwrap();
            for bit in 0..8 {
                file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
                verify(&file, "memory").expect_err(&format!("bit {bit} of byte {at}"));
            }
            file.write_all_at(&byte, at).unwrap();
        }
        file.write_all_at(&[7], 200 * PAGE + 77).unwrap();
        let message = verify(&file, "memory").unwrap_err().to_string();
        assert!(message.contains("`memory`") && message.contains("4096 bytes at 819200"), "{message}");
        file.write_all_at(&[7], BYTES + 10).unwrap();
        let message = verify(&file, "memory").unwrap_err().to_string();
        assert!(message.contains("the checksums of the file `memory` are damaged"), "{message}");
        check(&file, "memory", BYTES, &[1; 16]).unwrap();
    }

    #[test]
    fn a_file_of_a_release_without_checksums_is_read_and_has_none() {
        assert_eq!(verify(&file([1; 16]), "memory").unwrap(), None);
    }
}
