//! The configuration of a machine: values and open files, no paths.
//!
//! A controller fills in a [`MachineConfig`], and the client turns it into one control message plus descriptors. The
//! monitor turns that back into a configuration, validates it and builds the devices from it. The monitor keeps a
//! duplicate: when a guest restarts itself, its machine is rebuilt from the same files.
//!
//! * [`wire`] – conversion between a configuration and a control message with descriptors
//! * [`restore`] – what the host must provide to restore a snapshot
//! * [`rate_limiter`] – rate limits of disks and network cards

pub mod rate_limiter;
pub mod restore;
pub mod wire;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::limits::{MEMORY_MIB_RANGE, MemoryOutOfRange, VCPU_RANGE, VIRTIO_SLOTS, check_memory};
use rate_limiter::{DeviceLimits, RateLimiterConfig};

/// Maximum length of the kernel command line in bytes (Linux, arch/arm64/include/uapi/asm/setup.h, without its NUL).
pub const COMMAND_LINE_MAX: usize = 2047;
/// Maximum length of a disk's serial id in bytes (virtio 1.2, 5.2.6).
pub const SERIAL_MAX: usize = 20;
/// Maximum number of frozen layers between a disk and its overlay.
pub const LAYERS_MAX: usize = 8;
/// Default for the maximum size of the console output that is kept, in bytes.
pub const CONSOLE_MAX_BYTES: u64 = 1 << 20;

/// The reason for which a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The number of vCPUs is out of range.
    #[error("{0} vCPUs are out of range: a microVM has {min} to {max}", min = VCPU_RANGE.start(), max = VCPU_RANGE.end())]
    Vcpus(u32),
    /// The memory size is out of range.
    #[error(transparent)]
    Memory(#[from] MemoryOutOfRange),
    /// The kernel command line cannot be passed to the guest.
    #[error("the kernel command line {0}")]
    CommandLine(String),
    /// There are more devices than the board has slots.
    #[error(
        "{0} virtio devices are more than the board's {VIRTIO_SLOTS} slots: attach fewer disks or network cards"
    )]
    Devices(usize),
    /// A disk has too many layers: each request searches all of them.
    #[error("disk {index}: {layers} layers are more than the {LAYERS_MAX} that a disk may have: merge them")]
    Layers {
        /// Index of the disk.
        index: usize,
        /// Number of layers of the disk.
        layers: usize,
    },
    /// A disk's serial id is too long.
    #[error("disk {index}: serial id {serial:?} is longer than {SERIAL_MAX} bytes")]
    Serial {
        /// Index of the disk.
        index: usize,
        /// Serial id of the disk.
        serial: String,
    },
    /// The guest's context id is reserved.
    #[error("guest context id {0} is reserved: use 3 or more")]
    GuestCid(u32),
    /// A value in a message is invalid.
    #[error("{0}")]
    Message(String),
    /// A descriptor is missing.
    #[error("the {0} descriptor is missing")]
    MissingDescriptor(String),
    /// A descriptor belongs to no part of the configuration, or was passed twice.
    #[error("a {0} descriptor was passed that belongs to nothing in this configuration, or twice")]
    StrayDescriptor(String),
    /// The message lists another number of descriptors than it carries.
    #[error("the message names {named} descriptors and carries {carried}")]
    DescriptorCount {
        /// Number of descriptors that the message lists.
        named: usize,
        /// Number of descriptors that the message carries.
        carried: usize,
    },
}

/// The files of a disk. All of them except the overlay may also be block device nodes.
#[derive(Debug)]
pub enum DiskSource {
    /// The guest cannot write to the disk.
    ReadOnly(File),
    /// The guest's writes go into the file.
    Writable(File),
    /// The guest's writes go into the overlay. A sector that the overlay does not contain is read from the topmost layer
    /// that contains it, and from the base if none does. Base and layers are only read, and may be shared.
    Overlay {
        /// The base, opened for reading.
        base: File,
        /// Frozen overlays, opened for reading. The layer next to the base is the first.
        layers: Vec<File>,
        /// The file for the guest's writes: empty, or an earlier overlay of the same base and layers; opened for reading
        /// and writing.
        overlay: File,
    },
}

/// A disk.
#[derive(Debug)]
pub struct DiskConfig {
    /// Files of the disk.
    pub source: DiskSource,
    /// Serial id that the guest reads: at most [`SERIAL_MAX`] bytes of printable ASCII, may be empty.
    pub serial: String,
    /// Rate limits, if any.
    pub rate_limiter: Option<RateLimiterConfig>,
    /// Storage in bytes that the file of the guest's writes may take, if that is bounded. A write that needs more waits.
    pub room: Option<u64>,
}

/// A network card.
#[derive(Debug)]
pub struct NetConfig {
    /// The tap, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`; the monitor makes it non-blocking.
    pub tap: File,
    /// MAC address of the card, which must be unicast.
    pub mac: [u8; 6],
    /// MTU to advertise to the guest, at least 68; `None` leaves it at the driver's default of 1,500.
    pub mtu: Option<u16>,
    /// Rate limits for received packets, if any. Bytes count from the Ethernet header on, operations are packets.
    pub receive_limiter: Option<RateLimiterConfig>,
    /// Rate limits for sent packets, if any, counted in the same way.
    pub transmit_limiter: Option<RateLimiterConfig>,
}

/// The vsock device.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more, not `u32::MAX`.
    pub guest_cid: u32,
    /// The socket to which clients on the host connect.
    pub listener: Option<UnixListener>,
    /// The connection to the broker, which provides the host's end of streams that the guest opens.
    pub broker: Option<OwnedFd>,
}

/// The balloon.
#[derive(Debug, Clone, Copy)]
pub struct BalloonConfig {
    /// Memory to take from the guest initially, in MiB.
    pub target_mib: u32,
    /// Whether the device offers free page reporting.
    pub free_page_reporting: bool,
}

/// The configuration of a machine.
#[derive(Debug)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 16.
    pub vcpus: u32,
    /// Memory in MiB, 128 to 32,768.
    pub memory_mib: u64,
    /// The kernel, an arm64 `Image`. A restored machine needs it only if its guest restarts itself.
    pub kernel: Option<File>,
    /// The initramfs.
    pub initramfs: Option<File>,
    /// Kernel command line.
    pub command_line: String,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<DiskConfig>,
    /// Network cards, in the order in which the guest sees them.
    pub nets: Vec<NetConfig>,
    /// The vsock device.
    pub vsock: Option<VsockConfig>,
    /// The balloon.
    pub balloon: Option<BalloonConfig>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// The descriptor that receives the guest's console output.
    pub console_output: Option<OwnedFd>,
    /// The descriptor from which the guest's console input is read.
    pub console_input: Option<OwnedFd>,
    /// The file or pipe that receives the exit reason, as one line of JSON.
    pub exit_report: Option<OwnedFd>,
    /// Maximum number of bytes of console output that are kept.
    pub console_max_bytes: u64,
}

/// Duplicates an optional descriptor.
fn dup(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

impl MachineConfig {
    /// Creates a configuration with one vCPU, the smallest memory and no devices.
    #[must_use]
    pub fn new(kernel: File) -> Self {
        Self {
            vcpus: 1,
            memory_mib: *MEMORY_MIB_RANGE.start(),
            kernel: Some(kernel),
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

    /// Returns the number of virtio-mmio slots that the machine takes.
    #[must_use]
    pub fn virtio_devices(&self) -> usize {
        let single = [self.vsock.is_some(), self.balloon.is_some(), self.rng];
        self.disks.len() + self.nets.len() + single.into_iter().filter(|present| *present).count()
    }

    /// Checks everything that can be checked without touching a file.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !VCPU_RANGE.contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        check_memory(self.memory_mib)?;
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
            if let DiskSource::Overlay { layers, .. } = &disk.source
                && layers.len() > LAYERS_MAX
            {
                return Err(ConfigError::Layers { index, layers: layers.len() });
            }
        }
        match &self.vsock {
            Some(vsock) if vsock.guest_cid < 3 => Err(ConfigError::GuestCid(vsock.guest_cid)),
            _ => Ok(()),
        }
    }

    /// Replaces the limits of the devices.
    pub fn set_limits(&mut self, limits: DeviceLimits) {
        for disk in &mut self.disks {
            (disk.rate_limiter, disk.room) = (limits.disk, limits.room);
        }
        for net in &mut self.nets {
            (net.receive_limiter, net.transmit_limiter) = (limits.receive, limits.transmit);
        }
    }

    /// Creates a second configuration with duplicates of the same descriptors.
    ///
    /// # Errors
    /// Fails when the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let disk = |disk: &DiskConfig| {
            let source = match &disk.source {
                DiskSource::ReadOnly(file) => DiskSource::ReadOnly(file.try_clone()?),
                DiskSource::Writable(file) => DiskSource::Writable(file.try_clone()?),
                DiskSource::Overlay { base, layers, overlay } => DiskSource::Overlay {
                    base: base.try_clone()?,
                    layers: layers.iter().map(File::try_clone).collect::<io::Result<_>>()?,
                    overlay: overlay.try_clone()?,
                },
            };
            io::Result::Ok(DiskConfig {
                source,
                serial: disk.serial.clone(),
                rate_limiter: disk.rate_limiter,
                room: disk.room,
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
            kernel: self.kernel.as_ref().map(File::try_clone).transpose()?,
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
}

#[cfg(test)]
mod tests;
