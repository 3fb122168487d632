//! Sections of this crate.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hearth_image_builder::build::mirrors::RegistryMirror;
use hearth_image_builder::build::settings::BuilderLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::service::{Limits, Operation, Profile, Rate};

/// Whose behaviour is reproduced, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// What the API reference says.
    #[default]
    Default,
    /// What AWS was measured to do.
    AwsStrict,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Default => Self::Default,
            ProfileName::AwsStrict => Self::AwsStrict,
        }
    }
}

/// Programs and folders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PathsConfig {
    /// The program `hearth-vmm`.
    pub vmm: PathBuf,
    /// The catalogue of base images; `bases` in `data` unless given.
    pub catalogue: Option<PathBuf>,
    /// Builds under way and layer caches, on the file system of `data`; `work` in `data` unless given.
    pub work: Option<PathBuf>,
    /// Where `hearth host backup` writes to; `backups` in `data` unless given.
    pub backups: Option<PathBuf>,
}

impl Default for PathsConfig {
    fn default() -> Self {
        Self { vmm: "/usr/libexec/hearth/hearth-vmm".into(), catalogue: None, work: None, backups: None }
    }
}

/// Limits of each account. What is not given is the profile's – `default` has none, `aws-strict` those of AWS; 0 is no
/// limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotasConfig {
    /// Memory of its microVMs together, by their baselines, in MiB.
    pub memory_mib: Option<u64>,
    /// Disk that its microVMs, their suspended states, its images and its artifacts take together, in MiB. Who takes that much
    /// launches, builds and uploads nothing more; microVMs that run go on to write.
    pub disk_mib: Option<u64>,
    /// Images.
    pub images: Option<u64>,
    /// Versions of an image.
    pub versions: Option<u64>,
    /// Builds at a time.
    pub builds: Option<u64>,
    /// How often operations may be called, by name: `[quotas.rates.RunMicrovm]`.
    #[schemars(extend("x-name" = "OPERATION"))]
    pub rates: BTreeMap<String, RateConfig>,
}

/// How often an operation may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Calls in a second; 0 is no limit.
    pub per_second: u32,
    /// Calls at once; as many as in a second unless given.
    pub burst: Option<u32>,
}

impl QuotasConfig {
    /// Replaces a profile's limits by the configured ones.
    pub fn apply(&self, limits: &mut Limits) {
        let set = |given: Option<u64>, limit: &mut Option<u64>| match given {
            None => {}
            Some(0) => *limit = None,
            some => *limit = some,
        };
        set(self.memory_mib, &mut limits.memory_mib);
        set(self.disk_mib, &mut limits.disk_mib);
        set(self.images, &mut limits.images);
        set(self.versions, &mut limits.versions);
        set(self.builds, &mut limits.builds);
        for (name, rate) in &self.rates {
            let Some(operation) = Operation::named(name) else { continue };
            match Rate::new(rate.per_second, rate.burst.unwrap_or(rate.per_second)) {
                Some(rate) => limits.rates.insert(operation, rate),
                None => limits.rates.remove(&operation),
            };
        }
    }
}

/// Builds of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuilderConfig {
    /// Memory in MiB that the microVM that builds has for images of every memory class. For larger classes it has that of the class.
    #[schemars(range(min = 512))]
    pub memory_mib: u64,
    /// Most memory in MiB that it has, however large the class, unless `memory_mib` is more; never more than `capacity_mib`. What the class has
    /// beyond `memory_mib` is taken of `capacity_mib` during the build, whatever this is, and a build waits for it: its image's own microVM needs as much.
    #[schemars(range(min = 512))]
    pub memory_max_mib: u64,
    /// Its CPUs.
    #[schemars(range(min = 1))]
    pub vcpus: u32,
    /// How long a build may take, in seconds, from the first byte of the artifact to the end.
    #[schemars(range(min = 1))]
    pub time_seconds: u64,
    /// Builds that run at a time on this host; others wait.
    #[schemars(range(min = 1))]
    pub concurrent: usize,
    /// Mirrors that builds ask for images of Docker Hub, one after the other, before Docker Hub itself: `https://HOST[:PORT]`, or `http://HOST[:PORT]`
    /// for one without TLS. Builds reach them as guests do: `network.allowed` names those at private addresses.
    pub registry_mirrors: Vec<String>,
}

impl Default for BuilderConfig {
    fn default() -> Self {
        let limits = BuilderLimits::default();
        Self {
            memory_mib: limits.memory_mib,
            memory_max_mib: limits.memory_max_mib,
            vcpus: limits.vcpus,
            time_seconds: limits.time.as_secs(),
            concurrent: 2,
            registry_mirrors: Vec::new(),
        }
    }
}

impl BuilderConfig {
    /// Limits of a build on a host with this memory for microVMs, in MiB.
    #[must_use]
    pub fn limits_on(&self, capacity_mib: u64) -> BuilderLimits {
        BuilderLimits {
            memory_mib: self.memory_mib,
            memory_max_mib: self.memory_max_mib.min(capacity_mib),
            vcpus: self.vcpus,
            time: Duration::from_secs(self.time_seconds),
        }
    }

    /// Each mirror, or what is wrong with it.
    pub fn mirrors(&self) -> impl Iterator<Item = Result<RegistryMirror, String>> {
        let mirror = |url: &String| {
            RegistryMirror::parse(url).map_err(|error| format!("{url:?} is no mirror: {error}"))
        };
        self.registry_mirrors.iter().map(mirror)
    }
}

/// The daemon's store (RocksDB) in `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Cache of uncompressed blocks, in bytes.
    pub cache_bytes: usize,
    /// Changes that are not in tables yet, in bytes.
    pub write_buffer_bytes: usize,
    /// Size in bytes from which on the write-ahead log is moved into tables; it is read at each start.
    pub log_bytes: u64,
    /// Whether everything is compared with its checksums at each start, which reads all of it.
    pub verify: bool,
    /// Back-ups (`hearth host backup`) that are kept in `paths.backups`: after each new one, the oldest go.
    #[schemars(range(min = 1, max = 1000))]
    pub backups_kept: u32,
}

impl Default for StoreConfig {
    /// Those of the store.
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            write_buffer_bytes: 64 << 20,
            log_bytes: 64 << 20,
            verify: true,
            backups_kept: 8,
        }
    }
}
