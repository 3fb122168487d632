//! The file `memory`: guest memory in guest-physical layout, then a trailer that identifies the snapshot.
//!
//! ```text
//! 0                                       memory size
//! ├─ guest memory, holes where it is zero ─┼─ trailer ─┤
//! trailer:  0  magic "HRTHMEM\0"    16  size of the memory in bytes (u64)    40  id of the base, or zeros
//!           8  version (u32)        24  id of the snapshot                   56  CRC-32 of bytes 0–55 (u32)
//!          12  zero (u32)                                                    60  zero (u32)
//! ```
//!
//! Guest memory itself has no checksum: to verify it, every restore would have to read all of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{SnapshotId, id_text};

/// Size of the trailer in bytes.
pub const TRAILER: u64 = 64;

const MAGIC: [u8; 8] = *b"HRTHMEM\0";
const VERSION: u32 = 1;
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
    #[error("the file `{name}` has format version {version}, this hearth-vmm reads version {VERSION}")]
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
    /// The file cannot be read.
    #[error("reading the file `{name}`: {source}")]
    Read {
        /// Name of the file.
        name: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
}

/// Builds the trailer of a memory of `bytes` bytes.
#[must_use]
pub fn trailer(bytes: u64, id: &SnapshotId, base: Option<&SnapshotId>) -> [u8; LENGTH] {
    let mut trailer = [0; LENGTH];
    let fields: [&[u8]; 6] =
        [&MAGIC, &VERSION.to_le_bytes(), &[0; 4], &bytes.to_le_bytes(), id, base.unwrap_or(&[0; 16])];
    for (to, from) in trailer.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    let checksum = crc32fast::hash(trailer.split_at(CHECKED).0);
    for (to, from) in trailer.iter_mut().skip(CHECKED).zip(checksum.to_le_bytes()) {
        *to = from;
    }
    trailer
}

/// Checks that `file`, called `name` in errors, is the memory of snapshot `id` and has `bytes` bytes of guest memory.
///
/// # Errors
/// [`MemoryFileError`].
pub fn check(file: &File, name: &'static str, bytes: u64, id: &[u8]) -> Result<(), MemoryFileError> {
    let reading = |source| MemoryFileError::Read { name, source };
    let (found, expected) = (file.metadata().map_err(reading)?.len(), bytes + TRAILER);
    if found != expected {
        return Err(MemoryFileError::Length { name, found, expected });
    }
    let mut trailer = [0; LENGTH];
    file.read_exact_at(&mut trailer, bytes).map_err(reading)?;
    let (checked, rest) = trailer.split_at(CHECKED);
    let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, v2, v3, ..] = trailer;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC || !rest.starts_with(&crc32fast::hash(checked).to_le_bytes())
    {
        return Err(MemoryFileError::NotMemory(name));
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if version != VERSION {
        return Err(MemoryFileError::Version { name, version });
    }
    let own = checked.get(24..40).unwrap_or_default();
    if own != id || checked.get(16..24) != Some(&bytes.to_le_bytes()) {
        return Err(MemoryFileError::Other { name, found: id_text(own), expected: id_text(id) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;

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
        refused(&|file| file.set_len(0).unwrap(), "0 bytes instead of");
        refused(&|file| file.write_all_at(b"X", BYTES).unwrap(), "trailer is missing or damaged");
        refused(&|file| file.write_all_at(&[9], BYTES + 30).unwrap(), "trailer is missing or damaged");
    }
}
