//! Control groups of microVMs: how the host's processors are shared, and how much memory a monitor may take.
//!
//! CPU time is shared by weight, in proportion to the baseline (docs/behaviour.md, "Memory classes"): on an idle
//! host, a microVM bursts to all CPUs it has; on a busy host, each microVM has its share. Memory is limited to that
//! of the guest plus what the monitor itself needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_model::shape::Shape;
use hearth_vmm_jail::Cgroup;
use hearth_vmm_jail::cgroup::{CgroupConfig, CgroupError, DEFAULT_PIDS_MAX};

use super::config::CgroupSettings;
use super::layout::{PREFIX, names};

/// The controllers that microVMs need.
const CONTROLLERS: &str = "+cpu +memory +pids";
/// The file that enables controllers for child groups.
const SUBTREE: &str = "cgroup.subtree_control";
/// A file that every group has.
const PROCS: &str = "cgroup.procs";
/// The baseline in MiB whose weight is the kernel's default.
const DEFAULT_MIB: u32 = 2048;
/// The kernel's default weight.
const DEFAULT_WEIGHT: u32 = 100;
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

/// The control groups of this host's microVMs; disabled if there is no parent.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    parent: Option<PathBuf>,
}

impl Groups {
    /// Makes the parent group with its controllers, and tests it by making a group.
    pub(super) fn open(settings: &CgroupSettings) -> Result<Self, GroupsError> {
        if !settings.enabled {
            return Ok(Self { parent: None });
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
        let groups = Self { parent: Some(parent.clone()) };
        let trial = CgroupConfig {
            cpu_weight: Some(DEFAULT_WEIGHT),
            ..CgroupConfig::for_guest(parent, "trial", 1 << 30)
        };
        let tried = Cgroup::of(&trial).and_then(|left| left.remove()).and_then(|()| Cgroup::create(&trial));
        tried
            .and_then(|made| made.remove())
            .map_err(|error| failed("make a group there".into())(io::Error::other(error)))?;
        Ok(groups)
    }

    /// The group of the monitor with the user id `uid`, before the microVM that it will run is known.
    pub(super) fn idle(&self, uid: u32) -> Option<CgroupConfig> {
        let parent = self.parent.as_ref()?;
        Some(CgroupConfig { pids_max: Some(DEFAULT_PIDS_MAX), ..CgroupConfig::unlimited(parent, name(uid)) })
    }

    /// Gives a monitor's group the limits of the microVM that it will run.
    pub(super) fn limit(&self, uid: u32, shape: Shape, baseline_mib: u32) -> Result<(), CgroupError> {
        let Some(parent) = &self.parent else { return Ok(()) };
        let config = CgroupConfig {
            cpu_weight: Some(weight(baseline_mib)),
            ..CgroupConfig::for_guest(parent, name(uid), shape.memory_mib.saturating_mul(1 << 20))
        };
        Cgroup::of(&config)?.limit(&config)
    }

    /// Removes a monitor's group and kills all processes in it; the group may be gone already.
    pub(super) fn remove(&self, uid: u32) -> Result<(), CgroupError> {
        let Some(parent) = &self.parent else { return Ok(()) };
        let group = Cgroup::of(&CgroupConfig::unlimited(parent, name(uid)))?;
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

    /// The user ids for which groups exist.
    pub(super) fn uids(&self) -> io::Result<Vec<u32>> {
        let Some(parent) = &self.parent else { return Ok(Vec::new()) };
        let number = |name: String| name.strip_prefix(PREFIX)?.parse().ok();
        Ok(names(parent)?.into_iter().filter_map(number).collect())
    }
}

fn name(uid: u32) -> String {
    format!("{PREFIX}{uid}")
}

/// The groups that have to pass controllers on, from the root of the hierarchy to `parent`.
fn with_controllers(parent: &Path) -> Vec<PathBuf> {
    let mut groups: Vec<PathBuf> =
        parent.ancestors().take_while(|path| path.join(PROCS).exists()).map(Path::to_owned).collect();
    groups.reverse();
    groups
}

/// The weight of a microVM with this baseline: 25 for the smallest class, 400 for the largest.
fn weight(baseline_mib: u32) -> u32 {
    (baseline_mib.saturating_mul(DEFAULT_WEIGHT) / DEFAULT_MIB).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use hearth_model::shape::MemoryClass;

    use super::*;

    #[test]
    fn weights_are_as_the_baselines() {
        assert_eq!(MemoryClass::SIZES.map(weight), [25, 50, 100, 200, 400]);
        assert_eq!((weight(0), weight(u32::MAX)), (1, 10_000));
    }

    #[test]
    fn a_host_without_version_2_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let settings = CgroupSettings { enabled: true, parent: folder.path().join("hearth") };
        let error = Groups::open(&settings).unwrap_err().to_string();
        assert!(error.contains("cgroup.enabled = false") && error.contains("mount -t cgroup2"), "{error}");
    }

    #[test]
    fn without_groups_nothing_is_made_and_nothing_fails() {
        let groups = Groups::open(&CgroupSettings { enabled: false, parent: "/no/such".into() }).unwrap();
        assert!(groups.idle(7).is_none() && groups.uids().unwrap().is_empty());
        groups.limit(7, Shape { memory_mib: 512, vcpus: 1 }, 512).unwrap();
        groups.remove(7).unwrap();
    }
}
