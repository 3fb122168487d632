//! The operator's settings for making microVMs.

use std::path::PathBuf;
use std::time::Duration;

use hearth_host::dns::DnsConfig;
use hearth_host::groups::CgroupSettings;
use hearth_host::limits::LimitsConfig;
use hearth_host::network::NetworkConfig;
use hearth_image_builder::artifact::WORKER_IDS;
use hearth_vmm_jail::config::{DEFAULT_MEMLOCK, DEFAULT_NOFILE};
use hearth_vmm_jail::{JailConfig, JailMode, OnViolation, Wall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pool::PoolConfig;
use crate::scrub::USER_ID as SCRUB_ID;
use crate::setting::Problem;

/// Lowest user id that microVMs get, those of builds included: builders by hand have those below, from 1,900,000,001 on.
const FIRST_UID: u32 = 1_901_000_000;

/// Longest `run` in bytes: the path of a socket has at most 107, of which `/microvms/microvm-<UUID>/control.sock`
/// takes the rest.
const RUN_MAX: usize = 40;

/// How microVMs are made on this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Where images and the disks and suspended states of microVMs are, on one file system: below `images/` and `microvms/`.
    /// Default `/var/lib/hearth`.
    pub data: PathBuf,
    /// Where control sockets, logs of monitors and records of processes are; emptied by a reboot. Default `/run/hearth`.
    pub run: PathBuf,
    /// The program `hearth-vmm`. Default `/usr/libexec/hearth/hearth-vmm`.
    pub vmm: PathBuf,
    /// How many seconds a microVM has to be made from its image or from its suspended state, without its hook. Default 30.
    pub launch_timeout_seconds: u64,
    /// The jail of each monitor process.
    pub jail: JailSettings,
    /// The control group of each monitor process.
    pub cgroup: CgroupSettings,
    /// What is made before it is needed.
    pub pool: PoolConfig,
    /// Networks of microVMs.
    pub network: NetworkConfig,
    /// How names are resolved for microVMs.
    pub dns: DnsConfig,
    /// How much microVMs may read, write, receive and send.
    pub limits: LimitsConfig,
    /// How many accounts there are.
    pub accounts: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            data: "/var/lib/hearth".into(),
            run: "/run/hearth".into(),
            vmm: "/usr/libexec/hearth/hearth-vmm".into(),
            launch_timeout_seconds: 30,
            jail: JailSettings::default(),
            cgroup: CgroupSettings::default(),
            pool: PoolConfig::default(),
            network: NetworkConfig::default(),
            dns: DnsConfig::default(),
            limits: LimitsConfig::default(),
            accounts: 1,
        }
    }
}

impl HostConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self) -> Result<(), Problem> {
        for (key, path) in [("data", &self.data), ("run", &self.run), ("vmm", &self.vmm)] {
            if !path.is_absolute() {
                let why = format!("{} is no absolute path: give one", path.display());
                return Err(Problem::new(key, why));
            }
        }
        if self.run.as_os_str().len() > RUN_MAX {
            let why = format!("it is longer than {RUN_MAX} bytes: names of sockets have to be short");
            return Err(Problem::new("run", why));
        }
        if self.launch_timeout_seconds == 0 {
            return Err(Problem::new("launch_timeout_seconds", "it is 0: give at least 1"));
        }
        self.jail.check()?;
        let limits = self.limits.check();
        limits.map_err(|error| Problem::new(format!("limits.{}", error.key), error.to_string()))
    }

    /// How long making a microVM may take.
    #[must_use]
    pub fn launch_timeout(&self) -> Duration {
        Duration::from_secs(self.launch_timeout_seconds)
    }
}

/// The jail of each monitor process ([jail.md](jail.md)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JailSettings {
    /// Whether there is a jail. Without, a guest that breaks out of its monitor is root on this host: for development
    /// only.
    pub enabled: bool,
    /// Walls that are left out, by name, for debugging.
    pub off: Vec<String>,
    /// Lowest user and group id that a microVM gets; nothing else on the host may have these. Processes that fetch artifacts
    /// have 1910000000 to 1914194304, the one that verifies files 1914194305, builders by hand (`hearth-image-builder`) 1900000001 to 1900065536.
    #[schemars(range(min = 1))]
    pub first_uid: u32,
    /// How many there are: the most microVMs, ready monitors and microVMs of builds together.
    #[schemars(range(min = 1))]
    pub uids: u32,
    /// Descriptors that a monitor may hold open.
    pub nofile: u64,
    /// Bytes that a monitor may lock in memory.
    pub memlock: u64,
    /// Bytes up to which a monitor may write any file; 1 GiB more than the largest root disk and the guest's memory unless given.
    pub fsize: Option<u64>,
}

impl Default for JailSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            off: Vec::new(),
            first_uid: FIRST_UID,
            uids: 1 << 16,
            nofile: DEFAULT_NOFILE,
            memlock: DEFAULT_MEMLOCK,
            fsize: None,
        }
    }
}

/// All walls, for look-ups by name.
const WALLS: [Wall; 9] = [
    Wall::Descriptors,
    Wall::Session,
    Wall::Network,
    Wall::Ipc,
    Wall::Root,
    Wall::Limits,
    Wall::Privileges,
    Wall::Landlock,
    Wall::Seccomp,
];

impl JailSettings {
    fn check(&self) -> Result<(), Problem> {
        if let Some(name) = self.off.iter().find(|name| wall(name).is_none()) {
            let all = WALLS.map(Wall::name).join(", ");
            let why = format!("`{name}` is no wall of the jail: there are {all}");
            return Err(Problem::new("jail.off", why));
        }
        let last = self.first_uid.checked_add(self.uids.saturating_sub(1));
        if self.first_uid == 0 || self.uids == 0 || last.is_none_or(|last| last == u32::MAX) {
            let why = "give a range of at least one id, with jail.uids, without 0 and 4294967295";
            return Err(Problem::new("jail.first_uid", why));
        }
        // The process that verifies files has the id above those that fetch artifacts.
        if last.is_some_and(|last| self.first_uid <= SCRUB_ID && last >= *WORKER_IDS.start()) {
            let first = WORKER_IDS.start();
            let why = format!(
                "{first} to {SCRUB_ID} are ids of processes that fetch artifacts and verify files: give another range"
            );
            return Err(Problem::new("jail.first_uid", why));
        }
        Ok(())
    }

    /// The jail of the monitor with the user id `uid`.
    pub(crate) fn jail(&self, uid: u32) -> JailConfig {
        JailConfig {
            mode: if self.enabled { JailMode::On } else { JailMode::Off },
            off: self.off.iter().filter_map(|name| wall(name)).collect(),
            uid,
            gid: uid,
            chroot: None,
            nofile: self.nofile,
            memlock: self.memlock,
            fsize: self.fsize,
            on_violation: OnViolation::Kill,
            cgroup: None,
        }
    }
}

fn wall(name: &str) -> Option<Wall> {
    WALLS.into_iter().find(|wall| wall.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_is_the_default_and_unknown_keys_are_refused() {
        let config: HostConfig = toml::from_str("").unwrap();
        assert_eq!(config, HostConfig::default());
        config.check().unwrap();
        let error = toml::from_str::<HostConfig>("[pool]\nmonitor = 3\n").unwrap_err();
        assert!(error.to_string().contains("monitor"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        for (text, key) in [
            ("run = \"hearth\"", "run"),
            ("run = \"/var/lib/some/very/long/folder/for/sockets\"", "run"),
            ("launch_timeout_seconds = 0", "launch_timeout_seconds"),
            ("[jail]\noff = [\"moat\"]", "jail.off"),
            ("[jail]\nfirst_uid = 0", "jail.first_uid"),
            ("[jail]\nfirst_uid = 4294967290\nuids = 6", "jail.first_uid"),
            ("[limits.disk]\nbytes_per_second = 1000", "limits.disk.burst_bytes"),
            ("[jail]\nfirst_uid = 1909999999\nuids = 2", "jail.first_uid"),
            ("[jail]\nfirst_uid = 1914194304", "jail.first_uid"),
        ] {
            let config: HostConfig = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
    }

    #[test]
    fn a_jail_has_all_walls_but_those_that_are_off() {
        let settings = JailSettings { off: vec!["seccomp".into()], ..JailSettings::default() };
        let jail = settings.jail(7);
        assert_eq!((jail.uid, jail.gid), (7, 7));
        assert!(!jail.has(Wall::Seccomp) && jail.has(Wall::Root));
        assert_eq!(JailSettings { enabled: false, ..settings }.jail(7).walls().count(), 0);
    }
}
