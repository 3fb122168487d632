//! What a monitor can be asked for: a method of [`Client`] for each request.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreConfig;
use hearth_vmm_api::config::wire::OutgoingDescriptors;
use hearth_vmm_api::protocol::{LIMITS_FEATURE, ROOM_FEATURE};
use proto::request::Operation;
use proto::response::Result as Response;

use super::{Client, ClientError, SaveKind, SaveStage};

/// Opens `/dev/kvm`, to be sent to a monitor.
fn open_kvm() -> Result<OwnedFd, ClientError> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").map_err(ClientError::Kvm)?;
    Ok(kvm.into())
}

/// The parameters of a save.
#[derive(Debug)]
pub struct SaveConfig {
    /// Whether all of memory is written or only the changes.
    pub kind: SaveKind,
    /// The file for the machine's state: empty, open for reading and writing.
    pub state: File,
    /// The file for guest memory: empty, open for reading and writing.
    pub memory: File,
    /// Pairs of a disk's index and an empty file, for disks with overlays. If a disk with an overlay has no entry here,
    /// its overlay file itself becomes the snapshot's layer and must not be written afterwards.
    pub layers: Vec<(usize, File)>,
    /// The stage before which the save waits until it is cancelled; for tests.
    pub hold_at: SaveStage,
}

impl SaveConfig {
    /// Creates the configuration for a save into these files, without disk layers.
    #[must_use]
    pub fn new(kind: SaveKind, state: File, memory: File) -> Self {
        Self { kind, state, memory, layers: Vec::new(), hold_at: SaveStage::Unspecified }
    }
}

/// What of the limits that were sent a monitor keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Nothing: it is of a release that cannot change limits.
    Nothing,
    /// The rates: it is of a release that does not bound the storage of a disk's writes.
    Rates,
    /// All of them.
    All,
}

impl Client {
    /// Returns the monitor's versions and process id, and the state of its machine.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<proto::Status, ClientError> {
        match self.send_request(Operation::Hello(proto::Hello {}), &[])? {
            Response::Status(status) => Ok(status),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Builds the machine; opens `/dev/kvm` for it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] describes what is wrong with the configuration.
    pub fn create(&self, config: MachineConfig) -> Result<(), ClientError> {
        self.create_with_kvm(config, open_kvm()?)
    }

    /// Does the same as [`Self::create`], with a `/dev/kvm` that is already open.
    ///
    /// # Errors
    /// The same as [`Self::create`].
    pub fn create_with_kvm(&self, config: MachineConfig, kvm: OwnedFd) -> Result<(), ClientError> {
        let (create, descriptors) = config.into_message(kvm);
        let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        self.command(Operation::Create(create), &fds)
    }

    /// Builds a virtual machine with `vcpus` vCPUs for [`Self::restore`], before the snapshot to restore is known. If
    /// the prepared machine does not fit the snapshot, it is not used.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn prepare(&self, vcpus: u32, memory_mib: u64) -> Result<(), ClientError> {
        let kvm = open_kvm()?;
        let descriptors =
            vec![proto::Descriptor { role: proto::DescriptorRole::Kvm.into(), index: 0, layer: 0 }];
        self.command(Operation::Prepare(proto::Prepare { vcpus, memory_mib, descriptors }), &[kvm.as_fd()])
    }

    /// Builds the machine of a snapshot; opens `/dev/kvm` for it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] describes what is wrong with the snapshot, or what the host lacks.
    pub fn restore(&self, config: RestoreConfig) -> Result<proto::Restored, ClientError> {
        self.restore_with_kvm(config, Some(open_kvm()?))
    }

    /// Does the same as [`Self::restore`], with a `/dev/kvm` that is already open, or with the one that
    /// [`Self::prepare`] opened.
    ///
    /// # Errors
    /// The same as [`Self::restore`].
    pub fn restore_with_kvm(
        &self,
        config: RestoreConfig,
        kvm: Option<OwnedFd>,
    ) -> Result<proto::Restored, ClientError> {
        let (restore, descriptors) = config.into_message(kvm);
        let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        match self.send_request(Operation::Restore(restore), &fds)? {
            Response::Restored(restored) => Ok(restored),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Writes the machine into files, which are on stable storage when this returns. The module [`snapshot`] gives the
    /// files their names and assembles them into a snapshot. The machine is paused afterwards; on an error it continues
    /// as before.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the monitor's reason, also when the save was cancelled.
    pub fn save(&self, config: SaveConfig) -> Result<proto::Saved, ClientError> {
        let mut descriptors = OutgoingDescriptors::default();
        descriptors.add(proto::DescriptorRole::State, config.state);
        descriptors.add(proto::DescriptorRole::Memory, config.memory);
        for (index, layer) in config.layers {
            descriptors.add_at(proto::DescriptorRole::SavedLayer, index, layer);
        }
        let fds: Vec<BorrowedFd<'_>> = descriptors.fds.iter().map(AsFd::as_fd).collect();
        let (kind, hold_at) = (config.kind.into(), config.hold_at.into());
        let save = proto::Save { kind, descriptors: descriptors.named, hold_at };
        match self.send_request(Operation::Save(save), &fds)? {
            Response::Saved(saved) => Ok(saved),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Cancels a save that is under way on another connection. The machine continues as before.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when no save is under way.
    pub fn cancel_save(&self) -> Result<(), ClientError> {
        self.command(Operation::CancelSave(proto::CancelSave {}), &[])
    }

    /// Writes the working set that a machine has recorded so far into an empty file.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the machine does not record a working set.
    pub fn save_working_set(&self, file: File) -> Result<proto::WorkingSetSaved, ClientError> {
        let role = proto::DescriptorRole::WorkingSet.into();
        let descriptors = vec![proto::Descriptor { role, index: 0, layer: 0 }];
        match self
            .send_request(Operation::SaveWorkingSet(proto::SaveWorkingSet { descriptors }), &[file.as_fd()])?
        {
            Response::WorkingSetSaved(saved) => Ok(saved),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Starts the vCPUs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn boot(&self) -> Result<(), ClientError> {
        self.command(Operation::Boot(proto::Boot {}), &[])
    }

    /// Stops the vCPUs and completes the I/O that the devices have in flight.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.command(Operation::Pause(proto::Pause {}), &[])
    }

    /// Resumes the vCPUs after a pause.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.command(Operation::Resume(proto::Resume {}), &[])
    }

    /// Shuts the monitor down. It completes disk I/O first; the guest is not notified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.command(Operation::Shutdown(proto::Shutdown {}), &[])
    }

    /// Returns all counters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn metrics(&self) -> Result<proto::Metrics, ClientError> {
        match self.send_request(Operation::GetMetrics(proto::GetMetrics {}), &[])? {
            Response::Metrics(metrics) => Ok(metrics),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Returns one counter; 0 if it does not exist.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn counter(&self, group: &str, name: &str) -> Result<u64, ClientError> {
        let metrics = self.metrics()?;
        let groups = metrics.groups.iter().filter(|entry| entry.name == group);
        let counter = groups.flat_map(|entry| &entry.counters).find(|counter| counter.name == name);
        Ok(counter.map_or(0, |counter| counter.value))
    }

    /// Waits for the machine's exit, on a connection of its own.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the monitor dies without sending the exit reason.
    pub fn wait_exit(&self) -> Result<proto::ExitReason, ClientError> {
        match Self::connect(&self.path)?
            .with_timeout(self.max_timeout)
            .send_request(Operation::WaitExit(proto::WaitExit {}), &[])?
        {
            Response::Exit(reason) => Ok(reason),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Sets the balloon's target: the memory to take from the guest, in MiB. Memory beyond the target is returned to
    /// the guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), ClientError> {
        self.command(Operation::SetBalloon(proto::SetBalloon { target_mib }), &[])
    }

    /// Changes the limits of the devices, as far as the monitor can.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set_limits(&self, limits: DeviceLimits) -> Result<Limited, ClientError> {
        let features = self.status()?.features;
        let has = |name: &str| features.iter().any(|feature| feature == name);
        if !has(LIMITS_FEATURE) {
            return Ok(Limited::Nothing);
        }
        let limits = Some(limits.message());
        self.command(Operation::SetLimits(proto::SetLimits { limits }), &[])?;
        Ok(if has(ROOM_FEATURE) { Limited::All } else { Limited::Rates })
    }

    /// Opens a stream to vsock port `port` of the guest. The stream is usable immediately; it is closed if the guest
    /// refuses the connection.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn vsock_connect(&self, port: u32) -> Result<UnixStream, ClientError> {
        let (ours, theirs) = UnixStream::pair()
            .map_err(|source| ClientError::Host { what: "making a socket pair", source })?;
        self.command(Operation::VsockConnect(proto::VsockConnect { port }), &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// Makes the peer of `broker` the broker for the guest's connections to the host from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn attach_broker(&self, broker: &OwnedFd) -> Result<(), ClientError> {
        self.attach(proto::DescriptorRole::VsockBroker, broker.as_fd())
    }

    /// Makes the monitor accept streams to the guest from `listener` from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn attach_listener(&self, listener: &UnixListener) -> Result<(), ClientError> {
        self.attach(proto::DescriptorRole::VsockListener, listener.as_fd())
    }

    fn attach(&self, role: proto::DescriptorRole, fd: BorrowedFd<'_>) -> Result<(), ClientError> {
        let descriptors = vec![proto::Descriptor { role: role.into(), index: 0, layer: 0 }];
        self.command(Operation::Attach(proto::Attach { descriptors }), &[fd])
    }
}
