//! Conversion between a machine's configuration and a control message with descriptors.

use std::os::fd::OwnedFd;

use hearth_proto::vmm::v1 as proto;
use proto::DescriptorRole as Role;

use super::rate_limiter::RateLimiterConfig;
use super::{
    BalloonConfig, CONSOLE_MAX_BYTES, ConfigError, DiskConfig, DiskSource, LAYERS_MAX, MachineConfig,
    NetConfig, VsockConfig,
};

/// Descriptors to send with a message, in the order in which the message lists them.
#[derive(Debug, Default)]
pub struct OutgoingDescriptors {
    /// The entries of the message's list.
    pub named: Vec<proto::Descriptor>,
    /// The descriptors themselves.
    pub fds: Vec<OwnedFd>,
}

impl OutgoingDescriptors {
    /// Adds the descriptor of a role.
    pub fn add(&mut self, role: Role, fd: impl Into<OwnedFd>) {
        self.add_at(role, 0, fd);
    }

    /// Adds a descriptor of disk or network card `index`.
    pub fn add_at(&mut self, role: Role, index: usize, fd: impl Into<OwnedFd>) {
        self.add_layer(role, index, 0, fd);
    }

    /// Adds layer `layer` of disk `index`.
    pub fn add_layer(&mut self, role: Role, index: usize, layer: usize, fd: impl Into<OwnedFd>) {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.named.push(proto::Descriptor { role: role.into(), index: number(index), layer: number(layer) });
        self.fds.push(fd.into());
    }

    /// Adds the files of disk `index`; returns how the disk is attached and its number of layers.
    pub fn add_disk(&mut self, index: usize, source: DiskSource) -> (proto::DiskMode, u32) {
        match source {
            DiskSource::ReadOnly(file) => {
                self.add_at(Role::Disk, index, file);
                (proto::DiskMode::ReadOnly, 0)
            }
            DiskSource::Writable(file) => {
                self.add_at(Role::Disk, index, file);
                (proto::DiskMode::Writable, 0)
            }
            DiskSource::Overlay { base, layers, overlay } => {
                self.add_at(Role::Disk, index, base);
                let count = u32::try_from(layers.len()).unwrap_or(u32::MAX);
                for (layer, file) in layers.into_iter().enumerate() {
                    self.add_layer(Role::DiskLayer, index, layer, file);
                }
                self.add_at(Role::DiskOverlay, index, overlay);
                (proto::DiskMode::Overlay, count)
            }
        }
    }
}

impl MachineConfig {
    /// Returns the control message for this machine and the descriptors that are sent with it, `kvm` among them.
    #[must_use]
    pub fn into_message(self, kvm: OwnedFd) -> (proto::Create, Vec<OwnedFd>) {
        let mut descriptors = OutgoingDescriptors::default();
        descriptors.add(Role::Kvm, kvm);
        let mut create = self.into_parts(&mut descriptors);
        create.descriptors = descriptors.named;
        (create, descriptors.fds)
    }

    /// Returns the message without its list of descriptors, and adds its descriptors to the list.
    #[must_use]
    pub fn into_parts(self, descriptors: &mut OutgoingDescriptors) -> proto::Create {
        let optional = |descriptors: &mut OutgoingDescriptors, role: Role, fd: Option<OwnedFd>| {
            if let Some(fd) = fd {
                descriptors.add(role, fd);
            }
        };
        optional(descriptors, Role::Kernel, self.kernel.map(Into::into));
        optional(descriptors, Role::Initramfs, self.initramfs.map(Into::into));
        let mut disks = Vec::new();
        for (index, disk) in self.disks.into_iter().enumerate() {
            let (mode, layers) = descriptors.add_disk(index, disk.source);
            let rate_limiter = disk.rate_limiter.map(RateLimiterConfig::message);
            let room_bytes = disk.room;
            disks.push(proto::Disk {
                mode: mode.into(),
                serial: disk.serial,
                rate_limiter,
                layers,
                room_bytes,
            });
        }
        let mut nets = Vec::new();
        for (index, net) in self.nets.into_iter().enumerate() {
            descriptors.add_at(Role::Tap, index, net.tap);
            nets.push(proto::Net {
                mac: net.mac.to_vec(),
                mtu: net.mtu.map_or(0, u32::from),
                receive_limiter: net.receive_limiter.map(RateLimiterConfig::message),
                transmit_limiter: net.transmit_limiter.map(RateLimiterConfig::message),
            });
        }
        let vsock = self.vsock.map(|vsock| {
            optional(descriptors, Role::VsockListener, vsock.listener.map(Into::into));
            optional(descriptors, Role::VsockBroker, vsock.broker);
            proto::Vsock { guest_cid: vsock.guest_cid }
        });
        optional(descriptors, Role::ConsoleOutput, self.console_output);
        optional(descriptors, Role::ConsoleInput, self.console_input);
        optional(descriptors, Role::ExitReport, self.exit_report);
        let balloon = self.balloon.map(|balloon| proto::Balloon {
            target_mib: balloon.target_mib,
            free_page_reporting: balloon.free_page_reporting,
        });
        proto::Create {
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            command_line: self.command_line,
            disks,
            nets,
            vsock,
            balloon,
            rng: self.rng,
            descriptors: Vec::new(),
            console_max_bytes: self.console_max_bytes,
        }
    }

    /// Parses a control message and its descriptors; returns the validated configuration and `/dev/kvm`.
    ///
    /// # Errors
    /// [`ConfigError`] that describes what is wrong with the values or the descriptors.
    pub fn from_message(create: proto::Create, fds: Vec<OwnedFd>) -> Result<(Self, OwnedFd), ConfigError> {
        let mut descriptors = Descriptors::new(&create.descriptors, fds)?;
        let kvm = descriptors.require(Role::Kvm, 0)?;
        let config = Self::from_parts(create, &mut descriptors)?;
        if config.kernel.is_none() {
            return Err(ConfigError::MissingDescriptor(name(Role::Kernel, 0, 0)));
        }
        descriptors.finish()?;
        Ok((config, kvm))
    }

    /// Parses a message; returns the validated configuration and takes the descriptors that it needs from `descriptors`.
    ///
    /// # Errors
    /// [`ConfigError`] that describes what is wrong with the values or the descriptors.
    pub fn from_parts(create: proto::Create, descriptors: &mut Descriptors) -> Result<Self, ConfigError> {
        let mut disks = Vec::new();
        for (index, disk) in create.disks.into_iter().enumerate() {
            let file = descriptors.require(Role::Disk, index)?.into();
            let source = match disk.mode() {
                proto::DiskMode::ReadOnly => DiskSource::ReadOnly(file),
                proto::DiskMode::Writable => DiskSource::Writable(file),
                proto::DiskMode::Overlay => {
                    let count = usize::try_from(disk.layers).unwrap_or(usize::MAX);
                    if count > LAYERS_MAX {
                        return Err(ConfigError::Layers { index, layers: count });
                    }
                    let layer =
                        |layer| descriptors.require_layer(Role::DiskLayer, index, layer).map(Into::into);
                    let layers = (0..count).map(layer).collect::<Result<_, _>>()?;
                    DiskSource::Overlay {
                        base: file,
                        layers,
                        overlay: descriptors.require(Role::DiskOverlay, index)?.into(),
                    }
                }
                proto::DiskMode::Unspecified => {
                    return Err(ConfigError::Message(format!(
                        "disk {index}: its mode is not set or not known"
                    )));
                }
            };
            let rate_limiter = disk.rate_limiter.map(RateLimiterConfig::from_message).transpose()?;
            disks.push(DiskConfig { source, serial: disk.serial, rate_limiter, room: disk.room_bytes });
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
                tap: descriptors.require(Role::Tap, index)?.into(),
                mac,
                mtu: (mtu > 0).then_some(mtu),
                receive_limiter: net.receive_limiter.map(RateLimiterConfig::from_message).transpose()?,
                transmit_limiter: net.transmit_limiter.map(RateLimiterConfig::from_message).transpose()?,
            });
        }
        let vsock = create.vsock.map(|vsock| VsockConfig {
            guest_cid: vsock.guest_cid,
            listener: descriptors.take(Role::VsockListener, 0).map(Into::into),
            broker: descriptors.take(Role::VsockBroker, 0),
        });
        let balloon = create.balloon.map(|balloon| BalloonConfig {
            target_mib: balloon.target_mib,
            free_page_reporting: balloon.free_page_reporting,
        });
        let config = Self {
            vcpus: create.vcpus,
            memory_mib: create.memory_mib,
            kernel: descriptors.take(Role::Kernel, 0).map(Into::into),
            initramfs: descriptors.take(Role::Initramfs, 0).map(Into::into),
            command_line: create.command_line,
            disks,
            nets,
            vsock,
            balloon,
            rng: create.rng,
            console_output: descriptors.take(Role::ConsoleOutput, 0),
            console_input: descriptors.take(Role::ConsoleInput, 0),
            exit_report: descriptors.take(Role::ExitReport, 0),
            console_max_bytes: match create.console_max_bytes {
                0 => CONSOLE_MAX_BYTES,
                bytes => bytes,
            },
        };
        config.validate()?;
        Ok(config)
    }
}

/// The descriptors of one message, by role.
#[derive(Debug)]
pub struct Descriptors(Vec<(Place, OwnedFd)>);

/// The purpose of a descriptor: its role, the index of the device, the index of the layer.
type Place = (Role, usize, usize);

impl Descriptors {
    /// Pairs the entries of a message's list with the descriptors that the message carries.
    ///
    /// # Errors
    /// Fails when the numbers differ, or when a role is unknown or listed twice.
    pub fn new(named: &[proto::Descriptor], fds: Vec<OwnedFd>) -> Result<Self, ConfigError> {
        if named.len() != fds.len() {
            return Err(ConfigError::DescriptorCount { named: named.len(), carried: fds.len() });
        }
        let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let mut all: Vec<(Place, OwnedFd)> = Vec::with_capacity(fds.len());
        for (descriptor, fd) in named.iter().zip(fds) {
            let place = (descriptor.role(), number(descriptor.index), number(descriptor.layer));
            if place.0 == Role::Unspecified || all.iter().any(|(other, _)| *other == place) {
                return Err(ConfigError::StrayDescriptor(name(place.0, place.1, place.2)));
            }
            all.push((place, fd));
        }
        Ok(Self(all))
    }

    /// Takes the descriptor of a role, if it was passed.
    pub fn take(&mut self, role: Role, index: usize) -> Option<OwnedFd> {
        self.take_layer(role, index, 0)
    }

    fn take_layer(&mut self, role: Role, index: usize, layer: usize) -> Option<OwnedFd> {
        let position = self.0.iter().position(|(place, _)| *place == (role, index, layer))?;
        Some(self.0.swap_remove(position).1)
    }

    /// Takes the descriptor of a role.
    ///
    /// # Errors
    /// [`ConfigError::MissingDescriptor`] when it was not passed.
    pub fn require(&mut self, role: Role, index: usize) -> Result<OwnedFd, ConfigError> {
        self.require_layer(role, index, 0)
    }

    fn require_layer(&mut self, role: Role, index: usize, layer: usize) -> Result<OwnedFd, ConfigError> {
        let missing = || ConfigError::MissingDescriptor(name(role, index, layer));
        self.take_layer(role, index, layer).ok_or_else(missing)
    }

    /// Checks that every descriptor was taken.
    ///
    /// # Errors
    /// [`ConfigError::StrayDescriptor`] with the name of a descriptor that was not.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.0.first() {
            Some(((role, index, layer), _)) => Err(ConfigError::StrayDescriptor(name(*role, *index, *layer))),
            None => Ok(()),
        }
    }
}

fn name(role: Role, index: usize, layer: usize) -> String {
    let name = role.as_str_name();
    let name = name.strip_prefix("DESCRIPTOR_ROLE_").unwrap_or(name);
    if role == Role::DiskLayer { format!("{name} {index}/{layer}") } else { format!("{name} {index}") }
}
