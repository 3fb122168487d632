//! The client of a monitor: the daemon, the command line and the tests use it to control microVMs.
//!
//! [`Launch`] starts a monitor process in its jail; [`Client`] connects to a monitor, no matter which process started
//! it.
//!
//! * [`launch`] – starting a process and cleaning up after it
//! * `timeout` – the timeout of each request
//! * [`snapshot`] – snapshots as folders that appear completely or not at all
//! * [`tap`] – opens a tap interface for a network card

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests cast small numbers that they chose themselves"
    )
)]

pub mod launch;
pub mod snapshot;
pub mod tap;
mod timeout;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::Versions;
use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::config::MachineConfig;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreConfig;
use hearth_vmm_api::config::wire::OutgoingDescriptors;
use hearth_vmm_api::protocol::{LIMITS_FEATURE, VERSIONS};
use hearth_vmm_api::socket::PacketSocket;
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Response;
pub use proto::{SaveKind, SaveStage};

pub use launch::{Launch, LaunchError, Vmm};

/// Name of the control socket in a microVM's run directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The reason for which an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor refused the request.
    #[error("{message}")]
    Refused {
        /// The kind of refusal.
        code: proto::ErrorCode,
        /// What is wrong, and what to do about it.
        message: String,
    },
    /// The monitor cannot be reached, or has closed the connection.
    #[error("{what} {path}: {source}")]
    Unreachable {
        /// The step that failed.
        what: &'static str,
        /// Path of the control socket.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The monitor did not receive the request, or did not answer it, within the timeout. The outcome is unknown.
    #[error("the monitor at {path} did not answer within {} s", limit.as_secs())]
    Silent {
        /// Path of the control socket.
        path: PathBuf,
        /// The timeout.
        limit: Duration,
    },
    /// The response is not one that belongs to the request.
    #[error(
        "the monitor at {0} gave an answer that does not belong to the request; are both of one release?"
    )]
    Confused(PathBuf),
    /// The monitor is of another release, and there is no version of the protocol that both it and this program speak.
    #[error(
        "the monitor at {path} speaks {monitor} of the control protocol and this program {own}: they have none in common; end its microVM with the \
         release that started it"
    )]
    NoCommonVersion {
        /// Path of the control socket.
        path: PathBuf,
        /// The versions that the monitor speaks.
        monitor: Versions,
        /// The versions that this program speaks.
        own: Versions,
    },
    /// `/dev/kvm` cannot be opened.
    #[error("opening /dev/kvm: {0}; is this an ARM64 host with KVM, and may this user open it?")]
    Kvm(io::Error),
    /// A system call on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// The error that the system returned.
        source: io::Error,
    },
}

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

/// A connection to a monitor. Requests are answered one after another, each with its own timeout. Threads may share a
/// client.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// Upper limit for the timeout of every request.
    max_timeout: Duration,
    /// The versions of the protocol that this program speaks.
    own: Versions,
    /// The version in which requests are sent: the newest one, until the monitor refuses it.
    version: AtomicU32,
    connection: Mutex<Connection>,
}

/// The connection over which requests are sent.
#[derive(Debug)]
struct Connection {
    /// `None` after a request that was not answered, because a late response must not be taken for that of the next
    /// request. The next request opens a new connection.
    socket: Option<PacketSocket>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to the monitor whose control socket is at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], or [`ClientError::Silent`] when the monitor's backlog of connections is full.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let connection = Mutex::new(Connection { socket: None, buffer: Vec::new() });
        let version = AtomicU32::new(VERSIONS.newest());
        let client =
            Self { path: path.into(), max_timeout: Duration::MAX, own: VERSIONS, version, connection };
        let socket = client.socket()?;
        client.connection.lock().unwrap_or_else(PoisonError::into_inner).socket = Some(socket);
        Ok(client)
    }

    /// Limits the timeout of every request to `max_timeout`, including that of the wait for the machine's exit.
    #[must_use]
    pub fn with_timeout(self, max_timeout: Duration) -> Self {
        Self { max_timeout, ..self }
    }

    /// Returns the timeout of a request; `None` for a request that the monitor may answer at any time.
    fn limit(&self, operation: Option<&Operation>) -> Option<Duration> {
        let most = Some(self.max_timeout).filter(|most| *most != Duration::MAX);
        timeout::of(operation).map_or(most, |limit| Some(limit.min(self.max_timeout)))
    }

    fn socket(&self) -> Result<PacketSocket, ClientError> {
        let limit = self.limit(None).unwrap_or(self.max_timeout);
        PacketSocket::connect_within(&self.path, limit)
            .map_err(|source| self.failed("connecting to the monitor at", Some(limit), source))
    }

    fn failed(&self, what: &'static str, limit: Option<Duration>, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match limit.filter(|_| source.kind() == io::ErrorKind::WouldBlock) {
            Some(limit) => ClientError::Silent { path, limit },
            None => ClientError::Unreachable { what, path, source },
        }
    }

    /// Sends a request unchanged and waits for its response.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the monitor's reason, [`ClientError::Unreachable`], or [`ClientError::Silent`]
    /// when there is no response within the timeout.
    pub fn request(&self, request: &proto::Request, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Connection { socket, buffer } = &mut *connection;
        let limit = self.limit(request.operation.as_ref());
        let open = socket.take().map_or_else(|| self.socket(), Ok)?;
        let exchanged = open.set_timeout(limit).and_then(|()| open.send(&request.encode_to_vec(), fds));
        exchanged.map_err(|source| self.failed("asking the monitor at", limit, source))?;
        let reading = |source| self.failed("waiting for the monitor at", limit, source);
        if open.receive(buffer).map_err(reading)?.is_none() {
            return Err(reading(io::ErrorKind::ConnectionReset.into()));
        }
        *socket = Some(open);
        match proto::Response::decode(buffer.as_slice()) {
            Ok(proto::Response { result: Some(Response::Error(error)) }) => {
                Err(ClientError::Refused { code: error.code(), message: error.message })
            }
            Ok(proto::Response { result: Some(response) }) => Ok(response),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    fn send_request(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let version = self.version.load(Ordering::Relaxed);
        let request = proto::Request { version, operation: Some(operation) };
        match self.request(&request, fds) {
            Err(refused @ ClientError::Refused { code: proto::ErrorCode::Protocol, .. }) => {
                match self.agree()? {
                    // The monitor speaks this version, so it refused the request for another reason.
                    agreed if agreed == version => Err(refused),
                    agreed => self.request(&proto::Request { version: agreed, ..request }, fds),
                }
            }
            response => response,
        }
    }

    /// Determines the highest version that both sides speak, and sends requests in that version from now on.
    fn agree(&self) -> Result<u32, ClientError> {
        let operation = Some(Operation::Hello(proto::Hello {}));
        let hello = proto::Request { version: self.own.newest(), operation };
        let Response::Status(status) = self.request(&hello, &[])? else {
            return Err(ClientError::Confused(self.path.clone()));
        };
        let monitor = Versions::new(status.oldest_version, status.version);
        let agreed = self.own.highest_common(monitor).ok_or_else(|| ClientError::NoCommonVersion {
            path: self.path.clone(),
            monitor,
            own: self.own,
        })?;
        self.version.store(agreed, Ordering::Relaxed);
        Ok(agreed)
    }

    fn command(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.send_request(operation, fds)? {
            Response::Done(_) => Ok(()),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

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

    /// Changes the rate limits of the devices. Returns false if the monitor is of a release that cannot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set_limits(&self, limits: DeviceLimits) -> Result<bool, ClientError> {
        if !self.status()?.features.iter().any(|feature| feature == LIMITS_FEATURE) {
            return Ok(false);
        }
        let limits = Some(limits.message());
        self.command(Operation::SetLimits(proto::SetLimits { limits }), &[])?;
        Ok(true)
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

#[cfg(test)]
mod tests;
