//! The configuration: one TOML file, of which every key has a default. Its reference, `docs/configuration.md`, is made
//! from the doc comments, defaults and ranges of its types by a test (`reference`).
//!
//! * [`sections`] – sections of this crate; the other sections belong to the crates that they configure
//! * [`file`](mod@file) – reads the file; errors name the key and the line
//! * [`check`] – checks that a parser cannot make: addresses, files, combinations of values
//! * [`init`] – writes a first configuration, with certificates and an access key
//! * [`cli`] – the commands `hearthd config` and `hearthd init`

pub mod check;
pub mod cli;
pub mod file;
pub mod init;
#[cfg(test)]
mod reference;
pub mod sections;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hearth_host::dns::DnsConfig;
use hearth_host::groups::CgroupSettings;
use hearth_host::limits::LimitsConfig;
use hearth_host::network::NetworkConfig;
use hearth_host::roles::RolesConfig;
use hearth_image_builder::artifact::ArtifactConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::check::MAX_DURATION;
pub use self::file::{ConfigError, DEFAULT_FILE};
pub use self::sections::{BuilderConfig, PathsConfig, ProfileName, QuotasConfig, RateConfig, StoreConfig};
use crate::access::AccessConfig;
use crate::api::aws::AwsConfig;
use crate::api::listen::ListenConfig;
use crate::audit::AuditConfig;
use crate::disk::DiskConfig;
use crate::driver::deadlines::Deadlines;
use crate::logs::LogsConfig;
use crate::metrics::MetricsConfig;
use crate::platform::host::config::{HostConfig, JailSettings};
use crate::pool::PoolConfig;
use crate::proxy::config::EndpointConfig;
use crate::service::ServiceConfig;

/// `hearthd` reads one TOML file, `/etc/hearth/hearthd.toml` unless `--config FILE` names another. Every key has a default, so the
/// file may be empty. A key that is not known is refused, with its line.
///
/// ```text
/// hearthd init                               # writes a first configuration, with comments
/// hearthd init --listen 0.0.0.0:7443 --name hearth.example.com
///                                            # the same for requests over TCP: an authority, a certificate, an access key
/// hearthd config check                       # what is wrong, and where; whether what is named is there
/// hearthd config show                        # every key with its value; secrets are hidden
/// ```
///
/// After a change the daemon has to be restarted (`systemctl restart hearthd`). MicroVMs run on meanwhile.
///
/// The tables name every key with its default; `–` means that there is none. Sizes are in bytes or MiB and times in seconds, as the
/// keys' names say. Paths are absolute.
///
/// An example for a host that others reach:
///
/// ```toml
/// region = "eu-central-1"
/// capacity_mib = 98304
///
/// [listen]
/// address = "0.0.0.0:7443"
/// certificate = "/etc/hearth/server.pem"
/// key = "/etc/hearth/server.key"
///
/// [[access.keys]]
/// id = "HKdeploy"
/// secret = "not-this-one-but-40-random-characters-xx"
/// account = "123456789012"
/// policies = [
///     { actions = ["RunMicrovm", "TerminateMicrovm", "Get*", "List*"] },
///     { actions = ["PassRole"], images = ["web-*"], roles = ["arn:aws:iam::123456789012:role/web-*"] },
/// ]
///
/// [artifacts.s3]
/// endpoint = "https://minio.example.com:9000"
///
/// [roles.rules."arn:aws:iam::123456789012:role/*"]
/// static = { access_key_id = "minio", secret_access_key = "hush" }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The Region in ARNs and in names of endpoints: 1 to 32 of a-z, 0-9 and `-`.
    pub region: String,
    /// Whose behaviour is reproduced where they differ: `"default"` the API reference's, `"aws-strict"` what AWS was
    /// measured to do.
    pub profile: ProfileName,
    /// Folder of all that lasts: store, images, disks and suspended states of microVMs, logs, buckets. One file system.
    pub data: PathBuf,
    /// Folder of sockets, monitors' logs and records of processes; a reboot empties it.
    pub run: PathBuf,
    /// Memory that microVMs may have together, by their baselines, in MiB; nine tenths of the host's unless given. Builds of large
    /// classes take of it, too.
    #[schemars(range(min = 1))]
    pub capacity_mib: Option<u64>,
    /// How many times its memory class a guest gets.
    #[schemars(range(min = 1, max = 4))]
    pub burst: u32,
    /// How long a microVM lives unless its request says, in seconds.
    #[schemars(range(min = 1, max = MAX_DURATION))]
    pub default_maximum_duration_seconds: i32,
    /// How long a microVM has to be made from its image or its suspended state, without its hook, in seconds.
    #[schemars(range(min = 1))]
    pub launch_timeout_seconds: u64,
    /// How long saving a microVM may take, without its hook, in seconds. One that takes longer is given up, and the
    /// microVM runs on.
    #[schemars(range(min = 1, max = 3600))]
    pub suspend_timeout_seconds: u64,
    /// How long microVMs that have ended can still be asked for, in seconds.
    pub terminated_retention_seconds: u64,
    /// Where requests come in.
    pub listen: ListenConfig,
    /// Where AWS's SDKs and its command line call.
    pub aws: AwsConfig,
    /// Endpoints of microVMs.
    pub endpoint: EndpointConfig,
    /// Programs and folders.
    pub paths: PathsConfig,
    /// Who may do what.
    pub access: AccessConfig,
    /// Limits of accounts.
    pub quotas: QuotasConfig,
    /// Room on the disk.
    pub disk: DiskConfig,
    /// Builds of images.
    pub builder: BuilderConfig,
    /// Where artifacts may come from.
    pub artifacts: ArtifactConfig,
    /// Which credentials roles stand for.
    pub roles: RolesConfig,
    /// Networks of microVMs.
    pub network: NetworkConfig,
    /// How names are resolved for microVMs.
    pub dns: DnsConfig,
    /// How much microVMs may read, write, receive and send.
    pub limits: LimitsConfig,
    /// What is made before it is needed.
    pub pool: PoolConfig,
    /// The jail of each monitor process.
    pub jail: JailSettings,
    /// The control group of each monitor process.
    pub cgroup: CgroupSettings,
    /// How much of logs is kept.
    pub logs: LogsConfig,
    /// The metrics server.
    pub metrics: MetricsConfig,
    /// What is audited.
    pub audit: AuditConfig,
    /// The daemon's store.
    pub store: StoreConfig,
}

impl Default for Config {
    fn default() -> Self {
        let service = ServiceConfig::default();
        let host = HostConfig::default();
        Self {
            region: service.region,
            profile: ProfileName::default(),
            data: host.data,
            run: host.run,
            capacity_mib: None,
            burst: 4,
            default_maximum_duration_seconds: service.default_maximum_duration_seconds,
            launch_timeout_seconds: host.launch_timeout_seconds,
            suspend_timeout_seconds: Deadlines::default().suspend.as_secs(),
            terminated_retention_seconds: 24 * 60 * 60,
            listen: ListenConfig::default(),
            aws: AwsConfig::default(),
            endpoint: EndpointConfig::default(),
            paths: PathsConfig { vmm: host.vmm, ..PathsConfig::default() },
            access: AccessConfig::default(),
            quotas: QuotasConfig::default(),
            disk: DiskConfig::default(),
            builder: BuilderConfig::default(),
            artifacts: ArtifactConfig::default(),
            roles: RolesConfig::default(),
            network: host.network,
            dns: host.dns,
            limits: host.limits,
            pool: host.pool,
            jail: host.jail,
            cgroup: host.cgroup,
            logs: LogsConfig::default(),
            metrics: MetricsConfig::default(),
            audit: AuditConfig::default(),
            store: StoreConfig::default(),
        }
    }
}

impl Config {
    /// The catalogue of base images.
    #[must_use]
    pub fn catalogue(&self) -> PathBuf {
        self.paths.catalogue.clone().unwrap_or_else(|| self.data.join("bases"))
    }

    /// The folder of builds under way.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.paths.work.clone().unwrap_or_else(|| self.data.join("work"))
    }

    /// The folder for backups of the store.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.paths.backups.clone().unwrap_or_else(|| self.data.join("backups"))
    }

    /// The accounts of those who may call, each with one of them, for messages.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<String, String> {
        let (listen, access) = (&self.listen, &self.access);
        let has_socket = listen.socket.as_ref().is_none_or(|path| !path.as_os_str().is_empty());
        let socket = has_socket.then(|| (&None, "the Unix socket".to_owned()));
        let keys = access.keys.iter().map(|key| (&key.account, format!("the access key {}", key.id)));
        let certificates = access.certificates.iter();
        let certificates = certificates.map(|one| (&one.account, format!("the certificate {}", one.sha256)));
        let mut accounts = BTreeMap::new();
        for (account, whose) in socket.into_iter().chain(keys).chain(certificates) {
            accounts.entry(account.as_ref().unwrap_or(&access.local_account).clone()).or_insert(whose);
        }
        accounts
    }

    /// The sources of artifacts. Those without a list of accounts are the only account's.
    #[must_use]
    pub fn artifacts(&self) -> ArtifactConfig {
        match self.only_account() {
            Some(account) => self.artifacts.clone().of_account(&account),
            // With several, a list that is missing is a problem, and the daemon does not start.
            None => self.artifacts.clone(),
        }
    }

    /// The account of all who may call; none if they have several.
    #[must_use]
    pub fn only_account(&self) -> Option<String> {
        let mut accounts = self.accounts().into_keys();
        accounts.next().filter(|_| accounts.next().is_none())
    }

    /// How long terminated microVMs can still be read by clients.
    #[must_use]
    pub fn terminated_retention(&self) -> Duration {
        Duration::from_secs(self.terminated_retention_seconds)
    }

    /// Deadlines of effects.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            launch: Duration::from_secs(self.launch_timeout_seconds),
            suspend: Duration::from_secs(self.suspend_timeout_seconds),
        }
    }

    /// The platform's part of the configuration.
    #[must_use]
    pub fn host(&self) -> HostConfig {
        HostConfig {
            data: self.data.clone(),
            run: self.run.clone(),
            vmm: self.paths.vmm.clone(),
            launch_timeout_seconds: self.launch_timeout_seconds,
            jail: self.jail.clone(),
            cgroup: self.cgroup.clone(),
            pool: self.pool,
            network: self.network.clone(),
            dns: self.dns.clone(),
            limits: self.limits,
            accounts: self.accounts().len(),
        }
    }

    /// The settings of the service's operations.
    #[must_use]
    pub fn service(&self) -> ServiceConfig {
        let mut service = ServiceConfig::new(&self.region, self.profile.into());
        if let Some(domain) = &self.endpoint.domain {
            service.endpoint_domain.clone_from(domain);
        }
        service.default_maximum_duration_seconds = self.default_maximum_duration_seconds;
        self.quotas.apply(&mut service.limits);
        service.role_policies = self.access.role_policies();
        service
    }
}
