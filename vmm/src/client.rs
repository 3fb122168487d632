//! The client of a monitor: what the daemon, the command line and the tests drive microVMs with.
//!
//! [`Launch`] starts a monitor process in its jail; [`Client`] talks to one, its own or anybody's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::vmm::v1 as proto;
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Answer;

use crate::config::MachineConfig;
use crate::control::PROTOCOL_VERSION;
use crate::control::socket::{PacketListener, PacketSocket};
use crate::jail::{self, Cgroup, JailConfig};

/// Name of the control socket in a microVM's run directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor refused it.
    #[error("{message}")]
    Refused {
        /// The kind of refusal.
        code: proto::ErrorCode,
        /// Why, and what to do.
        message: String,
    },
    /// The monitor could not be reached, or went away.
    #[error("{what} {path}: {source}")]
    Unreachable {
        /// What was being done.
        what: &'static str,
        /// The control socket.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The monitor answered something else than it was asked.
    #[error(
        "the monitor at {0} gave an answer that does not belong to the request; are both of one release?"
    )]
    Confused(PathBuf),
    /// KVM cannot be opened.
    #[error("opening /dev/kvm: {0}; is this an ARM64 host with KVM, and may this user open it?")]
    Kvm(io::Error),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the system answered.
        source: io::Error,
    },
}

/// A connection to a monitor. Requests are answered one after another; it may be shared by threads.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: Mutex<(PacketSocket, Vec<u8>)>,
}

impl Client {
    /// Connects to the monitor whose control socket is at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let path = path.into();
        match PacketSocket::connect(&path) {
            Ok(socket) => Ok(Self { path, connection: Mutex::new((socket, Vec::new())) }),
            Err(source) => {
                Err(ClientError::Unreachable { what: "connecting to the monitor at", path, source })
            }
        }
    }

    fn unreachable(&self, what: &'static str) -> impl Fn(io::Error) -> ClientError {
        let path = self.path.clone();
        move |source| ClientError::Unreachable { what, path: path.clone(), source }
    }

    /// Sends a request as it is and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the monitor's reason, or [`ClientError::Unreachable`].
    pub fn request(&self, request: &proto::Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, buffer) = &mut *connection;
        socket.send(&request.encode_to_vec(), fds).map_err(self.unreachable("asking the monitor at"))?;
        let reading = self.unreachable("waiting for the monitor at");
        if socket.receive(buffer).map_err(&reading)?.is_none() {
            return Err(reading(io::ErrorKind::ConnectionReset.into()));
        }
        match proto::Response::decode(buffer.as_slice()) {
            Ok(proto::Response { result: Some(Answer::Error(error)) }) => {
                Err(ClientError::Refused { code: error.code(), message: error.message })
            }
            Ok(proto::Response { result: Some(answer) }) => Ok(answer),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    fn ask(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Answer, ClientError> {
        self.request(&proto::Request { version: PROTOCOL_VERSION, operation: Some(operation) }, fds)
    }

    fn command(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.ask(operation, fds)? {
            Answer::Done(_) => Ok(()),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Who the monitor is and what state its machine is in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<proto::Status, ClientError> {
        match self.ask(Operation::Hello(proto::Hello {}), &[])? {
            Answer::Status(status) => Ok(status),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Builds the machine; opens `/dev/kvm` for it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says what is wrong with the configuration.
    pub fn create(&self, config: MachineConfig) -> Result<(), ClientError> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").map_err(ClientError::Kvm)?;
        self.create_with_kvm(config, kvm.into())
    }

    /// As [`Self::create`], with a `/dev/kvm` that is open already.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with_kvm(&self, config: MachineConfig, kvm: OwnedFd) -> Result<(), ClientError> {
        let (create, carried) = config.into_message(kvm);
        let fds: Vec<BorrowedFd<'_>> = carried.iter().map(AsFd::as_fd).collect();
        self.command(Operation::Create(create), &fds)
    }

    /// Starts the vCPUs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn boot(&self) -> Result<(), ClientError> {
        self.command(Operation::Boot(proto::Boot {}), &[])
    }

    /// Stops the vCPUs and finishes what the devices have in flight.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.command(Operation::Pause(proto::Pause {}), &[])
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.command(Operation::Resume(proto::Resume {}), &[])
    }

    /// Ends the monitor; disks are finished first, the guest is not asked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.command(Operation::Shutdown(proto::Shutdown {}), &[])
    }

    /// All counters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn metrics(&self) -> Result<proto::Metrics, ClientError> {
        match self.ask(Operation::GetMetrics(proto::GetMetrics {}), &[])? {
            Answer::Metrics(metrics) => Ok(metrics),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// One counter; 0 for one that does not exist.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn counter(&self, group: &str, name: &str) -> Result<u64, ClientError> {
        let metrics = self.metrics()?;
        let groups = metrics.groups.iter().filter(|entry| entry.name == group);
        let counter = groups.flat_map(|entry| &entry.counters).find(|counter| counter.name == name);
        Ok(counter.map_or(0, |counter| counter.value))
    }

    /// Waits for the machine's end, on a connection of its own.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the monitor dies without a word.
    pub fn wait_exit(&self) -> Result<proto::ExitReason, ClientError> {
        match Self::connect(&self.path)?.ask(Operation::WaitExit(proto::WaitExit {}), &[])? {
            Answer::Exit(reason) => Ok(reason),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    /// Takes `target_mib` MiB from the guest, or gives back what it has beyond that.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn set_balloon(&self, target_mib: u32) -> Result<(), ClientError> {
        self.command(Operation::SetBalloon(proto::SetBalloon { target_mib }), &[])
    }

    /// Opens a stream to vsock port `port` of the guest. The stream is usable at once; it is closed when the
    /// guest refuses the connection.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn vsock_connect(&self, port: u32) -> Result<UnixStream, ClientError> {
        let (ours, theirs) = UnixStream::pair()
            .map_err(|source| ClientError::Host { what: "making a socket pair", source })?;
        self.command(Operation::VsockConnect(proto::VsockConnect { port }), &[theirs.as_fd()])?;
        Ok(ours)
    }

    /// Has the guest's connections to the host brokered by the peer of `broker` from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn attach_broker(&self, broker: &OwnedFd) -> Result<(), ClientError> {
        self.attach(proto::DescriptorRole::VsockBroker, broker.as_fd())
    }

    /// Has streams to the guest accepted from `listener` from now on.
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

/// How to start a monitor process.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    run_dir: PathBuf,
    jail: JailConfig,
    stderr: Stdio,
}

/// Why a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The run directory or the socket in it.
    #[error("{what} {path}: {source}")]
    RunDirectory {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// What the jail needs on the host.
    #[error(transparent)]
    Prepare(#[from] jail::PrepareError),
    /// The process.
    #[error(transparent)]
    Spawn(#[from] jail::SpawnError),
    /// The process ended before it answered; it has said why on its standard error.
    #[error("the monitor did not start ({status}): {source}")]
    NotStarted {
        /// How the process ended.
        status: String,
        /// What the connection said.
        source: ClientError,
    },
}

impl Launch {
    /// The monitor `binary`, with its socket and its empty root in `run_dir` (made if it is not there).
    #[must_use]
    pub fn new(binary: &Path, run_dir: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            run_dir: run_dir.to_owned(),
            jail: JailConfig::default(),
            stderr: Stdio::inherit(),
        }
    }

    /// Another jail than the default one.
    #[must_use]
    pub fn jail(mut self, jail: JailConfig) -> Self {
        self.jail = jail;
        self
    }

    /// Where the process's error output goes; inherited by default.
    #[must_use]
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts the process and connects to it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind but the run directory.
    pub fn start(self) -> Result<Vmm, LaunchError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LaunchError::RunDirectory { what, path, source }
        };
        fs::create_dir_all(&self.run_dir).map_err(failed("making the run directory", &self.run_dir))?;
        let path = self.run_dir.join(CONTROL_SOCKET);
        let listener = PacketListener::bind(&path).map_err(failed("listening at", &path))?;
        let (child, jail) = match self.spawn(listener) {
            Ok(started) => started,
            Err(error) => {
                let _ = fs::remove_file(&path); // the error at hand is the one to report
                return Err(error);
            }
        };
        // The first answer shows that the process has entered its jail.
        let connected = Client::connect(path.clone()).and_then(|client| client.status().map(|_| client));
        match connected {
            Ok(client) => Ok(Vmm { child: Some(child), jail, client }),
            Err(source) => {
                let mut child = child;
                let _ = child.kill(); // it may have ended by itself
                let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                clean_up(&path, &jail);
                Err(LaunchError::NotStarted { status, source })
            }
        }
    }

    fn spawn(self, listener: PacketListener) -> Result<(Child, JailConfig), LaunchError> {
        let jail = jail::prepare(&self.run_dir, &self.jail)?;
        match jail::spawn(&self.binary, &jail, listener.into(), self.stderr) {
            Ok(child) => Ok((child, jail)),
            Err(error) => {
                let _ = jail::clean_up(&jail); // the error at hand is the one to report
                Err(error.into())
            }
        }
    }
}

/// Removes the socket and what the jail had on the host; what is gone already is gone.
fn clean_up(socket: &Path, jail: &JailConfig) {
    let _ = fs::remove_file(socket);
    let _ = jail::clean_up(jail);
}

/// A monitor process that this process has started.
///
/// Dropping it kills the process and cleans up after it, unless it was [detached](Self::detach).
#[derive(Debug)]
pub struct Vmm {
    child: Option<Child>,
    jail: JailConfig,
    client: Client,
}

impl Vmm {
    /// The connection to it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills the process (`SIGKILL`); what its guest had not flushed is lost.
    ///
    /// # Errors
    /// What the system answers.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::kill)
    }

    /// Waits for the process to end and cleans up after it.
    ///
    /// # Errors
    /// What the system answers.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(child) = self.child.as_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        let status = child.wait()?;
        self.child = None;
        if let Some(cgroup) = self.jail.cgroup.as_ref().and_then(|cgroup| Cgroup::of(cgroup).ok()) {
            let _ = cgroup.wait_empty(Duration::from_secs(5)); // the kernel empties it a moment after the end
        }
        clean_up(&self.client.path, &self.jail);
        Ok(status)
    }

    /// Lets the process go on by itself, with its jail; returns its process id and the jail, which whoever
    /// sees it end cleans up with [`jail::clean_up`].
    #[must_use]
    pub fn detach(mut self) -> (u32, JailConfig) {
        (self.child.take().map_or(0, |child| child.id()), self.jail.clone())
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill(); // it may have ended by itself
            let _ = self.wait();
        }
    }
}
