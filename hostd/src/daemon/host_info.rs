//! The host's resources, and its missing requirements.

use std::fs;
use std::ops::Deref;
use std::path::Path;

use crate::disk::Space;

/// The oldest kernel version on which microVMs run.
const OLDEST: (u32, u32) = (6, 7);

/// Size of the memory pages of hosts in bytes: snapshots are made of such pages.
const PAGE: usize = 4096;

/// This host.
#[derive(Debug, Clone)]
pub struct HostInfo {
    kernel: String,
    memory_mib: u64,
    cpus: usize,
    /// Missing requirements, as sentences.
    missing: Vec<String>,
}

/// A host that has everything that microVMs need.
#[derive(Debug, Clone)]
pub struct SupportedHost(HostInfo);

impl Deref for SupportedHost {
    type Target = HostInfo;

    fn deref(&self) -> &HostInfo {
        &self.0
    }
}

/// The host cannot run microVMs.
#[derive(Debug, thiserror::Error)]
#[error("this host cannot run microVMs:\n  {}", .0.join("\n  "))]
pub struct UnsupportedHost(Vec<String>);

impl HostInfo {
    /// Inspects the host.
    #[must_use]
    pub fn inspect() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut missing = Vec::new();
        if version(&kernel).is_none_or(|version| version < OLDEST) {
            let (major, minor) = OLDEST;
            missing.push(format!("its kernel is {kernel}: Linux {major}.{minor} or newer is needed"));
        }
        if !Path::new("/dev/kvm").exists() {
            missing.push(
                "/dev/kvm is not there: KVM is off, or this is a virtual machine without nesting".to_owned(),
            );
        }
        if std::env::consts::ARCH != "aarch64" {
            missing.push(format!("it is {}: images are for arm64", std::env::consts::ARCH));
        }
        let page = rustix::param::page_size();
        if page != PAGE {
            missing.push(format!("its memory pages have {page} bytes, those of snapshots {PAGE}: boot a kernel with 4 KiB pages"));
        }
        if !rustix::process::geteuid().is_root() {
            missing.push("hearthd does not run as root: it makes namespaces, taps and jails".to_owned());
        }
        Self { kernel, memory_mib: memory_mib(&memory), cpus, missing }
    }

    /// Checks that microVMs can run here.
    ///
    /// # Errors
    /// [`UnsupportedHost`] with everything that is missing.
    pub fn check(self) -> Result<SupportedHost, UnsupportedHost> {
        if self.missing.is_empty() { Ok(SupportedHost(self)) } else { Err(UnsupportedHost(self.missing)) }
    }

    /// Release of the kernel.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Memory of the host in MiB.
    #[must_use]
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// Number of CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus
    }
}

/// Major and minor number of a release like `6.12.48-1-arm64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `MemTotal` of `/proc/meminfo` in MiB.
fn memory_mib(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Size of the file system of `path`, and its free space, in bytes.
#[must_use]
pub fn disk(path: &Path) -> (u64, u64) {
    let space = Space::of(path).unwrap_or_default();
    (space.size, space.free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels_are_read() {
        for (release, expected) in [
            ("6.12.48-1-arm64", Some((6, 12))),
            ("6.7.0", Some((6, 7))),
            ("6.7-rc1", Some((6, 7))),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn a_host_is_supported_when_nothing_is_missing() {
        let host = HostInfo { kernel: "6.12.1".into(), memory_mib: 1024, cpus: 2, missing: Vec::new() };
        assert_eq!(host.clone().check().unwrap().memory_mib(), 1024);
        let missing = vec!["no KVM".to_owned(), "no root".to_owned()];
        let error = HostInfo { missing, ..host }.check().unwrap_err();
        assert_eq!(error.to_string(), "this host cannot run microVMs:\n  no KVM\n  no root");
    }

    #[test]
    fn memory_and_disk_are_known() {
        assert_eq!(memory_mib("MemTotal:        4029264 kB\nMemFree: 1 kB\n"), 3934);
        assert_eq!(memory_mib("nothing"), 0);
        let (total, free) = disk(Path::new("/"));
        assert!(total > 0 && free <= total);
        assert_eq!(disk(Path::new("/no/such/folder")), (0, 0));
    }
}
