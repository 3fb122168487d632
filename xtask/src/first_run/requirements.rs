//! Checks the machine before the run: everything that it lacks is reported at once, with instructions.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::{Goal, Pending};
use crate::cache::Cache;
use crate::command;
use crate::metal;

/// Disk space in MiB that a run needs for its own files.
const DISK_MIB: u64 = 3 << 10;
/// Memory for compilers, in MiB.
const COMPILERS_MIB: u64 = 4 << 10;
/// Memory in MiB that the emulated metal needs in addition to its own system (`cargo xtask test`, its largest guest).
const METAL_MIB: u64 = 6 << 10;
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// Properties of the machine.
#[derive(Clone, Debug)]
struct HostProperties {
    is_root: bool,
    /// Free space in the cache's file system, in MiB; `None` if it is unknown.
    disk_mib: Option<u64>,
    /// Available memory, in MiB.
    memory_mib: Option<u64>,
    /// Whether the kernel can run foreign programs through an emulator.
    binfmt: bool,
}

/// Requirements of the run.
#[derive(Clone, Copy, Debug)]
struct Requirements {
    /// Whether packages have to be installed.
    installs: bool,
    /// Whether Debian roots have to be made.
    makes_roots: bool,
    disk_mib: u64,
    memory_mib: u64,
    /// Whether programs of another architecture have to be run.
    emulates: bool,
}

/// Checks that the machine meets the run's requirements, as far as that can be known now.
pub(super) fn check(cache: &Cache, goal: Goal, pending: &Pending, installs: bool) -> Result<()> {
    let native = metal::kvm_is_usable();
    let on_metal = goal == Goal::OnMetal;
    let required = Requirements {
        installs,
        makes_roots: on_metal && pending.makes_bases(),
        disk_mib: pending.mib() + DISK_MIB,
        memory_mib: if on_metal && !native { METAL_MIB } else { COMPILERS_MIB },
        emulates: on_metal && pending.makes_bases() && !cfg!(target_arch = "aarch64"),
    };
    let place = cache.path("");
    let host = HostProperties {
        is_root: rustix::process::geteuid().is_root(),
        disk_mib: free_mib(&place),
        memory_mib: available_mib(),
        binfmt: has_binfmt(),
    };
    let missing = missing(&host, &required, &place);
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine is not ready:\n  - {}", missing.join("\n  - "))
}

/// The missing properties, with instructions.
fn missing(host: &HostProperties, required: &Requirements, cache: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !host.is_root && (required.installs || required.makes_roots || required.emulates) {
        let why = if required.installs { "installs Debian packages" } else { "makes Debian roots" };
        missing.push(format!("the first run {why}, which only root may do: run it as root once"));
    }
    if let Some(free) = host.disk_mib
        && free < required.disk_mib
    {
        missing.push(format!(
            "{} has {free} MiB free, and {} MiB are needed: free some, or set HEARTH_CACHE to a folder on a larger disk",
            cache.display(),
            required.disk_mib
        ));
    }
    if let Some(memory) = host.memory_mib
        && memory < required.memory_mib
    {
        missing.push(format!(
            "{memory} MiB of memory are available, and {} MiB are needed: end what uses it, or take a larger machine",
            required.memory_mib
        ));
    }
    if required.emulates && !host.binfmt {
        missing.push(
            "this kernel has no binfmt_misc, with which arm64 programs run on it while base images are made: load the module \
             (`modprobe binfmt_misc`), or take a kernel with CONFIG_BINFMT_MISC"
                .to_owned(),
        );
    }
    missing
}

fn has_binfmt() -> bool {
    let registered = || {
        let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        systems.lines().any(|line| line.split_whitespace().last() == Some("binfmt_misc"))
    };
    let loadable = || {
        command::find_program("modprobe").is_some_and(|modprobe| {
            command::capture(std::process::Command::new(modprobe).args(["-n", "binfmt_misc"])).is_ok()
        })
    };
    Path::new(BINFMT).join("register").exists() || registered() || loadable()
}

fn free_mib(path: &Path) -> Option<u64> {
    let answer = rustix::fs::statvfs(path).ok()?;
    Some(answer.f_bavail.saturating_mul(answer.f_frsize) >> 20)
}

/// Available memory, in MiB; `None` if it is unknown.
pub(crate) fn available_mib() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostProperties =
        HostProperties { is_root: true, disk_mib: Some(50_000), memory_mib: Some(8_000), binfmt: true };
    const REQUIRED: Requirements = Requirements {
        installs: true,
        makes_roots: true,
        disk_mib: 20_000,
        memory_mib: 6_000,
        emulates: true,
    };

    #[test]
    fn everything_that_is_missing_is_said_at_once_with_what_to_do() {
        assert_eq!(missing(&HOST, &REQUIRED, Path::new("/cache")), Vec::<String>::new());
        let poor = HostProperties { is_root: false, disk_mib: Some(10), memory_mib: Some(20), binfmt: false };
        let text = missing(&poor, &REQUIRED, Path::new("/cache")).join("\n");
        for word in
            ["as root", "/cache has 10 MiB free", "HEARTH_CACHE", "20 MiB of memory", "modprobe binfmt_misc"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn what_is_not_needed_is_not_asked_for() {
        let little =
            Requirements { installs: false, makes_roots: false, disk_mib: 1, memory_mib: 1, emulates: false };
        let poor = HostProperties { is_root: false, disk_mib: None, memory_mib: None, binfmt: false };
        assert!(missing(&poor, &little, Path::new("/cache")).is_empty());
    }

    #[test]
    fn memory_and_disks_are_measured() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert!(free_mib(Path::new("/")).is_some());
        assert!(free_mib(Path::new("/no such folder")).is_none());
    }
}
