//! The host's settings for builds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::dns::Resolvers;
use hearth_host::groups::Groups;
use hearth_host::limits::LimitsConfig;
use hearth_host::network::Networks;
use hearth_model::shape::MemoryClass;
use hearth_vmm_jail::JailConfig;

use super::mirrors::RegistryMirror;
use super::uids::UserIds;

/// The host's settings for builds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program `hearth-vmm`.
    pub vmm: PathBuf,
    /// The catalogue of base images.
    pub catalogue: PathBuf,
    /// Folder of builds under way and layer caches: on the file system of the images.
    pub work: PathBuf,
    /// The monitors' jail. Each has a user id of [`Self::user_ids`] and a control group of [`Self::groups`].
    pub jail: JailConfig,
    /// Where the monitors' user and group ids come from.
    pub user_ids: Arc<dyn UserIds>,
    /// The monitors' control groups.
    pub groups: Groups,
    /// The networks of microVMs on this host.
    pub networks: Arc<Networks>,
    /// The resolvers of their names.
    pub resolvers: Resolvers,
    /// How much the microVMs of builds may read, write, receive and send.
    pub limits: LimitsConfig,
    /// Limits of the builder microVM.
    pub builder: BuilderLimits,
    /// Limits of the apps in images.
    pub app: AppLimits,
    /// What is asked for an image of Docker Hub before Docker Hub is.
    pub registry_mirrors: Vec<RegistryMirror>,
}

/// Limits of an app that are made when its container is: images keep those that they were built with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppLimits {
    /// Those of a container of Docker: 1024 open files, which anybody raises, and half of the memory in `/dev/shm`.
    #[default]
    Docker,
    /// Those that were measured at AWS: 1024 open files, which only an app with all capabilities raises, and 64 MiB in `/dev/shm`.
    Aws,
}

impl AppLimits {
    /// Open files at most, and MiB of `/dev/shm`, where they are not the agent's own: 0 then (`Configure` of agent.proto).
    pub(super) fn files_and_shm_mib(self) -> (u64, u64) {
        match self {
            Self::Docker => (0, 0),
            Self::Aws => (1024, 64),
        }
    }
}

/// Limits of a build.
#[derive(Clone, Copy, Debug)]
pub struct BuilderLimits {
    /// Memory in MiB that the builder microVM has for images of every class.
    pub memory_mib: u64,
    /// Most memory in MiB that it has, however large the class.
    pub memory_max_mib: u64,
    /// vCPUs of the builder microVM.
    pub vcpus: u32,
    /// Longest time of a build, from the first byte of the artifact to the commit.
    pub time: Duration,
}

impl Default for BuilderLimits {
    /// 2 GiB, as much as the largest class has, 2 CPUs, an hour.
    fn default() -> Self {
        Self {
            memory_mib: 2048,
            memory_max_mib: MemoryClass::LARGEST.mib().into(),
            vcpus: 2,
            time: Duration::from_secs(3600),
        }
    }
}

impl BuilderLimits {
    /// Memory in MiB of the builder microVM for an image of this class: that of the class, so that a step of the Dockerfile may take what
    /// the app may, and within the limits.
    #[must_use]
    pub fn memory_of(&self, class: MemoryClass) -> u64 {
        u64::from(class.mib()).min(self.memory_max_mib).max(self.memory_mib)
    }

    /// Memory in MiB that a build of an image of this class takes of the host: that of its largest microVM, since they run one after the
    /// other. The image's own counts by its class.
    #[must_use]
    pub fn memory_of_build(&self, class: MemoryClass) -> u64 {
        self.memory_of(class).max(class.mib().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builder_has_the_memory_of_the_class_within_its_limits() {
        let limits = BuilderLimits { memory_mib: 1024, memory_max_mib: 4096, ..BuilderLimits::default() };
        let of = |of: fn(&BuilderLimits, MemoryClass) -> u64| {
            MemoryClass::all().map(|class| of(&limits, class)).collect::<Vec<_>>()
        };
        assert_eq!(of(BuilderLimits::memory_of), [1024, 1024, 2048, 4096, 4096]);
        assert_eq!(of(BuilderLimits::memory_of_build), [1024, 1024, 2048, 4096, 8192]);
        let fixed = BuilderLimits { memory_max_mib: 0, ..limits };
        assert_eq!(fixed.memory_of(MemoryClass::LARGEST), 1024, "the builder's own need comes first");
    }
}
