//! The host's settings for builds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::dns::Resolvers;
use hearth_host::groups::Groups;
use hearth_host::limits::LimitsConfig;
use hearth_host::network::Networks;
use hearth_vmm_jail::JailConfig;

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
}

/// Limits of a build.
#[derive(Clone, Copy, Debug)]
pub struct BuilderLimits {
    /// Memory of the builder microVM in MiB.
    pub memory_mib: u64,
    /// vCPUs of the builder microVM.
    pub vcpus: u32,
    /// Longest time of a build, from the first byte of the artifact to the commit.
    pub time: Duration,
}

impl Default for BuilderLimits {
    /// 2 GiB, 2 CPUs, an hour.
    fn default() -> Self {
        Self { memory_mib: 2048, vcpus: 2, time: Duration::from_secs(3600) }
    }
}
