//! Control groups of microVMs: how the host's processors are shared, and how much memory a monitor may take.
//!
//! CPU time is shared by weight, in proportion to the baseline (docs/behaviour.md, "Memory classes"): on an idle
//! host, a microVM bursts to all CPUs it has; on a busy host, each microVM has its share. Memory is limited to that
//! of the guest plus what the monitor itself needs.
//!
//! MicroVMs of builds have groups as well, with the share of their memory class. Each group is named after the user id
//! of its monitor, so that no two monitors share one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_model::shape::Shape;
use hearth_vmm_jail::Cgroup;
use hearth_vmm_jail::cgroup::{CgroupConfig, CgroupError, DEFAULT_PIDS_MAX};
use rustix::fs::statfs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The controllers that microVMs need.
const CONTROLLERS: &str = "+cpu +memory +pids";
/// The file that enables controllers for child groups.
const SUBTREE: &str = "cgroup.subtree_control";
/// A file that every group has.
const PROCS: &str = "cgroup.procs";
/// The baseline in MiB whose weight is the kernel's default.
const DEFAULT_MIB: u64 = 2048;
/// The kernel's default weight.
const DEFAULT_WEIGHT: u32 = 100;
/// Magic numbers of file systems that keep files in memory (statfs(2)): tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// How long a killed group may take to become empty.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why control groups cannot be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "control groups for microVMs cannot be made in {parent}: cannot {what}: {source}; they need cgroup version 2 with the \
     controllers cpu, memory and pids (mount -t cgroup2 cgroup2 /sys/fs/cgroup): provide it, name another parent \
     (cgroup.parent), or do without (cgroup.enabled = false)"
)]
pub struct GroupsError {
    /// The configured parent.
    parent: PathBuf,
    /// The operation that failed.
    what: String,
    /// The error of the operating system.
    source: io::Error,
}

/// The control group (version 2) of each monitor process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupSettings {
    /// Whether there is one. Without, microVMs share the CPUs evenly whatever their size, and a monitor's memory is not
    /// limited.
    pub enabled: bool,
    /// Group of those of all microVMs, made if it is not there, with the controllers `cpu`, `memory` and `pids`; never
    /// the daemon's own, nor below it: microVMs outlive the daemon.
    pub parent: PathBuf,
}

impl Default for CgroupSettings {
    fn default() -> Self {
        Self { enabled: true, parent: "/sys/fs/cgroup/hearth".into() }
    }
}

/// What a microVM may use, for the limits of its group.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Memory and CPUs of the guest.
    pub shape: Shape,
    /// The memory class in MiB.
    pub class_mib: u64,
}

/// The control groups of this host's microVMs; disabled if there is no parent.
#[derive(Debug, Clone)]
pub struct Groups {
    parent: Option<PathBuf>,
    /// What the names of groups begin with, before the user id. A controller removes groups with its own prefix alone.
    prefix: &'static str,
}

impl Groups {
    /// Makes the parent group with its controllers, and tests it by making a group.
    ///
    /// # Errors
    /// [`GroupsError`] when the host has no such groups.
    pub fn open(settings: &CgroupSettings, prefix: &'static str) -> Result<Self, GroupsError> {
        if !settings.enabled {
            return Ok(Self { parent: None, prefix });
        }
        let parent = &settings.parent;
        let failed = |what: String| move |source| GroupsError { parent: parent.clone(), what, source };
        fs::create_dir_all(parent).map_err(failed(format!("make {}", parent.display())))?;
        for group in with_controllers(parent) {
            let file = group.join(SUBTREE);
            let has = fs::read_to_string(&file).unwrap_or_default();
            if !CONTROLLERS.split(' ').all(|wanted| has.split_whitespace().any(|name| wanted.ends_with(name)))
            {
                let what = format!("write `{CONTROLLERS}` to {}", file.display());
                fs::write(&file, CONTROLLERS).map_err(failed(what))?;
            }
        }
        let groups = Self { parent: Some(parent.clone()), prefix };
        // Builders by hand may open the same parent at the same time.
        let trial = CgroupConfig {
            cpu_weight: Some(DEFAULT_WEIGHT),
            ..CgroupConfig::for_guest(parent, format!("trial-{prefix}{}", std::process::id()), 1 << 30)
        };
        let tried = Cgroup::of(&trial).and_then(|left| left.remove()).and_then(|()| Cgroup::create(&trial));
        tried
            .and_then(|made| made.remove())
            .map_err(|error| failed("make a group there".into())(io::Error::other(error)))?;
        Ok(groups)
    }

    /// The group of the monitor with the user id `uid`, before the microVM that it will run is known.
    #[must_use]
    pub fn idle(&self, uid: u32) -> Option<CgroupConfig> {
        Some(CgroupConfig { pids_max: Some(DEFAULT_PIDS_MAX), ..self.unlimited(uid)? })
    }

    /// The group of the monitor with the user id `uid` and the limits of its microVM. Files that the monitor writes to
    /// `files` count as its memory where that file system keeps them there: then there is no limit of memory.
    #[must_use]
    pub fn limited(&self, uid: u32, share: Share, files: &Path) -> Option<CgroupConfig> {
        let limited = self.config(uid, share)?;
        let memory_max = limited.memory_max.filter(|_| !is_in_memory(files));
        Some(CgroupConfig { memory_max, ..limited })
    }

    fn unlimited(&self, uid: u32) -> Option<CgroupConfig> {
        Some(CgroupConfig::unlimited(self.parent.as_ref()?, format!("{}{uid}", self.prefix)))
    }

    fn config(&self, uid: u32, Share { shape, class_mib }: Share) -> Option<CgroupConfig> {
        let CgroupConfig { parent, name, .. } = self.unlimited(uid)?;
        let memory = shape.memory_mib.saturating_mul(1 << 20);
        let cpu_weight = Some(weight(class_mib));
        Some(CgroupConfig { cpu_weight, ..CgroupConfig::for_guest(parent, name, memory) })
    }

    /// Gives a monitor's group the limits of the microVM that it will run.
    ///
    /// # Errors
    /// [`CgroupError`]; some of the limits may have been set.
    pub fn limit(&self, uid: u32, share: Share) -> Result<(), CgroupError> {
        let Some(config) = self.config(uid, share) else { return Ok(()) };
        Cgroup::of(&config)?.limit(&config)
    }

    /// Removes a monitor's group and kills all processes in it; the group may be gone already.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(&self, uid: u32) -> Result<(), CgroupError> {
        self.unlimited(uid).map_or(Ok(()), |config| remove(&config))
    }

    /// The user ids for which groups exist.
    ///
    /// # Errors
    /// The parent cannot be read.
    pub fn uids(&self) -> io::Result<Vec<u32>> {
        let Some(parent) = &self.parent else { return Ok(Vec::new()) };
        let mut uids = Vec::new();
        for entry in fs::read_dir(parent)? {
            let name = entry?.file_name();
            uids.extend(name.to_str().and_then(|name| name.strip_prefix(self.prefix)?.parse::<u32>().ok()));
        }
        Ok(uids)
    }
}

/// Removes the control group at `path` and kills all processes in it; it may be gone already, and need not be of this host's
/// configuration now. For what a killed controller has recorded.
///
/// # Errors
/// [`CgroupError`].
pub fn remove_recorded(path: &Path) -> Result<(), CgroupError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(CgroupError::Name(path.display().to_string()));
    };
    // Nothing but control groups is removed, whatever the record says.
    if path.join(PROCS).exists() { remove(&CgroupConfig::unlimited(parent, name)) } else { Ok(()) }
}

fn remove(config: &CgroupConfig) -> Result<(), CgroupError> {
    let group = Cgroup::of(config)?;
    if !group.path().exists() {
        return Ok(());
    }
    // The kernel empties the group a moment after its process has exited.
    if group.remove().is_ok() {
        return Ok(());
    }
    group.kill()?;
    group.wait_empty(EMPTY_TIMEOUT)?;
    group.remove()
}

/// Whether files in `folder` are in memory; not if that cannot be found out.
fn is_in_memory(folder: &Path) -> bool {
    statfs(folder).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)))
}

/// The groups that have to pass controllers on, from the root of the hierarchy to `parent`.
fn with_controllers(parent: &Path) -> Vec<PathBuf> {
    let mut groups: Vec<PathBuf> =
        parent.ancestors().take_while(|path| path.join(PROCS).exists()).map(Path::to_owned).collect();
    groups.reverse();
    groups
}

/// The weight of a microVM with this memory class: 25 for the smallest class, 400 for the largest.
fn weight(class_mib: u64) -> u32 {
    let weight = class_mib.saturating_mul(DEFAULT_WEIGHT.into()) / DEFAULT_MIB;
    u32::try_from(weight.clamp(1, 10_000)).unwrap_or(DEFAULT_WEIGHT)
}

#[cfg(test)]
mod tests {
    use hearth_model::shape::MemoryClass;

    use super::*;

    #[test]
    fn weights_are_as_the_baselines() {
        assert_eq!(MemoryClass::SIZES.map(|mib| weight(mib.into())), [25, 50, 100, 200, 400]);
        assert_eq!((weight(0), weight(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn a_host_without_version_2_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CgroupSettings { enabled: true, parent: folder.path().join("hearth") };
        let error = Groups::open(&settings, "vm-").unwrap_err().to_string();
        assert!(error.contains("cgroup.enabled = false") && error.contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn without_groups_nothing_is_made_and_nothing_fails() {
        let settings = CgroupSettings { enabled: false, parent: "/no/such".into() };
        let groups = Groups::open(&settings, "vm-").unwrap();
        assert!(groups.idle(7).is_none() && groups.uids().unwrap().is_empty());
        let share = Share { shape: Shape { memory_mib: 512, vcpus: 1 }, class_mib: 512 };
        assert!(groups.limited(7, share, Path::new("/")).is_none());
        groups.limit(7, share).unwrap();
        groups.remove(7).unwrap();
    }

    #[test]
    fn a_group_is_named_after_its_owner_and_its_user_and_has_the_share_of_its_class() {
        let groups = Groups { parent: Some("/groups".into()), prefix: "build-" };
        let share = Share { shape: Shape { memory_mib: 2048, vcpus: 1 }, class_mib: 512 };
        let group = groups.limited(7, share, Path::new("/proc")).unwrap();
        assert_eq!(group.path(), Path::new("/groups/build-7"));
        assert_eq!((group.cpu_weight, group.pids_max), (Some(25), Some(DEFAULT_PIDS_MAX)));
        assert!(group.memory_max.unwrap() > 2048 << 20);
        // Files there would count as memory of whoever writes them.
        assert_eq!(groups.limited(7, share, Path::new("/dev/shm")).unwrap().memory_max, None);
    }

    #[test]
    fn what_is_recorded_and_no_control_group_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        remove_recorded(folder.path()).unwrap();
        remove_recorded(&folder.path().join("gone")).unwrap();
        assert!(folder.path().exists());
        remove_recorded(Path::new("/")).unwrap_err();
    }
}
