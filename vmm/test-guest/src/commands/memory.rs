//! Filling, freeing and counting memory.

use std::fs;
use std::sync::{Mutex, PoisonError};

use super::failed;
use hearth_test_guest::pattern;

const MIB: usize = 1 << 20;

/// Memory that is held until it is freed.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Vec<Vec<u8>>>);

impl Held {
    /// Allocates this many MiB more and writes to all of it, such that no two pages have the same content.
    pub(super) fn fill(&self, mib: usize) -> Result<String, String> {
        let mut blocks = Vec::new();
        blocks.try_reserve(mib).map_err(failed("reserving memory"))?;
        for number in 0..mib {
            let mut block = vec![0; MIB];
            pattern::fill(number as u64, 0, &mut block);
            blocks.push(block);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut blocks);
        Ok(mib.to_string())
    }

    /// Gives all allocated memory back to the kernel; returns its size in MiB.
    pub(super) fn free(&self) -> usize {
        let blocks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        blocks.len()
    }
}

/// Makes the kernel drop its caches of data that it can read again.
pub(super) fn drop_caches() -> Result<String, String> {
    super::machine::sync()?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(failed("dropping caches"))?;
    Ok(String::new())
}

/// Returns `TOTAL FREE AVAILABLE` in KiB.
pub(super) fn meminfo() -> Result<String, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(failed("reading /proc/meminfo"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("0")
    };
    Ok(format!("{} {} {}", figure("MemTotal"), figure("MemFree"), figure("MemAvailable")))
}
