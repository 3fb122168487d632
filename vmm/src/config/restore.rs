//! What a snapshot needs of the host to become a machine again: its own files, and disks, taps and sockets that
//! may be others than before. What the machine is made of is in the snapshot.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use hearth_proto::vmm::v1 as proto;
use proto::DescriptorRole as Role;

use super::wire::Carried;
use super::{CONSOLE_MAX_BYTES, DiskSource};

/// Which time a restored guest wakes up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoreClock {
    /// Time goes on from the snapshot: for clones of an image.
    #[default]
    Continue,
    /// As much time has passed as the host's clock says: for a microVM that was suspended.
    Advance,
    /// So much time has passed.
    AdvanceBy(Duration),
}

/// A machine to be restored.
#[derive(Debug)]
pub struct RestoreConfig {
    /// The file `state`.
    pub state: File,
    /// The file `memory`; where the snapshot builds on another one, that one's.
    pub memory: File,
    /// The file `memory` of a snapshot that builds on another one.
    pub diff: Option<File>,
    /// Disks, in the guest's order, attached as they were.
    pub disks: Vec<DiskSource>,
    /// Taps, in the guest's order.
    pub taps: Vec<File>,
    /// Where clients on the host connect.
    pub vsock_listener: Option<UnixListener>,
    /// Whom to ask for the host's end of a stream that the guest opens.
    pub vsock_broker: Option<OwnedFd>,
    /// Where the guest's console output goes.
    pub console_output: Option<OwnedFd>,
    /// Where the guest's console input comes from.
    pub console_input: Option<OwnedFd>,
    /// Most bytes of console output that are kept.
    pub console_max_bytes: u64,
    /// Where the reason of the end is written, as one line of JSON.
    pub exit_report: Option<OwnedFd>,
    /// The kernel, should the guest restart itself.
    pub kernel: Option<File>,
    /// The initramfs, should the guest restart itself.
    pub initramfs: Option<File>,
    /// The working set to bring in.
    pub working_set: Option<File>,
    /// `/dev/userfaultfd`, open for reading and writing: has the working set recorded.
    pub userfaultfd: Option<File>,
    /// Which time the guest wakes up to.
    pub clock: RestoreClock,
    /// Whether it runs at once.
    pub resume: bool,
}

impl RestoreConfig {
    /// A machine without devices' files, paused, whose time goes on from the snapshot.
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
            resume: false,
        }
    }

    /// The control message, and the descriptors that ride along, `kvm` among them.
    #[must_use]
    pub fn into_message(self, kvm: Option<OwnedFd>) -> (proto::Restore, Vec<OwnedFd>) {
        let mut carried = Carried::default();
        carried.add(Role::State, self.state);
        carried.add(Role::Memory, self.memory);
        let mut disk_layers = Vec::new();
        for (index, disk) in self.disks.into_iter().enumerate() {
            disk_layers.push(carried.add_disk(index, disk).1);
        }
        for (index, tap) in self.taps.into_iter().enumerate() {
            carried.add_at(Role::Tap, index, tap);
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
                carried.add(role, fd);
            }
        }
        let (clock, advance) = match self.clock {
            RestoreClock::Continue => (proto::RestoreClock::Continue, Duration::ZERO),
            RestoreClock::Advance => (proto::RestoreClock::Advance, Duration::ZERO),
            RestoreClock::AdvanceBy(time) => (proto::RestoreClock::AdvanceBy, time),
        };
        let restore = proto::Restore {
            descriptors: carried.named,
            clock: clock.into(),
            advance_ns: u64::try_from(advance.as_nanos()).unwrap_or(u64::MAX),
            resume: self.resume,
            console_max_bytes: self.console_max_bytes,
            disk_layers,
        };
        (restore, carried.fds)
    }
}

impl RestoreClock {
    /// What a message says.
    #[must_use]
    pub fn of(message: &proto::Restore) -> Self {
        match message.clock() {
            proto::RestoreClock::Unspecified | proto::RestoreClock::Continue => Self::Continue,
            proto::RestoreClock::Advance => Self::Advance,
            proto::RestoreClock::AdvanceBy => Self::AdvanceBy(Duration::from_nanos(message.advance_ns)),
        }
    }
}
