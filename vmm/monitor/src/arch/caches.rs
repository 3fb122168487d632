//! The host's CPU caches, as its kernel describes them in
//! `/sys/devices/system/cpu/cpu0/cache/index*` (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu).
//!
//! The descriptions are read before the process is jailed and passed on to the guest in its DeviceTree, so that
//! programs that size their buffers by the caches see the real sizes.

use std::fs;
use std::path::Path;

/// Kind of content that a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Data and instructions.
    Unified,
}

/// One cache level of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// Level, 1 being the nearest to the CPU.
    pub level: u8,
    /// Kind of content that the cache holds.
    pub kind: CacheKind,
    /// Size in bytes.
    pub size: u32,
    /// Line size in bytes.
    pub line_size: u32,
    /// Number of sets.
    pub sets: u32,
    /// Whether other CPUs share the cache.
    pub shared: bool,
}

/// The caches of the host's first CPU, nearest first; empty where the host describes none. Caches without a
/// size (common on virtual hosts) are left out.
#[must_use]
pub fn of_host() -> Vec<Cache> {
    read(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

fn read(folder: &Path) -> Vec<Cache> {
    let mut caches: Vec<Cache> =
        (0..8).filter_map(|index| read_one(&folder.join(format!("index{index}")))).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

fn read_one(folder: &Path) -> Option<Cache> {
    let text = |name: &str| fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_owned());
    let number = |name: &str| text(name)?.parse::<u32>().ok();
    let kind = match text("type")?.as_str() {
        "Data" => CacheKind::Data,
        "Instruction" => CacheKind::Instruction,
        "Unified" => CacheKind::Unified,
        _ => return None,
    };
    let size = text("size")?.strip_suffix('K')?.parse::<u32>().ok()?.checked_mul(1024)?;
    Some(Cache {
        level: text("level")?.parse().ok()?,
        kind,
        size: (size > 0).then_some(size)?,
        line_size: number("coherency_line_size")?,
        sets: number("number_of_sets")?,
        shared: text("shared_cpu_list").is_some_and(|list| list.contains([',', '-'])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = |name: &str, level, kind, size, shared| {
            let index = folder.path().join(name);
            fs::create_dir(&index).unwrap();
            let files = [("level", level), ("type", kind), ("size", size), ("coherency_line_size", "64\n")];
            for (file, text) in
                files.into_iter().chain([("number_of_sets", "256\n"), ("shared_cpu_list", shared)])
            {
                fs::write(index.join(file), text).unwrap();
            }
        };
        index("index0", "1\n", "Data\n", "64K\n", "0\n");
        index("index1", "3\n", "Unified\n", "32768K\n", "0-31\n");
        index("index2", "2\n", "Unified\n", "\n", "0\n");
        let data = Cache {
            level: 1,
            kind: CacheKind::Data,
            size: 64 << 10,
            line_size: 64,
            sets: 256,
            shared: false,
        };
        let unified = Cache { level: 3, kind: CacheKind::Unified, size: 32 << 20, shared: true, ..data };
        assert_eq!(read(folder.path()), [data, unified]);
        assert!(read(Path::new("/nowhere")).is_empty());
    }
}
