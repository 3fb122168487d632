//! Filling, freeing and counting memory.

use std::fs;
use std::sync::{Mutex, PoisonError};

use super::failed;
use hearth_test_guest::pattern;

const MIB: usize = 1 << 20;

/// Memory that is kept until it is freed.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Vec<Vec<u8>>>);

impl Held {
    /// Takes this many MiB more and writes to all of it, with bytes that no two pages share.
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

    /// Gives back to the kernel all that was taken; returns how many MiB that were.
    pub(super) fn free(&self) -> usize {
        let blocks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        blocks.len()
    }
}

/// Makes the kernel forget what it could read again.
pub(super) fn drop_caches() -> Result<String, String> {
    super::machine::sync()?;
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(failed("dropping caches"))?;
    Ok(String::new())
}

/// `TOTAL FREE AVAILABLE` in KiB.
pub(super) fn meminfo() -> Result<String, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(failed("reading /proc/meminfo"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("0")
    };
    Ok(format!("{} {} {}", figure("MemTotal"), figure("MemFree"), figure("MemAvailable")))
}
