//! What control groups can do for the disk that all microVMs share: a weight for each, and limits that hold even for a
//! monitor that its guest has taken over.
//!
//! Both depend on the kernel and on the file system of `data`, and a host without them works, too: what is missing is
//! said once, at the start.

use std::fmt;
use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hearth_vmm_jail::cgroup::{CgroupConfig, IoMax};
use rustix::fs::{major, minor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DEFAULT_WEIGHT;

/// The memory class in MiB that the configuration's numbers are for.
const UNIT_MIB: u64 = 1024;
/// Block devices by number (Documentation/ABI/stable/sysfs-dev).
const BLOCK_DEVICES: &str = "/sys/dev/block";

/// How much a monitor may read from and write to the disk of `data`, for each GiB of its microVM's memory class: `io.max` of
/// its control group. Unlike `[limits.disk]`, which the monitor keeps, the kernel keeps these, and they have no burst: give
/// a multiple. What the page cache holds is not counted. 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IoMaxSettings {
    /// Bytes that are read in a second.
    pub read_bytes_per_second: u64,
    /// Bytes that are written in a second.
    pub write_bytes_per_second: u64,
    /// Reads in a second.
    pub reads_per_second: u64,
    /// Writes in a second.
    pub writes_per_second: u64,
}

impl IoMaxSettings {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The limits of a microVM with this memory class.
    fn of(&self, device: (u32, u32), class_mib: u64) -> IoMax {
        let scaled = |value: u64| {
            let scaled = u128::from(value) * u128::from(class_mib) / u128::from(UNIT_MIB);
            (value > 0).then(|| u64::try_from(scaled).unwrap_or(u64::MAX).max(1))
        };
        IoMax {
            device,
            read_bytes: scaled(self.read_bytes_per_second),
            write_bytes: scaled(self.write_bytes_per_second),
            reads: scaled(self.reads_per_second),
            writes: scaled(self.writes_per_second),
        }
    }
}

/// Something that this host's control groups cannot do for its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The controller cannot be enabled in this group.
    Controller(PathBuf),
    /// There are no weights.
    Weight,
    /// The files of `data` lie on no single disk.
    Device(PathBuf),
    /// The kernel refuses limits for the disk.
    Max(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(group) => write!(
                f,
                "the disk is not shared by weight, and cgroup.io_max has no effect: the controller io cannot be enabled in {} \
                 (CONFIG_BLK_CGROUP)",
                group.display()
            ),
            Self::Weight => f.write_str(
                "the disk is not shared by weight: control groups have neither io.weight (CONFIG_BLK_CGROUP_IOCOST) nor \
                 io.bfq.weight",
            ),
            Self::Device(data) => write!(
                f,
                "cgroup.io_max has no effect: {} is on no file system of one disk (tmpfs, overlay and btrfs are none)",
                data.display()
            ),
            Self::Max(why) => write!(f, "cgroup.io_max has no effect: {why}"),
        }
    }
}

/// What the groups below a parent can do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Io {
    /// Whether groups have `io.weight`.
    pub(super) weight: bool,
    /// Whether groups have `io.bfq.weight`.
    pub(super) bfq: bool,
    /// The limits, with the disk that they are for.
    pub(super) max: Option<((u32, u32), IoMaxSettings)>,
}

impl Io {
    /// Adds the share of a microVM with this memory class and this weight.
    pub(super) fn share(&self, config: CgroupConfig, class_mib: u64, weight: u32) -> CgroupConfig {
        // A new group has the kernel's default already: a launch need not write it.
        let weight = Some(weight).filter(|weight| *weight != DEFAULT_WEIGHT);
        CgroupConfig {
            io_weight: weight.filter(|_| self.weight),
            // Documentation/block/bfq-iosched.rst: 1 to 1000
            io_bfq_weight: weight.filter(|_| self.bfq).map(|weight| weight.min(1000)),
            io_max: self.max.iter().map(|(device, settings)| settings.of(*device, class_mib)).collect(),
            ..config
        }
    }

    /// Looks at which weights a group has.
    pub(super) fn with_weights(self, group: &Path) -> Self {
        let has = |file: &str| group.join(file).exists();
        Self { weight: has("io.weight"), bfq: has("io.bfq.weight"), ..self }
    }

    /// Adds the limits for the disk on which `data` is, if there are any.
    pub(super) fn with_max(self, settings: IoMaxSettings, data: &Path) -> Result<Self, Missing> {
        if settings.is_none() {
            return Ok(self);
        }
        match disk_of(data) {
            Some(device) => Ok(Self { max: Some((device, settings)), ..self }),
            None => Err(Missing::Device(data.to_owned())),
        }
    }
}

/// The disk of the file system on which `path` is; none if it is on none, or on several. Limits are for whole disks, not for
/// partitions.
fn disk_of(path: &Path) -> Option<(u32, u32)> {
    let device = fs::metadata(path).ok()?.st_dev();
    if major(device) == 0 {
        return None; // an anonymous device, as of tmpfs, overlay and btrfs
    }
    let folder = Path::new(BLOCK_DEVICES).join(format!("{}:{}", major(device), minor(device)));
    let folder = fs::canonicalize(folder).ok()?;
    let disk = if folder.join("partition").exists() { folder.parent()? } else { &folder };
    parse_device(&fs::read_to_string(disk.join("dev")).ok()?)
}

/// Parses the numbers of a device, like `259:0`.
fn parse_device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_as_the_memory_class_and_nothing_is_limited_unless_given() {
        let settings = IoMaxSettings {
            read_bytes_per_second: 1 << 30,
            writes_per_second: 1,
            ..IoMaxSettings::default()
        };
        let limits = settings.of((259, 0), 512);
        let expected = IoMax {
            device: (259, 0),
            read_bytes: Some(1 << 29),
            write_bytes: None,
            reads: None,
            writes: Some(1),
        };
        assert_eq!(limits, expected);
        let io = Io::default().with_max(IoMaxSettings::default(), Path::new("/nowhere")).unwrap();
        assert!(io.max.is_none(), "no disk is looked for");
    }

    #[test]
    fn a_file_system_without_a_disk_is_said_to_have_none() {
        // tmpfs
        assert_eq!(disk_of(Path::new("/dev/shm")), None);
        let settings = IoMaxSettings { reads_per_second: 1, ..IoMaxSettings::default() };
        let missing = Io::default().with_max(settings, Path::new("/dev/shm")).unwrap_err();
        assert!(missing.to_string().contains("cgroup.io_max has no effect: /dev/shm"), "{missing}");
        assert_eq!(parse_device("259:0\n"), Some((259, 0)));
        assert_eq!(parse_device("none"), None);
    }

    #[test]
    fn weights_are_set_where_the_groups_have_them() {
        let group = tempfile::tempdir().unwrap();
        let share = |io: Io| {
            let config = io.share(CgroupConfig::unlimited("/groups", "vm-1"), 8192, 4000);
            (config.io_weight, config.io_bfq_weight, config.io_max.len())
        };
        let io = Io::default().with_weights(group.path());
        assert_eq!(share(io), (None, None, 0));
        fs::write(group.path().join("io.weight"), "").unwrap();
        fs::write(group.path().join("io.bfq.weight"), "").unwrap();
        let settings = IoMaxSettings { reads_per_second: 1, ..IoMaxSettings::default() };
        let io = Io { max: Some(((8, 0), settings)), ..io.with_weights(group.path()) };
        assert_eq!(share(io), (Some(4000), Some(1000), 1));
    }
}
