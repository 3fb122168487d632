//! Where and with what images are built.

use std::path::PathBuf;
use std::time::Duration;

use hearth_host::dns::DnsConfig;
use hearth_host::network::NetworkConfig;
use hearth_vmm::jail::JailConfig;

/// Where and with what images are built.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program `hearth-vmm`.
    pub vmm: PathBuf,
    /// The catalogue of base images.
    pub catalogue: PathBuf,
    /// Where builds under way and layer caches are: on the file system of the images.
    pub work: PathBuf,
    /// The monitors' jail.
    pub jail: JailConfig,
    /// How microVMs reach the internet.
    pub network: NetworkConfig,
    /// Whom their DNS queries are passed on to.
    pub dns: DnsConfig,
    /// The builder microVM.
    pub builder: BuilderLimits,
}

/// What a build may take.
#[derive(Clone, Copy, Debug)]
pub struct BuilderLimits {
    /// Memory of the builder microVM in MiB.
    pub memory_mib: u64,
    /// Its CPUs.
    pub vcpus: u32,
    /// How long a build may take, from the first byte of the artifact to the commit.
    pub time: Duration,
}

impl Default for BuilderLimits {
    /// 2 GiB, 2 CPUs, an hour.
    fn default() -> Self {
        Self { memory_mib: 2048, vcpus: 2, time: Duration::from_secs(3600) }
    }
}
