//! What this host builds and runs images with: options and the configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use hearth_host::network::NetworkConfig;
use hearth_host::roles::{RoleProvider, RolesConfig};
use hearth_image_builder::artifact::{ArtifactConfig, Fetcher};
use hearth_image_builder::build::settings::BuilderLimits;
use hearth_image_builder::build::{Builder, Settings};
use hearth_vmm::jail::JailConfig;
use serde::Deserialize;

/// The configuration file. Every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    artifacts: ArtifactConfig,
    roles: RolesConfig,
    network: NetworkConfig,
    builder: BuilderConfig,
}

/// The builder microVM.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BuilderConfig {
    /// Its memory in MiB.
    memory_mib: u64,
    /// Its CPUs.
    vcpus: u32,
    /// How long a build may take, in seconds.
    time_seconds: u64,
}

impl Default for BuilderConfig {
    fn default() -> Self {
        let limits = BuilderLimits::default();
        Self { memory_mib: limits.memory_mib, vcpus: limits.vcpus, time_seconds: limits.time.as_secs() }
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
    /// Makes the host ready. `by_hand` lets the command line name any file as an artifact.
    pub(super) fn open(&self, by_hand: bool) -> anyhow::Result<Builder> {
        let mut config = self.read_config()?;
        config.artifacts.allow_files |= by_hand;
        let limits = BuilderLimits {
            memory_mib: config.builder.memory_mib,
            vcpus: config.builder.vcpus,
            time: Duration::from_secs(config.builder.time_seconds),
        };
        let settings = Settings {
            vmm: self.monitor()?,
            catalogue: self.catalogue.clone(),
            work: self.work.clone(),
            jail: JailConfig::default(),
            network: config.network,
            builder: limits,
        };
        let fetcher = Fetcher::new(config.artifacts)?;
        let roles = RoleProvider::new(config.roles)?;
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

/// The URI of an artifact: a path of this host stands for its file.
pub(super) fn artifact_uri(artifact: &str) -> anyhow::Result<String> {
    if artifact.contains("://") {
        return Ok(artifact.to_owned());
    }
    let path = fs::canonicalize(Path::new(artifact));
    let path =
        path.with_context(|| format!("{artifact}: neither a URI like s3://bucket/key nor a file here"))?;
    match path.to_str() {
        Some(path) => Ok(format!("file://{path}")),
        None => bail!("{artifact}: its path is not UTF-8"),
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
        let file = tempfile::NamedTempFile::new().unwrap();
        let uri = artifact_uri(file.path().to_str().unwrap()).unwrap();
        assert!(uri.starts_with("file:///"), "{uri}");
        assert_eq!(artifact_uri("s3://bucket/key").unwrap(), "s3://bucket/key");
        assert!(artifact_uri("/no/such/file").unwrap_err().to_string().contains("/no/such/file"));
    }
}
