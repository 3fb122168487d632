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

mod disk;

use disk::Io;
pub use disk::{IoMaxSettings, Missing};

/// The controllers that microVMs need.
const CONTROLLERS: &str = "+cpu +memory +pids";
/// The controller of disks, which not every kernel has.
const IO: &str = "io";
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
    /// the daemon's own, nor below it: microVMs outlive the daemon. Where the kernel has the controller `io` as well,
    /// microVMs share disks by weight; iocost has to be switched on for the disk (`io.cost.qos` in the root group), or
    /// BFQ be its scheduler.
    pub parent: PathBuf,
    /// Limits of each monitor for the disk of `data`.
    pub io_max: IoMaxSettings,
}

impl Default for CgroupSettings {
    fn default() -> Self {
        Self { enabled: true, parent: "/sys/fs/cgroup/hearth".into(), io_max: IoMaxSettings::default() }
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
    io: Io,
    /// Whether what monitors write to their files counts as their memory.
    files_in_memory: bool,
    missing: Vec<Missing>,
}

impl Groups {
    /// Makes the parent group with its controllers, and tests it by making a group. `data` is where monitors have their files.
    ///
    /// # Errors
    /// [`GroupsError`] when the host has no such groups.
    pub fn open(settings: &CgroupSettings, prefix: &'static str, data: &Path) -> Result<Self, GroupsError> {
        let mut groups = Self {
            parent: None,
            prefix,
            io: Io::default(),
            files_in_memory: is_in_memory(data),
            missing: Vec::new(),
        };
        if !settings.enabled {
            return Ok(groups);
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
        groups.parent = Some(parent.clone());
        let has_io = enable_io(parent).map_err(|missing| groups.missing.push(missing)).is_ok();
        // Builders by hand may open the same parent at the same time.
        let trial = CgroupConfig {
            cpu_weight: Some(DEFAULT_WEIGHT),
            ..CgroupConfig::for_guest(parent, format!("trial-{prefix}{}", std::process::id()), 1 << 30)
        };
        let tried = Cgroup::of(&trial).and_then(|left| left.remove()).and_then(|()| Cgroup::create(&trial));
        let made = tried.map_err(|error| failed("make a group there".into())(io::Error::other(error)))?;
        if has_io {
            groups.find_io(&made, trial, settings.io_max, data);
        }
        made.remove().map_err(|error| failed("remove a group there".into())(io::Error::other(error)))?;
        Ok(groups)
    }

    /// Finds out what `trial`, a group like those of microVMs, can do for disks.
    fn find_io(&mut self, trial: &Cgroup, config: CgroupConfig, max: IoMaxSettings, data: &Path) {
        self.io = self.io.with_weights(trial.path());
        if !self.io.weight && !self.io.bfq {
            self.missing.push(Missing::Weight);
        }
        match self.io.with_max(max, data) {
            Ok(io) => match trial.limit(&io.share(config, DEFAULT_MIB, DEFAULT_WEIGHT)) {
                Ok(()) => self.io = io,
                Err(error) => self.missing.push(Missing::Max(error.to_string())),
            },
            Err(missing) => self.missing.push(missing),
        }
    }

    /// What this host's control groups cannot do for its disk, for people.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
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
        let weight = weight(class_mib);
        let limited =
            CgroupConfig { cpu_weight: Some(weight), ..CgroupConfig::for_guest(parent, name, memory) };
        Some(self.io.share(limited, class_mib, weight))
    }

    /// Gives a monitor's group the limits of the microVM that it will run; none of memory where `data` of [`Self::open`] is in
    /// memory, as in [`Self::limited`].
    ///
    /// # Errors
    /// [`CgroupError`]; some of the limits may have been set.
    pub fn limit(&self, uid: u32, share: Share) -> Result<(), CgroupError> {
        let Some(config) = self.config(uid, share) else { return Ok(()) };
        let memory_max = config.memory_max.filter(|_| !self.files_in_memory);
        let config = CgroupConfig { memory_max, ..config };
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

/// Enables the controller of disks for the groups below `parent`, where the kernel has it.
fn enable_io(parent: &Path) -> Result<(), Missing> {
    for group in with_controllers(parent) {
        let has = |file: &str| {
            let text = fs::read_to_string(group.join(file)).unwrap_or_default();
            text.split_whitespace().any(|name| name == IO)
        };
        if !has(SUBTREE) && (!has("cgroup.controllers") || fs::write(group.join(SUBTREE), "+io").is_err()) {
            return Err(Missing::Controller(group));
        }
    }
    Ok(())
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
        let settings = CgroupSettings { parent: folder.path().join("hearth"), ..CgroupSettings::default() };
        let error = Groups::open(&settings, "vm-", Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("cgroup.enabled = false") && error.contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn without_groups_nothing_is_made_and_nothing_fails() {
        let settings = CgroupSettings { enabled: false, ..CgroupSettings::default() };
        let groups = Groups::open(&settings, "vm-", Path::new("/")).unwrap();
        assert!(groups.idle(7).is_none() && groups.uids().unwrap().is_empty());
        let share = Share { shape: Shape { memory_mib: 512, vcpus: 1 }, class_mib: 512 };
        assert!(groups.limited(7, share, Path::new("/")).is_none());
        groups.limit(7, share).unwrap();
        groups.remove(7).unwrap();
    }

    #[test]
    fn a_group_is_named_after_its_owner_and_its_user_and_has_the_share_of_its_class() {
        let parent = Some("/groups".into());
        let groups = Groups {
            parent,
            prefix: "build-",
            io: Io::default(),
            files_in_memory: false,
            missing: Vec::new(),
        };
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
