//! Control groups, version 2: limits on the host resources that one microVM may use
//! (Documentation/admin-guide/cgroup-v2.rst).
//!
//! The launcher creates the group, starts the monitor inside it, and removes it when the monitor has exited. Every
//! operation finds the group by its path, so that a launcher that was restarted can take over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sys::{c_path, check};

/// Host memory in bytes that a monitor needs in addition to its guest's, whatever the guest's size: for the process
/// itself, its rings and the buffers of its devices.
pub const FIXED_OVERHEAD: u64 = 48 << 20;

/// Guest memory divided by this number is the additional memory for the page tables of both translation stages and for
/// the kernel's records of the guest.
const GUEST_SHARE: u64 = 128;

/// Default for the maximum number of threads of a monitor, including io_uring's workers.
pub const DEFAULT_PIDS_MAX: u32 = 256;

/// A limit on processor time (`cpu.max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax {
    /// Processor time in each period, summed over all processors, in microseconds.
    pub quota_us: u64,
    /// Length of a period in microseconds (1,000 to 1,000,000).
    pub period_us: u64,
}

/// I/O limits for one block device (`io.max`); `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoMax {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// Bytes that may be read per second.
    pub read_bytes: Option<u64>,
    /// Bytes that may be written per second.
    pub write_bytes: Option<u64>,
    /// Read operations per second.
    pub reads: Option<u64>,
    /// Write operations per second.
    pub writes: Option<u64>,
}

impl IoMax {
    fn line(&self) -> String {
        let (major, minor) = self.device;
        let limits = [
            ("rbps", self.read_bytes),
            ("wbps", self.write_bytes),
            ("riops", self.reads),
            ("wiops", self.writes),
        ];
        let limits = limits.map(|(name, limit)| {
            format!(" {name}={}", limit.map_or_else(|| "max".into(), |limit| limit.to_string()))
        });
        format!("{major}:{minor}{}", limits.concat())
    }
}

/// A control group to create: `parent/name`. A value that is `None` keeps the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupConfig {
    /// The parent group of all microVMs' groups. Its `cgroup.subtree_control` enables the controllers.
    pub parent: PathBuf,
    /// Name of the microVM's group: a single path component.
    pub name: String,
    /// Weight for processor time relative to sibling groups (1 to 10,000; the kernel's default is 100).
    pub cpu_weight: Option<u32>,
    /// Limit on processor time.
    pub cpu_max: Option<CpuMax>,
    /// Maximum memory, in bytes.
    pub memory_max: Option<u64>,
    /// Maximum swap, in bytes.
    pub memory_swap_max: Option<u64>,
    /// Maximum number of threads.
    pub pids_max: Option<u32>,
    /// Weight for block I/O relative to sibling groups (1 to 10,000; the kernel's default is 100).
    pub io_weight: Option<u32>,
    /// The same for disks with the scheduler BFQ (1 to 1,000; the kernel's default is 100).
    pub io_bfq_weight: Option<u32>,
    /// I/O limits for block devices.
    pub io_max: Vec<IoMax>,
}

impl CgroupConfig {
    /// Creates the configuration of a group without any limit.
    #[must_use]
    pub fn unlimited(parent: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            parent: parent.into(),
            name: name.into(),
            cpu_weight: None,
            cpu_max: None,
            memory_max: None,
            memory_swap_max: None,
            pids_max: None,
            io_weight: None,
            io_bfq_weight: None,
            io_max: Vec::new(),
        }
    }

    /// Creates the configuration of the group for a microVM with `guest_bytes` of memory: memory and threads are
    /// limited.
    #[must_use]
    pub fn for_guest(parent: impl Into<PathBuf>, name: impl Into<String>, guest_bytes: u64) -> Self {
        let memory = guest_bytes.saturating_add(FIXED_OVERHEAD).saturating_add(guest_bytes / GUEST_SHARE);
        Self { memory_max: Some(memory), pids_max: Some(DEFAULT_PIDS_MAX), ..Self::unlimited(parent, name) }
    }

    /// Returns the path of the group.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// Returns the names of the files to write, with their values.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let number = |file, value: Option<u64>| value.map(|value| (file, value.to_string()));
        let cpu_max = self.cpu_max.map(|max| ("cpu.max", format!("{} {}", max.quota_us, max.period_us)));
        let all = [
            number("cpu.weight", self.cpu_weight.map(u64::from)),
            cpu_max,
            number("memory.max", self.memory_max),
            number("memory.swap.max", self.memory_swap_max),
            // If memory runs out the kernel kills the monitor as a whole; a part of it would be of no use.
            self.memory_max.map(|_| ("memory.oom.group", "1".into())),
            number("pids.max", self.pids_max.map(u64::from)),
            number("io.weight", self.io_weight.map(u64::from)),
            number("io.bfq.weight", self.io_bfq_weight.map(u64::from)),
        ];
        let io_max = self.io_max.iter().map(|max| ("io.max", max.line()));
        all.into_iter().flatten().chain(io_max).collect()
    }
}

/// The reason for which an operation on a control group failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The name is not a single path component.
    #[error("`{0}` cannot be the name of a control group: use letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// The parent is not in a cgroup version 2 hierarchy.
    #[error(
        "{0} is not in a cgroup version 2 hierarchy: mount one (mount -t cgroup2 cgroup2 /sys/fs/cgroup) and make the folder"
    )]
    NotVersion2(PathBuf),
    /// A group with this name exists already.
    #[error("the control group {0} exists: its microVM still runs, or was not cleaned up")]
    Exists(PathBuf),
    /// A controller is not enabled for the groups below the parent.
    #[error("the controller `{controller}` is not enabled below {parent}, so {file} cannot be set: {remedy}")]
    Controller {
        /// Name of the controller.
        controller: String,
        /// The parent group.
        parent: PathBuf,
        /// The file that does not exist because the controller is not enabled.
        file: &'static str,
        /// What to do about it.
        remedy: String,
    },
    /// The kernel refused a value.
    #[error("cannot write `{value}` to {file}: {source}")]
    Set {
        /// The value that was written.
        value: String,
        /// The file that it was written to.
        file: PathBuf,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// Another operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The path that the operation concerned.
        path: PathBuf,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// A group that has processes cannot be removed.
    #[error("the control group {0} still has processes: end them, or kill the group")]
    Populated(PathBuf),
}

impl CgroupError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The control group of one microVM. Dropping this does not remove the group, because the microVM outlives its
/// launcher.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates the group and sets its limits. If a limit cannot be set, the group is removed again.
    ///
    /// # Errors
    /// [`CgroupError`] contains the controller, the file and the remedy.
    pub fn create(config: &CgroupConfig) -> Result<Self, CgroupError> {
        let cgroup = Self::of(config)?;
        if !is_version_2(&config.parent) {
            return Err(CgroupError::NotVersion2(config.parent.clone()));
        }
        fs::create_dir(&cgroup.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CgroupError::Exists(cgroup.path.clone()),
            _ => CgroupError::io("make the control group", &cgroup.path)(error),
        })?;
        if let Err(error) = cgroup.limit(config) {
            // The first error describes the cause, so that of the removal is ignored.
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Sets the limits of `config`, which must be the configuration of this group. Values that are `None` are not
    /// changed.
    ///
    /// # Errors
    /// [`CgroupError`]; some of the limits may have been set.
    pub fn limit(&self, config: &CgroupConfig) -> Result<(), CgroupError> {
        config.settings().into_iter().try_for_each(|(file, value)| self.set(&config.parent, file, value))
    }

    /// Returns the group of `config`, which exists if [`Cgroup::create`] created it earlier.
    ///
    /// # Errors
    /// [`CgroupError::Name`] when the name is not a single path component.
    pub fn of(config: &CgroupConfig) -> Result<Self, CgroupError> {
        let name = &config.name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(CgroupError::Name(name.clone()));
        }
        Ok(Self { path: config.path() })
    }

    /// Returns the path of the group.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens `cgroup.procs`. A process that writes `0` to it moves itself into the group.
    ///
    /// # Errors
    /// [`CgroupError::Io`] with the error of the system call.
    pub fn open_procs(&self) -> Result<File, CgroupError> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(CgroupError::io("open", &path))
    }

    /// Kills every process of the group (`cgroup.kill`). [`Cgroup::wait_empty`] waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError`] with the error of the write.
    pub fn kill(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1".into())
    }

    /// Waits at most `timeout` until the group has no process. Returns whether it has none.
    ///
    /// # Errors
    /// [`CgroupError`] with the error of watching `cgroup.events`.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        let deadline = Instant::now() + timeout;
        let mut events = File::open(&path).map_err(CgroupError::io("open", &path))?;
        loop {
            let mut text = String::new();
            io::Seek::rewind(&mut events)
                .and_then(|()| events.read_to_string(&mut text))
                .map_err(CgroupError::io("read", &path))?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // The kernel signals a change of the file since it was last read as an exceptional condition.
            let mut poll = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
            let left = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
            // SAFETY: one valid entry, which outlives the call.
            match check(unsafe { libc::poll(&raw mut poll, 1, left) }) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(CgroupError::io("watch", &path)(error));
                }
                _ => {}
            }
        }
    }

    /// Removes the group, which must be empty. It is not an error if the group does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Populated`] when it has processes or groups below it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match fs::remove_dir(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                Err(CgroupError::Populated(self.path.clone()))
            }
            Err(error) => Err(CgroupError::io("remove the control group", &self.path)(error)),
        }
    }

    fn set(&self, parent: &Path, file: &'static str, value: String) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        if path.exists() {
            return write(&path, value);
        }
        let controller = file.split('.').next().unwrap_or(file);
        let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |list: &str| list.split_whitespace().any(|name| name == controller);
        let remedy = if has(&enabled) {
            format!("this kernel's `{controller}` controller has no such file; leave the setting out")
        } else if has(&available) {
            format!("write `+{controller}` to {}", parent.join("cgroup.subtree_control").display())
        } else {
            format!(
                "write `+{controller}` to the cgroup.subtree_control of every group above it, from the hierarchy's root down (if the root has no `{controller}`, a version 1 hierarchy holds it, or the kernel was built without)"
            )
        };
        Err(CgroupError::Controller { controller: controller.into(), parent: parent.into(), file, remedy })
    }
}

fn write(file: &Path, value: String) -> Result<(), CgroupError> {
    let written = OpenOptions::new().write(true).open(file).and_then(|mut f| f.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Set { value, file: file.to_owned(), source })
}

fn is_version_2(path: &Path) -> bool {
    let Ok(path) = c_path(path) else { return false };
    let mut stats = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path outlives the call, and `stats` is a valid place for the result.
    let result = check(unsafe { libc::statfs(path.as_ptr(), stats.as_mut_ptr()) });
    // SAFETY: all of it is plain numbers, for which zeroes are valid, and the call has filled it in.
    result.is_ok() && unsafe { stats.assume_init() }.f_type == libc::CGROUP2_SUPER_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_the_kernel_reads_them() {
        let config = CgroupConfig {
            cpu_weight: Some(50),
            cpu_max: Some(CpuMax { quota_us: 200_000, period_us: 100_000 }),
            memory_swap_max: Some(0),
            io_weight: Some(10),
            io_bfq_weight: Some(11),
            io_max: vec![IoMax {
                device: (254, 3),
                read_bytes: Some(1 << 20),
                write_bytes: None,
                reads: None,
                writes: Some(100),
            }],
            ..CgroupConfig::for_guest("/sys/fs/cgroup/hearth", "vm", 1 << 30)
        };
        let settings = config.settings();
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(file, value)| (*file, value.as_str())).collect();
        assert_eq!(
            settings,
            [
                ("cpu.weight", "50"),
                ("cpu.max", "200000 100000"),
                ("memory.max", "1132462080"),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
                ("pids.max", "256"),
                ("io.weight", "10"),
                ("io.bfq.weight", "11"),
                ("io.max", "254:3 rbps=1048576 wbps=max riops=max wiops=100"),
            ]
        );
        assert!(CgroupConfig::unlimited("/", "vm").settings().is_empty());
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_parent() {
        for name in ["", ".", "..", "a/b", "../x", "/x", "a\0", ".hidden", "a b", "ü"] {
            let error = Cgroup::create(&CgroupConfig::unlimited("/sys/fs/cgroup", name)).unwrap_err();
            assert!(matches!(error, CgroupError::Name(_)), "{name}: {error}");
        }
    }

    #[test]
    fn a_parent_outside_the_hierarchy_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let error = Cgroup::create(&CgroupConfig::unlimited(folder.path(), "vm")).unwrap_err();
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
        assert!(folder.path().read_dir().unwrap().next().is_none());
    }

    #[test]
    fn a_missing_controller_is_named_with_the_file_to_write_to() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("vm")).unwrap();
        let cgroup = Cgroup::of(&CgroupConfig::unlimited(parent.path(), "vm")).unwrap();
        let refused = || cgroup.set(parent.path(), "pids.max", "3".into()).unwrap_err().to_string();
        let message = refused();
        assert!(message.contains("`pids`") && message.contains("every group above"), "{message}");
        fs::write(parent.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        let message = refused();
        let remedy = format!("write `+pids` to {}/cgroup.subtree_control", parent.path().display());
        assert!(message.ends_with(&remedy), "{message}");
    }
}
