//! Repair of the end of the write-ahead log after a power failure.
//!
//! A group of commits is one record of the log, and it is acknowledged when the log is synced. If the power fails
//! before that, the file may already be as long as the record, with zeros in pages that never reached the disk.
//! RocksDB recognizes only records that were cut off, and takes a record with such a hole for damage. This module
//! distinguishes such a hole from damage:
//!
//! * A hole is in the last record: the next record is begun only after the one before it is synced.
//! * A hole consists of whole sectors that are zero. (etcd distinguishes the two in the same way: `isTornEntry` in
//!   its `wal/decoder.go`.)
//!
//! Format (RocksDB, `db/log_format.h`): blocks of 32 KiB hold physical records of checksum (4, little-endian), length (2), type (1),
//! and content. A record is one of type 1 (full), or one of type 2 (first), any of 3 (middle), and one of 4 (last).

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 << 10;
const SECTOR: usize = 512;
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
#[cfg(test)]
const LAST: u8 = 4;

/// Removes a last record with a hole from the newest log of a store; returns the number of removed bytes. `None`:
/// there was no such record, and nothing was changed.
pub(super) fn remove_torn_end(store: &Path) -> io::Result<Option<u64>> {
    let Some(log) = newest(store)? else { return Ok(None) };
    let content = fs::read(&log)?;
    let Some(end) = torn_from(&content) else { return Ok(None) };
    let file = OpenOptions::new().write(true).open(&log)?;
    let end = u64::try_from(end).map_err(io::Error::other)?;
    let removed = file.metadata()?.len().saturating_sub(end);
    file.set_len(end)?;
    file.sync_all()?;
    Ok(Some(removed))
}

fn newest(store: &Path) -> io::Result<Option<PathBuf>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "log")
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok())
        {
            logs.push((number, path));
        }
    }
    Ok(logs.into_iter().max().map(|(_, path)| path))
}

/// Offset of the last record, if it has a hole. The record is not the last one if another one begins after the
/// unreadable part.
fn torn_from(log: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Offset of the record that is not complete yet.
    let mut begun = None;
    // The first unreadable range, and the offset of its record.
    let mut bad: Option<(std::ops::Range<usize>, usize)> = None;
    while at < log.len() {
        let block_end = (at / BLOCK + 1) * BLOCK;
        if block_end - at < HEADER {
            at = block_end;
            continue;
        }
        let block = log.get(at..block_end.min(log.len()))?;
        match Physical::read(block) {
            Some(record) => {
                match record.kind {
                    FULL | FIRST if bad.is_some() => return None,
                    FIRST => begun = Some(at),
                    MIDDLE => {}
                    _ => begun = None,
                }
                at += record.size;
            }
            None => {
                // The offset of the next record in this block is unknown.
                if (1..block.len()).any(|next| block.get(next..).is_some_and(begins)) {
                    return None;
                }
                let extent = at..at + extent(block);
                bad.get_or_insert((extent, begun.unwrap_or(at)));
                at = block_end;
            }
        }
    }
    let (extent, from) = bad?;
    sectors(log, extent).any(|sector| sector.iter().all(|byte| *byte == 0)).then_some(from)
}

/// A physical record whose checksum is correct.
struct Physical {
    kind: u8,
    size: usize,
}

impl Physical {
    fn read(block: &[u8]) -> Option<Self> {
        let (&[a, b, c, d, _, _, kind], _) = block.split_first_chunk()?;
        let size = size(block)?;
        let checksum = crc32c(block.get(HEADER - 1..size)?);
        // RocksDB stores checksums in this masked form, for logs that contain checksums themselves.
        let masked = checksum.rotate_right(15).wrapping_add(0xa282_ead8);
        (masked == u32::from_le_bytes([a, b, c, d])).then_some(Self { kind, size })
    }
}

/// Whether a record begins here.
fn begins(bytes: &[u8]) -> bool {
    // Most offsets are ruled out without computing a checksum.
    matches!(bytes.get(HEADER - 1), Some(&(FULL | FIRST))) && Physical::read(bytes).is_some()
}

fn size(block: &[u8]) -> Option<usize> {
    let length = block.get(4..6)?.try_into().ok().map(u16::from_le_bytes)?;
    Some(HEADER + usize::from(length))
}

/// Number of bytes of a block that an unreadable record covers: the length in its header, if there is one.
fn extent(block: &[u8]) -> usize {
    match size(block) {
        Some(size) if size > HEADER => size.min(block.len()),
        _ => block.len(),
    }
}

/// The parts of a range that lie in one sector each.
fn sectors(log: &[u8], range: std::ops::Range<usize>) -> impl Iterator<Item = &[u8]> {
    let first = range.start / SECTOR;
    let last = range.end.div_ceil(SECTOR);
    (first..last).filter_map(move |sector| {
        log.get((sector * SECTOR).max(range.start)..((sector + 1) * SECTOR).min(range.end))
    })
}

/// CRC-32C as defined in RFC 3720.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn physical(kind: u8, content: &[u8]) -> Vec<u8> {
        let checked = [&[kind], content].concat();
        let checksum = crc32c(&checked).rotate_right(15).wrapping_add(0xa282_ead8);
        let length = u16::try_from(content.len()).unwrap();
        [checksum.to_le_bytes().as_slice(), &length.to_le_bytes(), &checked].concat()
    }

    #[test]
    fn a_torn_end_is_cut_off_the_newest_log_and_nothing_else_is_touched() {
        let store = tempfile::tempdir().unwrap();
        let path = |name: &str| store.path().join(name);
        assert_eq!(remove_torn_end(store.path()).unwrap(), None);
        fs::write(path("000009.log"), log()).unwrap();
        fs::write(path("MANIFEST-1"), "x").unwrap();
        assert_eq!(remove_torn_end(store.path()).unwrap(), None);
        let mut torn = log();
        torn[2 * BLOCK..].fill(0);
        fs::write(path("000010.log"), &torn).unwrap();
        assert_eq!(remove_torn_end(store.path()).unwrap(), Some((torn.len() - SECOND) as u64));
        assert_eq!(fs::read(path("000010.log")).unwrap(), torn[..SECOND]);
        assert_eq!(fs::read(path("000009.log")).unwrap(), log());
    }

    /// Two records: a short one, and one of three blocks.
    fn log() -> Vec<u8> {
        let mut log = physical(FULL, &[7; 1000]);
        let first = BLOCK - log.len() - HEADER;
        log.extend(physical(FIRST, &vec![8; first]));
        log.extend(physical(MIDDLE, &[8; BLOCK - HEADER]));
        log.extend(physical(LAST, &[8; 5000]));
        log
    }

    /// Where the second record begins.
    const SECOND: usize = 1000 + HEADER;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_whole_log_and_a_shortened_one_have_no_hole() {
        let log = log();
        assert_eq!(torn_from(&log), None);
        assert_eq!(torn_from(&[]), None);
        for end in [3, 500, SECOND, SECOND + 3, BLOCK, BLOCK + 3, BLOCK + 600, log.len() - 1] {
            assert_eq!(torn_from(&log[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_last_record_with_a_hole_is_found_wherever_the_hole_is() {
        let end = log().len();
        for hole in [
            4096..8192,
            4096..end,
            BLOCK - 4096..BLOCK,
            BLOCK..BLOCK + 4096,
            BLOCK..2 * BLOCK,
            2 * BLOCK..end,
            2 * BLOCK + 4096..end,
        ] {
            let mut log = log();
            log[hole.clone()].fill(0);
            assert_eq!(torn_from(&log), Some(SECOND), "{hole:?}");
        }
    }

    #[test]
    fn a_hole_before_a_record_that_can_be_read_is_damage() {
        for hole in [0..512, 300..SECOND] {
            let mut log = log();
            log[hole.clone()].fill(0);
            assert_eq!(torn_from(&log), None, "{hole:?}");
            log.truncate(SECOND);
            log.resize(BLOCK, 0);
            assert_eq!(torn_from(&log), Some(0), "{hole:?}");
            log.extend(physical(FULL, &[9; 100]));
            assert_eq!(torn_from(&log), None, "{hole:?}");
        }
    }

    #[test]
    fn other_bytes_are_damage() {
        for at in [SECOND + HEADER, BLOCK - 1, BLOCK + 100, 2 * BLOCK + 4999] {
            let mut log = log();
            log[at] ^= 1;
            assert_eq!(torn_from(&log), None, "{at}");
        }
    }
}
