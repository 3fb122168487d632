//! What a machine is made of: values and open files, no paths.
//!
//! A controller fills a [`MachineConfig`] and the client turns it into one control message plus descriptors;
//! the monitor turns that back, checks it, and can duplicate it, because a guest that restarts itself gets
//! its machine built anew from the same files.
//!
//! * [`wire`] – a machine as a control message with descriptors, and back
//! * [`restore`] – what a snapshot needs of the host to become a machine again

pub mod restore;
pub mod wire;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::arch::layout::{VCPU_RANGE, VIRTIO_SLOTS};
use crate::memory::{MEMORY_MIB_RANGE, MemoryError};
use crate::rate_limiter::RateLimiterConfig;

/// Longest kernel command line in bytes (Linux, arch/arm64/include/uapi/asm/setup.h, less its NUL).
pub const COMMAND_LINE_MAX: usize = 2047;
/// Longest disk serial id in bytes (virtio 1.2, 5.2.6).
pub const SERIAL_MAX: usize = 20;
/// Most frozen layers between a disk and its overlay.
pub const LAYERS_MAX: usize = 8;
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
    /// A disk has more layers than are looked through for every request.
    #[error("disk {index}: {layers} layers are more than the {LAYERS_MAX} that a disk may have: merge them")]
    Layers {
        /// Which disk.
        index: usize,
        /// How many it has.
        layers: usize,
    },
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
    /// The guest's writes go into the overlay, base and layers stay as they are.
    Overlay {
        /// Read only.
        base: File,
        /// Overlays that were frozen, read only, the one next to the base first.
        layers: Vec<File>,
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
    /// The kernel, an arm64 `Image`. A machine that was restored can do without, unless it restarts itself.
    pub kernel: Option<File>,
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

    /// A second configuration on duplicates of the same descriptors.
    ///
    /// # Errors
    /// When the process has no descriptors left.
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
