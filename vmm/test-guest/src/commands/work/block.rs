//! Random requests to a disk, by two threads that each use their own part of the disk.

use hearth_test_guest::disk_model::{DiskModel, SECTOR};
use hearth_test_guest::work::Kind;

use super::Going;
use crate::commands::disk;

/// Number of bytes that a thread uses: few, so that it soon accesses again what it has written.
const PART: u64 = 2 << 20;
/// Number of threads.
const THREADS: u64 = 2;

/// Starts the threads.
pub(super) fn start(going: &mut Going, device: &str) -> Result<(), String> {
    let share = (PART / SECTOR as u64).min(disk::sectors(device)? / THREADS);
    if share == 0 {
        return Err(format!("{device} is too small to work on"));
    }
    for number in 0..THREADS {
        let disk = disk::open(device)?;
        let mut model = DiskModel::of_unknown(number, number * share..(number + 1) * share);
        going.spawn(Kind::Block, move |board| {
            let mut buffer = disk::request_buffer();
            while !board.is_stopping() {
                disk::perform(&disk, &mut model, &mut buffer)?;
                board.done(Kind::Block);
            }
            Ok(())
        })?;
    }
    Ok(())
}
