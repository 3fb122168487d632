//! The configuration of a jail, and its form as a command line that the launcher writes and the jailed process reads.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

use super::cgroup::CgroupConfig;

/// Default for the user and group id of a jailed monitor. The id lies above every range that distributions, `useradd`
/// and systemd assign (systemd's containers end at 1,879,048,191), so no file of the host belongs to it.
pub const DEFAULT_ID: u32 = 1_900_000_000;

/// Default for the maximum number of open descriptors of a monitor.
pub const DEFAULT_NOFILE: u64 = 2048;

/// Default for the number of bytes of memory that a monitor may lock or register with io_uring: the kernel's own
/// default.
pub const DEFAULT_MEMLOCK: u64 = 8 << 20;

/// The walls of the jail, in the order in which they go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Wall {
    /// Every inherited descriptor but stdout, stderr and the control socket is closed; stdin is `/dev/null`.
    Descriptors,
    /// Own session without a terminal, files created for the owner only.
    Session,
    /// Own, empty network namespace.
    Network,
    /// Own System V IPC, POSIX message queue and host name namespaces.
    Ipc,
    /// Own mount namespace whose only mount is an empty, read-only folder.
    Root,
    /// Resource limits.
    Limits,
    /// Own user and group, no capability, none to be had again, not traceable.
    Privileges,
    /// A Landlock domain that grants nothing.
    Landlock,
    /// System call allow-lists, one per kind of thread.
    Seccomp,
}

impl Wall {
    /// Returns the name of the wall for `--jail-off`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Session => "session",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Root => "root",
            Self::Limits => "limits",
            Self::Privileges => "privileges",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    /// Whether only root can put the wall up.
    #[must_use]
    pub fn needs_root(self) -> bool {
        matches!(self, Self::Network | Self::Ipc | Self::Root | Self::Privileges)
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether there is a jail at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum JailMode {
    /// Every wall that is not named in `--jail-off` stands.
    #[default]
    On,
    /// No wall stands: for development only.
    Off,
}

/// What the kernel does with a system call that the thread's allow-list does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnViolation {
    /// Kills the whole process with `SIGSYS`.
    #[default]
    Kill,
    /// Writes it to the kernel's audit log and lets it happen: for development only.
    Log,
}

/// The jail of one monitor. Each wall stands unless it is switched off by name.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Jail")]
pub struct JailConfig {
    /// Switch the whole jail on or off (off: development only)
    #[arg(long = "jail", value_enum, value_name = "MODE", default_value = "on")]
    pub mode: JailMode,

    /// Walls to leave out, for debugging
    #[arg(long = "jail-off", value_enum, value_name = "WALL", value_delimiter = ',')]
    pub off: Vec<Wall>,

    /// User id of the monitor inside the jail; every microVM has one of its own
    #[arg(long = "jail-uid", value_name = "UID", default_value_t = DEFAULT_ID)]
    pub uid: u32,

    /// Group id of the monitor inside the jail
    #[arg(long = "jail-gid", value_name = "GID", default_value_t = DEFAULT_ID)]
    pub gid: u32,

    /// Empty folder, owned by root, that becomes the monitor's root
    #[arg(long = "jail-root", value_name = "FOLDER")]
    pub chroot: Option<PathBuf>,

    /// Most descriptors that the monitor may hold open
    #[arg(long = "jail-nofile", value_name = "COUNT", default_value_t = DEFAULT_NOFILE)]
    pub nofile: u64,

    /// Most bytes that the monitor may lock in memory or register with io_uring
    #[arg(long = "jail-memlock", value_name = "BYTES", default_value_t = DEFAULT_MEMLOCK)]
    pub memlock: u64,

    /// Size in bytes up to which the monitor may write any file (no limit unless given)
    #[arg(long = "jail-fsize", value_name = "BYTES")]
    pub fsize: Option<u64>,

    /// What happens to a system call that is not on the allow-list
    #[arg(long = "jail-violation", value_enum, value_name = "ACTION", default_value = "kill")]
    pub on_violation: OnViolation,

    /// The control group that the launcher puts the process into before it runs. It is the launcher's to
    /// make and to remove, so the command line does not carry it.
    #[arg(skip)]
    pub cgroup: Option<CgroupConfig>,
}

impl Default for JailConfig {
    fn default() -> Self {
        Self {
            mode: JailMode::On,
            off: Vec::new(),
            uid: DEFAULT_ID,
            gid: DEFAULT_ID,
            chroot: None,
            nofile: DEFAULT_NOFILE,
            memlock: DEFAULT_MEMLOCK,
            fsize: None,
            on_violation: OnViolation::Kill,
            cgroup: None,
        }
    }
}

impl JailConfig {
    /// A configuration without any wall, for development.
    #[must_use]
    pub fn disabled() -> Self {
        Self { mode: JailMode::Off, ..Self::default() }
    }

    /// Whether `wall` is to be put up.
    #[must_use]
    pub fn has(&self, wall: Wall) -> bool {
        self.mode == JailMode::On && !self.off.contains(&wall)
    }

    /// Returns the walls that are to be put up, in that order.
    pub fn walls(&self) -> impl Iterator<Item = Wall> + '_ {
        Wall::value_variants().iter().copied().filter(|wall| self.has(*wall))
    }

    /// Returns the command line arguments that parse into this configuration (without the control group, which the
    /// jailed process does not need to know).
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::with_capacity(18);
        let mut push = |name: &str, value: OsString| args.extend([OsString::from(name), value]);
        push("--jail", value_name(self.mode));
        if !self.off.is_empty() {
            push("--jail-off", self.off.iter().map(|wall| wall.name()).collect::<Vec<_>>().join(",").into());
        }
        push("--jail-uid", self.uid.to_string().into());
        push("--jail-gid", self.gid.to_string().into());
        if let Some(chroot) = &self.chroot {
            push("--jail-root", chroot.into());
        }
        push("--jail-nofile", self.nofile.to_string().into());
        push("--jail-memlock", self.memlock.to_string().into());
        if let Some(fsize) = self.fsize {
            push("--jail-fsize", fsize.to_string().into());
        }
        push("--jail-violation", value_name(self.on_violation));
        args
    }
}

fn value_name(value: impl ValueEnum) -> OsString {
    value.to_possible_value().map(|value| value.get_name().into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};
    use proptest::prelude::*;

    use super::*;

    fn parse(args: Vec<OsString>) -> Result<JailConfig, clap::Error> {
        let command = JailConfig::augment_args(clap::Command::new("test").no_binary_name(true));
        JailConfig::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    fn any_config() -> impl Strategy<Value = JailConfig> {
        let wall = prop::sample::select(Wall::value_variants());
        let mode = prop::sample::select(JailMode::value_variants());
        let on_violation = prop::sample::select(OnViolation::value_variants());
        let chroot = prop::option::of("/[ -~]{0,40}".prop_map(PathBuf::from));
        let limits = (any::<u64>(), any::<u64>(), any::<Option<u64>>());
        (mode, prop::collection::vec(wall, 0..4), any::<(u32, u32)>(), chroot, limits, on_violation).prop_map(
            |(mode, off, (uid, gid), chroot, (nofile, memlock, fsize), on_violation)| JailConfig {
                mode,
                off,
                uid,
                gid,
                chroot,
                nofile,
                memlock,
                fsize,
                on_violation,
                cgroup: None,
            },
        )
    }

    proptest! {
        #[test]
        fn a_configuration_survives_its_command_line(config in any_config()) {
            prop_assert_eq!(parse(config.to_args()).unwrap(), config);
        }
    }

    #[test]
    fn no_argument_at_all_means_every_wall() {
        let config = parse(Vec::new()).unwrap();
        assert_eq!(config, JailConfig::default());
        assert_eq!(config.walls().collect::<Vec<_>>(), Wall::value_variants());
        assert_eq!(JailConfig::disabled().walls().count(), 0);
    }

    #[test]
    fn a_wall_that_does_not_exist_is_refused_with_the_list_of_those_that_do() {
        let message = parse(vec!["--jail-off".into(), "moat".into()]).unwrap_err().to_string();
        assert!(message.contains("moat") && message.contains("seccomp"), "{message}");
    }

    #[test]
    fn every_wall_is_called_the_same_in_messages_and_on_the_command_line() {
        for wall in Wall::value_variants() {
            assert_eq!(wall.to_possible_value().unwrap().get_name(), wall.name());
        }
    }
}
