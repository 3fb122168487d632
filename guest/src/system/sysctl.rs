//! Settings of the kernel that apps expect, as containers of Docker and distributions have them. They are made before the app's container,
//! which can only read them.

use std::fs;
use std::io;

use super::check;

/// Memory for which there may be one inotify watch. A watch takes about 1 KiB of the kernel's memory; the kernel's own default, one for
/// each 100 KiB, is too few for what watches a project's files.
const WATCH: u64 = 16 << 10;
/// Fewest and most inotify watches: what distributions set for any machine, and the kernel's own maximum.
const WATCHES: (u64, u64) = (1 << 16, 1 << 20);

/// The settings for a machine with this memory in bytes: their names below `/proc/sys`, and values.
#[must_use]
pub fn values(memory: u64) -> [(&'static str, String); 5] {
    let watches = (memory / WATCH).clamp(WATCHES.0, WATCHES.1);
    [
        // Any user may listen on any port and send pings: the network is the app's alone (moby, daemon/oci_linux.go, `withSysctls`).
        ("net/ipv4/ip_unprivileged_port_start", "0".to_owned()),
        ("net/ipv4/ping_group_range", "0 2147483647".to_owned()),
        // Search engines and databases map many files.
        ("vm/max_map_count", "1048576".to_owned()),
        ("fs/inotify/max_user_watches", watches.to_string()),
        ("fs/inotify/max_user_instances", "1024".to_owned()),
    ]
}

/// Sets one of them.
///
/// # Errors
/// The kernel does not have it, or refused the value.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

/// The machine's memory in bytes.
///
/// # Errors
/// A system call failed.
pub fn memory() -> io::Result<u64> {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut told: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a structure that lives until the call returns.
    check(unsafe { libc::sysinfo(&raw mut told) })?;
    Ok(told.totalram.saturating_mul(told.mem_unit.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_follow_the_memory_within_bounds() {
        for (mib, expected) in [(128, "65536"), (2048, "131072"), (8192, "524288"), (1 << 20, "1048576")] {
            assert_eq!(values(mib << 20)[3].1, expected, "{mib}");
        }
    }
}
