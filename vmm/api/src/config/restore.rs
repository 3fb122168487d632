//! What the host must provide to restore a snapshot: the snapshot's files, and disks, taps and sockets, which may be
//! others than before. The configuration of the machine itself is in the snapshot.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hearth_proto::vmm::v1 as proto;
use proto::DescriptorRole as Role;

use super::rate_limiter::DeviceLimits;
use super::wire::OutgoingDescriptors;
use super::{CONSOLE_MAX_BYTES, DiskSource};

/// The time to which a restored guest's clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoreClock {
    /// Time continues from the moment of the snapshot: for clones of an image.
    #[default]
    Continue,
    /// The clock advances by the time that has passed on the host's clock: for a microVM that was suspended.
    Advance,
    /// The clock advances by the given time.
    AdvanceBy(Duration),
}

/// The parameters for restoring a machine.
#[derive(Debug)]
pub struct RestoreConfig {
    /// The file `state` of the snapshot.
    pub state: File,
    /// The file `memory` of the snapshot. If the snapshot builds on another one, the `memory` of that other snapshot.
    pub memory: File,
    /// The file `memory` of the snapshot itself, if it builds on another one.
    pub diff: Option<File>,
    /// Disks, in the order in which the guest sees them, attached in the same way as when the snapshot was taken.
    pub disks: Vec<DiskSource>,
    /// Tap interfaces, in the order in which the guest sees its network cards.
    pub taps: Vec<File>,
    /// The socket to which clients on the host connect.
    pub vsock_listener: Option<UnixListener>,
    /// The connection to the broker, which provides the host's end of streams that the guest opens.
    pub vsock_broker: Option<OwnedFd>,
    /// The descriptor that receives the guest's console output.
    pub console_output: Option<OwnedFd>,
    /// The descriptor from which the guest's console input is read.
    pub console_input: Option<OwnedFd>,
    /// Maximum number of bytes of console output that are kept.
    pub console_max_bytes: u64,
    /// The file or pipe that receives the exit reason, as one line of JSON.
    pub exit_report: Option<OwnedFd>,
    /// The kernel; needed only if the guest restarts itself.
    pub kernel: Option<File>,
    /// The initramfs; needed only if the guest restarts itself.
    pub initramfs: Option<File>,
    /// The working set to bring into memory, if any.
    pub working_set: Option<File>,
    /// `/dev/userfaultfd`, open for reading and writing: if present, the working set is recorded.
    pub userfaultfd: Option<File>,
    /// The time to which the guest's clock is set.
    pub clock: RestoreClock,
    /// The rate limits of the devices, with full buckets; those in the snapshot if there are none here.
    pub limits: Option<DeviceLimits>,
    /// Whether the machine runs immediately; it is paused otherwise.
    pub resume: bool,
}

impl RestoreConfig {
    /// Creates the parameters for a machine without files for its devices. The machine is paused, and its time
    /// continues from the snapshot.
    #[must_use]
    pub fn new(state: File, memory: File) -> Self {
        Self {
            state,
            memory,
            diff: None,
            disks: Vec::new(),
            taps: Vec::new(),
            vsock_listener: None,
            vsock_broker: None,
            console_output: None,
            console_input: None,
            console_max_bytes: CONSOLE_MAX_BYTES,
            exit_report: None,
            kernel: None,
            initramfs: None,
            working_set: None,
            userfaultfd: None,
            clock: RestoreClock::default(),
            limits: None,
            resume: false,
        }
    }

    /// Returns the control message and the descriptors that are sent with it, `kvm` among them.
    #[must_use]
    pub fn into_message(self, kvm: Option<OwnedFd>) -> (proto::Restore, Vec<OwnedFd>) {
        let mut descriptors = OutgoingDescriptors::default();
        descriptors.add(Role::State, self.state);
        descriptors.add(Role::Memory, self.memory);
        let mut disk_layers = Vec::new();
        for (index, disk) in self.disks.into_iter().enumerate() {
            disk_layers.push(descriptors.add_disk(index, disk).1);
        }
        for (index, tap) in self.taps.into_iter().enumerate() {
            descriptors.add_at(Role::Tap, index, tap);
        }
        let optional = [
            (Role::Kvm, kvm),
            (Role::MemoryDiff, self.diff.map(Into::into)),
            (Role::VsockListener, self.vsock_listener.map(Into::into)),
            (Role::VsockBroker, self.vsock_broker),
            (Role::ConsoleOutput, self.console_output),
            (Role::ConsoleInput, self.console_input),
            (Role::ExitReport, self.exit_report),
            (Role::Kernel, self.kernel.map(Into::into)),
            (Role::Initramfs, self.initramfs.map(Into::into)),
            (Role::WorkingSet, self.working_set.map(Into::into)),
            (Role::Userfaultfd, self.userfaultfd.map(Into::into)),
        ];
        for (role, fd) in optional {
            if let Some(fd) = fd {
                descriptors.add(role, fd);
            }
        }
        let (clock, advance) = match self.clock {
            RestoreClock::Continue => (proto::RestoreClock::Continue, Duration::ZERO),
            RestoreClock::Advance => (proto::RestoreClock::Advance, Duration::ZERO),
            RestoreClock::AdvanceBy(time) => (proto::RestoreClock::AdvanceBy, time),
        };
        let restore = proto::Restore {
            descriptors: descriptors.named,
            clock: clock.into(),
            advance_ns: u64::try_from(advance.as_nanos()).unwrap_or(u64::MAX),
            resume: self.resume,
            console_max_bytes: self.console_max_bytes,
            disk_layers,
            limits: self.limits.map(DeviceLimits::message),
        };
        (restore, descriptors.fds)
    }
}

impl RestoreClock {
    /// Reads the value from a control message.
    #[must_use]
    pub fn of(message: &proto::Restore) -> Self {
        match message.clock() {
            proto::RestoreClock::Unspecified | proto::RestoreClock::Continue => Self::Continue,
            proto::RestoreClock::Advance => Self::Advance,
            proto::RestoreClock::AdvanceBy => Self::AdvanceBy(Duration::from_nanos(message.advance_ns)),
        }
    }
}
