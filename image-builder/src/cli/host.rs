//! The host's settings for building and running images: options and the configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use hearth_host::dns::{DnsConfig, Resolvers};
use hearth_host::groups::{CgroupSettings, Groups};
use hearth_host::limits::LimitsConfig;
use hearth_host::network::{NetworkConfig, Networks};
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::{ArtifactConfig, Fetcher, WorkerConfig, zip};
use hearth_image_builder::build::mirrors::RegistryMirror;
use hearth_image_builder::build::settings::{AppLimits, BuilderLimits};
use hearth_image_builder::build::uids::OwnUserIds;
use hearth_image_builder::build::{Builder, Settings};
use hearth_vmm_jail::JailConfig;
use serde::Deserialize;
use tempfile::NamedTempFile;

/// Folder with the locks of user ids that builders use.
const USER_IDS: &str = "/run/hearth-image-builder";
/// What the names of builders' control groups begin with: no daemon takes them for what its microVMs have left.
const GROUPS: &str = "build-";

/// The configuration file. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    artifacts: ArtifactConfig,
    roles: RolesConfig,
    network: NetworkConfig,
    dns: DnsConfig,
    limits: LimitsConfig,
    cgroup: CgroupSettings,
    builder: BuilderConfig,
}

/// The builder microVM.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BuilderConfig {
    /// Memory in MiB, for images of every class.
    memory_mib: u64,
    /// Most memory in MiB, however large the class.
    memory_max_mib: u64,
    /// Number of vCPUs.
    vcpus: u32,
    /// Longest time of a build, in seconds.
    time_seconds: u64,
    /// Mirrors that are asked before Docker Hub: URLs.
    registry_mirrors: Vec<String>,
}

impl Default for BuilderConfig {
    fn default() -> Self {
        let limits = BuilderLimits::default();
        Self {
            memory_mib: limits.memory_mib,
            memory_max_mib: limits.memory_max_mib,
            vcpus: limits.vcpus,
            time_seconds: limits.time.as_secs(),
            registry_mirrors: Vec::new(),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Host")]
pub(super) struct HostOptions {
    /// Configuration file (TOML): where artifacts come from, roles, network, limits
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The catalogue of base images (`base build` makes one)
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/hearth/bases", env = "HEARTH_CATALOGUE")]
    catalogue: PathBuf,
    /// Where builds under way and layer caches are: on the file system of the images
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/hearth/work", env = "HEARTH_WORK")]
    work: PathBuf,
    /// The program hearth-vmm; beside this one, or on the search path, unless given
    #[arg(long, value_name = "FILE", env = "HEARTH_VMM")]
    vmm: Option<PathBuf>,
}

impl HostOptions {
    /// Prepares the host. With `by_hand`, any file may be an artifact. Who calls is the operator: sources of artifacts are
    /// used whatever accounts they are for.
    pub(super) fn open(&self, by_hand: bool) -> anyhow::Result<Builder> {
        let mut config = self.read_config()?;
        config.artifacts = config.artifacts.for_everybody();
        config.artifacts.allow_files |= by_hand;
        config.limits.check().map_err(|error| anyhow!("limits.{}: {error}", error.key))?;
        let limits = BuilderLimits {
            memory_mib: config.builder.memory_mib,
            memory_max_mib: config.builder.memory_max_mib,
            vcpus: config.builder.vcpus,
            time: Duration::from_secs(config.builder.time_seconds),
        };
        let mirror = |url: &String| {
            RegistryMirror::parse(url)
                .map_err(|error| anyhow!("builder.registry_mirrors: {url:?} is no mirror: {error}"))
        };
        let registry_mirrors =
            config.builder.registry_mirrors.iter().map(mirror).collect::<Result<_, _>>()?;
        let worker = WorkerConfig {
            network: config.network.clone(),
            processor_seconds: config.builder.time_seconds,
            ..WorkerConfig::default()
        };
        let settings = Settings {
            vmm: self.monitor()?,
            catalogue: self.catalogue.clone(),
            work: self.work.clone(),
            jail: JailConfig::default(),
            user_ids: Arc::new(OwnUserIds::new(Path::new(USER_IDS))?),
            groups: Groups::open(&config.cgroup, GROUPS, &self.work)?,
            networks: Arc::new(Networks::open(config.network, None)?),
            resolvers: Resolvers::new(config.dns),
            limits: config.limits,
            builder: limits,
            app: AppLimits::default(),
            registry_mirrors,
        };
        let fetcher = Fetcher::new(config.artifacts)?.with_worker(worker);
        let roles = Arc::new(RoleProvider::new(config.roles)?);
        Ok(Builder::open(settings, fetcher, roles)?)
    }

    fn read_config(&self) -> anyhow::Result<Config> {
        let Some(path) = &self.config else { return Ok(Config::default()) };
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    fn monitor(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.vmm {
            return Ok(path.clone());
        }
        let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("hearth-vmm")));
        let search = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&search).map(|folder| folder.join("hearth-vmm"));
        match beside.into_iter().chain(on_path).find(|path| path.is_file()) {
            Some(path) => Ok(path),
            None => {
                bail!("hearth-vmm is neither beside this program nor on the search path: give --vmm FILE")
            }
        }
    }
}

/// An artifact on the command line.
#[derive(Debug)]
pub(super) struct NamedArtifact {
    /// URI of the artifact.
    pub(super) uri: String,
    /// The zip that was made of a folder; removed when dropped.
    _zip: Option<NamedTempFile>,
}

impl NamedArtifact {
    /// A URI stays as it is; a zip on this host becomes a `file://` URI; a folder is zipped first.
    pub(super) fn find(artifact: &str) -> anyhow::Result<Self> {
        if artifact.contains("://") {
            return Ok(Self { uri: artifact.to_owned(), _zip: None });
        }
        let path = fs::canonicalize(Path::new(artifact));
        let path =
            path.with_context(|| format!("{artifact}: neither a URI like s3://bucket/key nor a file here"))?;
        if path.is_dir() {
            let zip = NamedTempFile::with_suffix(".zip").context("making a zip of the folder")?;
            let packed = zip::pack(&path, zip.reopen()?).with_context(|| format!("zipping {artifact}"))?;
            for special in packed.left_out {
                eprintln!("not packed: {} is {}", special.name.escape_debug(), special.kind);
            }
            return Ok(Self { uri: file_uri(zip.path())?, _zip: Some(zip) });
        }
        Ok(Self { uri: file_uri(&path)?, _zip: None })
    }
}

fn file_uri(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(path) => Ok(format!("file://{path}")),
        None => bail!("{}: its path is not UTF-8", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let config: Config =
            toml::from_str("[builder]\nmemory_mib = 1024\n[artifacts.s3]\nregion = \"eu-west-1\"\n").unwrap();
        assert_eq!(config.builder.memory_mib, 1024);
        assert_eq!(config.artifacts.s3.region, "eu-west-1");
        let error = toml::from_str::<Config>("[bilder]\n").unwrap_err();
        assert!(error.to_string().contains("bilder"), "{error}");
    }

    #[test]
    fn a_path_becomes_a_uri_and_a_uri_stays() {
        let find = NamedArtifact::find;
        let file = NamedTempFile::new().unwrap();
        assert!(find(file.path().to_str().unwrap()).unwrap().uri.starts_with("file:///"));
        assert_eq!(find("s3://bucket/key").unwrap().uri, "s3://bucket/key");
        assert!(find("/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
        let zipped = find(folder.path().to_str().unwrap()).unwrap();
        let zip = fs::read(zipped.uri.strip_prefix("file://").unwrap()).unwrap();
        assert!(zip.starts_with(b"PK"));
    }
}
