//! What a machine is made of: values and open files, no paths.
//!
//! A controller fills a [`MachineConfig`] and the client turns it into one control message plus descriptors;
//! the monitor turns that back, checks it, and can duplicate it, because a guest that restarts itself gets
//! its machine built anew from the same files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use hearth_proto::vmm::v1 as proto;
use proto::DescriptorRole as Role;

use crate::arch::layout::{VCPU_RANGE, VIRTIO_SLOTS};
use crate::memory::{MEMORY_MIB_RANGE, MemoryError};
use crate::rate_limiter::{BucketConfig, RateLimiterConfig};

/// Longest kernel command line in bytes (Linux, arch/arm64/include/uapi/asm/setup.h, less its NUL).
pub const COMMAND_LINE_MAX: usize = 2047;
/// Longest disk serial id in bytes (virtio 1.2, 5.2.6).
pub const SERIAL_MAX: usize = 20;
/// Console output that is kept where a configuration says nothing, in bytes.
pub const CONSOLE_MAX_BYTES: u64 = 1 << 20;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Wrong number of vCPUs.
    #[error("{0} vCPUs are out of range: a microVM has {min} to {max}", min = VCPU_RANGE.start(), max = VCPU_RANGE.end())]
    Vcpus(u32),
    /// Wrong memory size.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The command line cannot be passed on.
    #[error("the kernel command line {0}")]
    CommandLine(String),
    /// More devices than the board has slots.
    #[error(
        "{0} virtio devices are more than the board's {VIRTIO_SLOTS} slots: attach fewer disks or network cards"
    )]
    Devices(usize),
    /// A disk's serial id is too long.
    #[error("disk {index}: serial id {serial:?} is longer than {SERIAL_MAX} bytes")]
    Serial {
        /// Which disk.
        index: usize,
        /// Its serial id.
        serial: String,
    },
    /// The guest's context id is reserved.
    #[error("guest context id {0} is reserved: use 3 or more")]
    GuestCid(u32),
    /// A value of a message makes no sense.
    #[error("{0}")]
    Message(String),
    /// A descriptor is missing.
    #[error("the {0} descriptor is missing")]
    MissingDescriptor(String),
    /// A descriptor belongs to nothing, or comes twice.
    #[error("a {0} descriptor was passed that belongs to nothing in this configuration, or twice")]
    StrayDescriptor(String),
    /// The message announces another number of descriptors than it carries.
    #[error("the message names {named} descriptors and carries {carried}")]
    DescriptorCount {
        /// How many it names.
        named: usize,
        /// How many came.
        carried: usize,
    },
}

/// A disk's files.
#[derive(Debug)]
pub enum DiskSource {
    /// The guest cannot write.
    ReadOnly(File),
    /// The guest's writes go into the file.
    Writable(File),
    /// The guest's writes go into the overlay, the base stays as it is.
    Overlay {
        /// Read only.
        base: File,
        /// Written; empty at first.
        overlay: File,
    },
}

/// A disk.
#[derive(Debug)]
pub struct DiskConfig {
    /// Its files.
    pub source: DiskSource,
    /// Serial id that the guest reads, at most [`SERIAL_MAX`] bytes.
    pub serial: String,
    /// Limits, if any.
    pub rate_limiter: Option<RateLimiterConfig>,
}

/// A network card.
#[derive(Debug)]
pub struct NetConfig {
    /// The tap, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub tap: File,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// MTU to advertise, if any.
    pub mtu: Option<u16>,
    /// Limits on what the guest receives, if any.
    pub receive_limiter: Option<RateLimiterConfig>,
    /// Limits on what the guest sends, if any.
    pub transmit_limiter: Option<RateLimiterConfig>,
}

/// The vsock device.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// Where clients on the host connect.
    pub listener: Option<UnixListener>,
    /// Whom to ask for the host's end of a stream that the guest opens.
    pub broker: Option<OwnedFd>,
}

/// The balloon.
#[derive(Debug, Clone, Copy)]
pub struct BalloonConfig {
    /// Memory to take from the guest at first, in MiB.
    pub target_mib: u32,
    /// Whether free page reporting is offered.
    pub free_page_reporting: bool,
}

/// A machine.
#[derive(Debug)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 16.
    pub vcpus: u32,
    /// Memory in MiB, 128 to 32,768.
    pub memory_mib: u64,
    /// The kernel, an arm64 `Image`.
    pub kernel: File,
    /// The initramfs.
    pub initramfs: Option<File>,
    /// Kernel command line.
    pub command_line: String,
    /// Disks, in the guest's order.
    pub disks: Vec<DiskConfig>,
    /// Network cards, in the guest's order.
    pub nets: Vec<NetConfig>,
    /// The vsock device.
    pub vsock: Option<VsockConfig>,
    /// The balloon.
    pub balloon: Option<BalloonConfig>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Where the guest's console output goes.
    pub console_output: Option<OwnedFd>,
    /// Where the guest's console input comes from.
    pub console_input: Option<OwnedFd>,
    /// Where the reason of the end is written, as one line of JSON.
    pub exit_report: Option<OwnedFd>,
    /// Most bytes of console output that are kept.
    pub console_max_bytes: u64,
}

/// Duplicates an optional descriptor.
fn dup(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

impl MachineConfig {
    /// One vCPU, the smallest memory, no devices.
    #[must_use]
    pub fn new(kernel: File) -> Self {
        Self {
            vcpus: 1,
            memory_mib: *MEMORY_MIB_RANGE.start(),
            kernel,
            initramfs: None,
            command_line: String::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            balloon: None,
            rng: false,
            console_output: None,
            console_input: None,
            exit_report: None,
            console_max_bytes: CONSOLE_MAX_BYTES,
        }
    }

    /// How many virtio-mmio slots it takes.
    #[must_use]
    pub fn virtio_devices(&self) -> usize {
        let single = [self.vsock.is_some(), self.balloon.is_some(), self.rng];
        self.disks.len() + self.nets.len() + single.into_iter().filter(|present| *present).count()
    }

    /// Checks everything that can be checked without touching a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !VCPU_RANGE.contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !MEMORY_MIB_RANGE.contains(&self.memory_mib) {
            return Err(MemoryError::OutOfRange(self.memory_mib).into());
        }
        if self.command_line.len() > COMMAND_LINE_MAX {
            let length = self.command_line.len();
            let message = format!("has {length} bytes, the kernel takes {COMMAND_LINE_MAX}");
            return Err(ConfigError::CommandLine(message));
        }
        if self.command_line.contains('\0') {
            return Err(ConfigError::CommandLine("holds a NUL byte".into()));
        }
        if self.virtio_devices() > usize::from(VIRTIO_SLOTS) {
            return Err(ConfigError::Devices(self.virtio_devices()));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            if disk.serial.len() > SERIAL_MAX {
                return Err(ConfigError::Serial { index, serial: disk.serial.clone() });
            }
        }
        match &self.vsock {
            Some(vsock) if vsock.guest_cid < 3 => Err(ConfigError::GuestCid(vsock.guest_cid)),
            _ => Ok(()),
        }
    }

    /// A second configuration on duplicates of the same descriptors.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let disk = |disk: &DiskConfig| {
            let source = match &disk.source {
                DiskSource::ReadOnly(file) => DiskSource::ReadOnly(file.try_clone()?),
                DiskSource::Writable(file) => DiskSource::Writable(file.try_clone()?),
                DiskSource::Overlay { base, overlay } => {
                    DiskSource::Overlay { base: base.try_clone()?, overlay: overlay.try_clone()? }
                }
            };
            io::Result::Ok(DiskConfig {
                source,
                serial: disk.serial.clone(),
                rate_limiter: disk.rate_limiter,
            })
        };
        let net = |net: &NetConfig| io::Result::Ok(NetConfig { tap: net.tap.try_clone()?, ..*net });
        let vsock = |vsock: &VsockConfig| {
            io::Result::Ok(VsockConfig {
                guest_cid: vsock.guest_cid,
                listener: vsock.listener.as_ref().map(UnixListener::try_clone).transpose()?,
                broker: dup(vsock.broker.as_ref())?,
            })
        };
        Ok(Self {
            kernel: self.kernel.try_clone()?,
            initramfs: self.initramfs.as_ref().map(File::try_clone).transpose()?,
            command_line: self.command_line.clone(),
            disks: self.disks.iter().map(disk).collect::<io::Result<_>>()?,
            nets: self.nets.iter().map(net).collect::<io::Result<_>>()?,
            vsock: self.vsock.as_ref().map(vsock).transpose()?,
            console_output: dup(self.console_output.as_ref())?,
            console_input: dup(self.console_input.as_ref())?,
            exit_report: dup(self.exit_report.as_ref())?,
            ..*self
        })
    }

    /// The control message for this machine, and the descriptors that ride along, `kvm` among them.
    #[must_use]
    pub fn into_message(self, kvm: OwnedFd) -> (proto::Create, Vec<OwnedFd>) {
        let mut carried = Vec::new();
        let mut descriptors = Vec::new();
        let mut carry = |role: Role, index: usize, fd: Option<OwnedFd>| {
            let Some(fd) = fd else { return };
            descriptors.push(proto::Descriptor {
                role: role.into(),
                index: u32::try_from(index).unwrap_or(u32::MAX),
            });
            carried.push(fd);
        };
        carry(Role::Kvm, 0, Some(kvm));
        carry(Role::Kernel, 0, Some(self.kernel.into()));
        carry(Role::Initramfs, 0, self.initramfs.map(Into::into));
        let mut disks = Vec::new();
        for (index, disk) in self.disks.into_iter().enumerate() {
            let (mode, file, overlay) = match disk.source {
                DiskSource::ReadOnly(file) => (proto::DiskMode::ReadOnly, file, None),
                DiskSource::Writable(file) => (proto::DiskMode::Writable, file, None),
                DiskSource::Overlay { base, overlay } => (proto::DiskMode::Overlay, base, Some(overlay)),
            };
            carry(Role::Disk, index, Some(file.into()));
            carry(Role::DiskOverlay, index, overlay.map(Into::into));
            let rate_limiter = disk.rate_limiter.map(limiter_message);
            disks.push(proto::Disk { mode: mode.into(), serial: disk.serial, rate_limiter });
        }
        let mut nets = Vec::new();
        for (index, net) in self.nets.into_iter().enumerate() {
            carry(Role::Tap, index, Some(net.tap.into()));
            nets.push(proto::Net {
                mac: net.mac.to_vec(),
                mtu: net.mtu.map_or(0, u32::from),
                receive_limiter: net.receive_limiter.map(limiter_message),
                transmit_limiter: net.transmit_limiter.map(limiter_message),
            });
        }
        let vsock = self.vsock.map(|vsock| {
            carry(Role::VsockListener, 0, vsock.listener.map(Into::into));
            carry(Role::VsockBroker, 0, vsock.broker);
            proto::Vsock { guest_cid: vsock.guest_cid }
        });
        carry(Role::ConsoleOutput, 0, self.console_output);
        carry(Role::ConsoleInput, 0, self.console_input);
        carry(Role::ExitReport, 0, self.exit_report);
        let balloon = self.balloon.map(|balloon| proto::Balloon {
            target_mib: balloon.target_mib,
            free_page_reporting: balloon.free_page_reporting,
        });
        let create = proto::Create {
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            command_line: self.command_line,
            disks,
            nets,
            vsock,
            balloon,
            rng: self.rng,
            descriptors,
            console_max_bytes: self.console_max_bytes,
        };
        (create, carried)
    }

    /// The configuration that a control message and its descriptors describe, checked, and `/dev/kvm`.
    ///
    /// # Errors
    /// What is wrong with the values or the descriptors.
    pub fn from_message(
        create: proto::Create,
        carried: Vec<OwnedFd>,
    ) -> Result<(Self, OwnedFd), ConfigError> {
        let mut given = Descriptors::new(&create.descriptors, carried)?;
        let kvm = given.require(Role::Kvm, 0)?;
        let kernel = given.require(Role::Kernel, 0)?.into();
        let mut disks = Vec::new();
        for (index, disk) in create.disks.into_iter().enumerate() {
            let file = given.require(Role::Disk, index)?.into();
            let source = match disk.mode() {
                proto::DiskMode::ReadOnly => DiskSource::ReadOnly(file),
                proto::DiskMode::Writable => DiskSource::Writable(file),
                proto::DiskMode::Overlay => DiskSource::Overlay {
                    base: file,
                    overlay: given.require(Role::DiskOverlay, index)?.into(),
                },
                proto::DiskMode::Unspecified => {
                    return Err(ConfigError::Message(format!(
                        "disk {index}: its mode is not set or not known"
                    )));
                }
            };
            let rate_limiter = disk.rate_limiter.map(limiter_config).transpose()?;
            disks.push(DiskConfig { source, serial: disk.serial, rate_limiter });
        }
        let mut nets = Vec::new();
        for (index, net) in create.nets.into_iter().enumerate() {
            let mac = <[u8; 6]>::try_from(net.mac.as_slice()).map_err(|_| {
                ConfigError::Message(format!(
                    "network card {index}: its MAC has {} bytes, not 6",
                    net.mac.len()
                ))
            })?;
            let mtu = u16::try_from(net.mtu).map_err(|_| {
                ConfigError::Message(format!("network card {index}: MTU {} is more than 65535", net.mtu))
            })?;
            nets.push(NetConfig {
                tap: given.require(Role::Tap, index)?.into(),
                mac,
                mtu: (mtu > 0).then_some(mtu),
                receive_limiter: net.receive_limiter.map(limiter_config).transpose()?,
                transmit_limiter: net.transmit_limiter.map(limiter_config).transpose()?,
            });
        }
        let vsock = create.vsock.map(|vsock| VsockConfig {
            guest_cid: vsock.guest_cid,
            listener: given.take(Role::VsockListener, 0).map(Into::into),
            broker: given.take(Role::VsockBroker, 0),
        });
        let balloon = create.balloon.map(|balloon| BalloonConfig {
            target_mib: balloon.target_mib,
            free_page_reporting: balloon.free_page_reporting,
        });
        let config = Self {
            vcpus: create.vcpus,
            memory_mib: create.memory_mib,
            kernel,
            initramfs: given.take(Role::Initramfs, 0).map(Into::into),
            command_line: create.command_line,
            disks,
            nets,
            vsock,
            balloon,
            rng: create.rng,
            console_output: given.take(Role::ConsoleOutput, 0),
            console_input: given.take(Role::ConsoleInput, 0),
            exit_report: given.take(Role::ExitReport, 0),
            console_max_bytes: match create.console_max_bytes {
                0 => CONSOLE_MAX_BYTES,
                bytes => bytes,
            },
        };
        given.finish()?;
        config.validate()?;
        Ok((config, kvm))
    }
}

fn limiter_message(config: RateLimiterConfig) -> proto::RateLimiter {
    let bucket = |bucket: BucketConfig| proto::TokenBucket {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst,
        refill_ms: bucket.refill_ms,
    };
    proto::RateLimiter { bytes: config.bytes.map(bucket), operations: config.ops.map(bucket) }
}

fn limiter_config(message: proto::RateLimiter) -> Result<RateLimiterConfig, ConfigError> {
    let bucket = |bucket: proto::TokenBucket| {
        if bucket.size == 0 || bucket.refill_ms == 0 {
            let message =
                "a rate limiter's size and refill time must not be 0: leave the bucket out for no limit";
            return Err(ConfigError::Message(message.into()));
        }
        Ok(BucketConfig {
            size: bucket.size,
            one_time_burst: bucket.one_time_burst,
            refill_ms: bucket.refill_ms,
        })
    };
    Ok(RateLimiterConfig {
        bytes: message.bytes.map(bucket).transpose()?,
        ops: message.operations.map(bucket).transpose()?,
    })
}

/// The descriptors of one message, by role.
#[derive(Debug)]
pub struct Descriptors(Vec<(Role, usize, OwnedFd)>);

impl Descriptors {
    /// Pairs what a message names with what it carries.
    ///
    /// # Errors
    /// When the numbers differ or a role is not known or comes twice.
    pub fn new(named: &[proto::Descriptor], carried: Vec<OwnedFd>) -> Result<Self, ConfigError> {
        if named.len() != carried.len() {
            return Err(ConfigError::DescriptorCount { named: named.len(), carried: carried.len() });
        }
        let mut all: Vec<(Role, usize, OwnedFd)> = Vec::with_capacity(carried.len());
        for (descriptor, fd) in named.iter().zip(carried) {
            let role = descriptor.role();
            let index = usize::try_from(descriptor.index).unwrap_or(usize::MAX);
            if role == Role::Unspecified || all.iter().any(|(other, at, _)| (*other, *at) == (role, index)) {
                return Err(ConfigError::StrayDescriptor(name(role, index)));
            }
            all.push((role, index, fd));
        }
        Ok(Self(all))
    }

    /// Takes the descriptor of a role, if it is there.
    pub fn take(&mut self, role: Role, index: usize) -> Option<OwnedFd> {
        let position = self.0.iter().position(|(other, at, _)| (*other, *at) == (role, index))?;
        Some(self.0.swap_remove(position).2)
    }

    fn require(&mut self, role: Role, index: usize) -> Result<OwnedFd, ConfigError> {
        self.take(role, index).ok_or_else(|| ConfigError::MissingDescriptor(name(role, index)))
    }

    /// Makes sure that every descriptor was taken.
    ///
    /// # Errors
    /// [`ConfigError::StrayDescriptor`] naming one that was not.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.0.first() {
            Some((role, index, _)) => Err(ConfigError::StrayDescriptor(name(*role, *index))),
            None => Ok(()),
        }
    }
}

fn name(role: Role, index: usize) -> String {
    let name = role.as_str_name();
    format!("{} {index}", name.strip_prefix("DESCRIPTOR_ROLE_").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        tempfile::tempfile().unwrap()
    }

    fn full() -> MachineConfig {
        let bucket = BucketConfig { size: 10, one_time_burst: 5, refill_ms: 100 };
        let limiter = Some(RateLimiterConfig { bytes: Some(bucket), ops: None });
        MachineConfig {
            vcpus: 4,
            memory_mib: 512,
            initramfs: Some(file()),
            command_line: "console=ttyS0".into(),
            disks: vec![
                DiskConfig {
                    source: DiskSource::ReadOnly(file()),
                    serial: "a".into(),
                    rate_limiter: limiter,
                },
                DiskConfig {
                    source: DiskSource::Overlay { base: file(), overlay: file() },
                    serial: "b".into(),
                    rate_limiter: None,
                },
            ],
            nets: vec![NetConfig {
                tap: file(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: Some(1400),
                receive_limiter: None,
                transmit_limiter: limiter,
            }],
            vsock: Some(VsockConfig { guest_cid: 3, listener: None, broker: Some(file().into()) }),
            balloon: Some(BalloonConfig { target_mib: 16, free_page_reporting: true }),
            rng: true,
            console_output: Some(file().into()),
            exit_report: Some(file().into()),
            ..MachineConfig::new(file())
        }
    }

    #[test]
    fn a_machine_survives_the_way_through_a_message() {
        let (message, fds) = full().into_message(file().into());
        let (config, _kvm) = MachineConfig::from_message(message.clone(), fds).unwrap();
        let (again, fds) = config.try_clone().unwrap().into_message(file().into());
        assert_eq!(message, again);
        assert_eq!(fds.len(), message.descriptors.len());
        assert_eq!(config.virtio_devices(), 6);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let refused = |change: fn(&mut MachineConfig)| {
            let mut config = full();
            change(&mut config);
            let (message, fds) = config.into_message(file().into());
            MachineConfig::from_message(message, fds).unwrap_err().to_string()
        };
        assert!(refused(|config| config.vcpus = 0).contains("0 vCPUs"));
        assert!(refused(|config| config.vcpus = 17).contains("1 to 16"));
        assert!(refused(|config| config.memory_mib = 64).contains("64 MiB"));
        assert!(refused(|config| config.command_line = "x".repeat(2048)).contains("2048 bytes"));
        assert!(refused(|config| config.command_line = "a\0b".into()).contains("NUL"));
        assert!(refused(|config| config.disks[1].serial = "s".repeat(21)).contains("disk 1"));
        assert!(refused(|config| config.vsock.as_mut().unwrap().guest_cid = 2).contains("reserved"));
        let many = |config: &mut MachineConfig| {
            let disk = || DiskConfig {
                source: DiskSource::ReadOnly(file()),
                serial: String::new(),
                rate_limiter: None,
            };
            config.disks = std::iter::repeat_with(disk).take(40).collect();
        };
        assert!(refused(many).contains("32 slots"));
    }

    #[test]
    fn descriptors_must_be_just_those_that_the_machine_needs() {
        let (message, mut fds) = full().into_message(file().into());
        fds.pop();
        let error = MachineConfig::from_message(message.clone(), fds).unwrap_err().to_string();
        assert!(error.contains("names 10 descriptors and carries 9"), "{error}");

        let drop_role = |role: Role| {
            let (mut message, mut fds) = full().into_message(file().into());
            let at = message.descriptors.iter().position(|descriptor| descriptor.role() == role).unwrap();
            message.descriptors.remove(at);
            fds.remove(at);
            MachineConfig::from_message(message, fds).unwrap_err().to_string()
        };
        assert!(drop_role(Role::Kvm).contains("KVM 0 descriptor is missing"));
        assert!(drop_role(Role::DiskOverlay).contains("DISK_OVERLAY 1 descriptor is missing"));

        let (mut message, fds) = full().into_message(file().into());
        message.nets.clear();
        let error = MachineConfig::from_message(message, fds).unwrap_err().to_string();
        assert!(error.contains("TAP 0"), "{error}");
    }
}
