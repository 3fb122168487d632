//! A monitor process with disks, network and agent, booted or restored.
//!
//! * [`files`] – reading files that a monitor writes
//! * [`trim`] – returning the guest's unused memory to the host before a snapshot
//! * [`process`] – a process held by descriptor, also of a monitor that another process has started
//! * [`orphans`] – terminating monitors whose controller was killed

pub mod files;
pub mod orphans;
pub mod process;
pub mod trim;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_model::shape::Shape;
use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_api::config::{
    BalloonConfig, ConfigError, DiskConfig, DiskSource, MachineConfig, NetConfig, VsockConfig,
};
use hearth_vmm_client::snapshot::{self, OpenError, TakeError};
use hearth_vmm_client::{CONTROL_SOCKET, Client, ClientError, Launch, LaunchError, Vmm};
use hearth_vmm_jail::JailConfig;

use crate::agent::{Agent, AgentError};
use process::Process;

/// Command line of every guest's kernel. Clones of a snapshot wake up after any time, which the kernel's watchdogs would take for a stall.
pub const COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 reboot=k rcupdate.rcu_cpu_stall_suppress=1 \
                                random.trust_cpu=on";

/// Bytes of a guest's console output that are kept: its kernel's last messages.
const CONSOLE_BYTES: u64 = 256 << 10;
/// Bytes of the console output, and of the monitor's log, that explain a failure.
const WORDS_BYTES: u64 = 8 << 10;
/// File in a microVM's run directory: console output of its kernel.
pub const CONSOLE: &str = "console.log";
/// File in a microVM's run directory: output of its monitor.
pub const MONITOR_LOG: &str = "monitor.log";
/// File in a microVM's run directory, which exists once the machine has ended: the reason, one line of JSON with `kind` and `message`.
pub const EXIT_REPORT: &str = "exit.json";
/// Device that makes descriptors for recording working sets (Linux, Documentation/admin-guide/mm/userfaultfd.rst).
const USERFAULTFD: &str = "/dev/userfaultfd";
/// The guest's context id. Each guest has a vsock device of its own, so all of them have the same id.
const GUEST_CID: u32 = 3;

/// Why a microVM could not be made or saved.
#[derive(Debug, thiserror::Error)]
pub enum MicrovmError {
    /// A file operation failed.
    #[error("{what} {path}: {source}")]
    File {
        /// The operation, for the message.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The monitor process could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A request to the monitor failed.
    #[error(transparent)]
    Monitor(#[from] ClientError),
    /// The machine's configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The snapshot cannot be restored.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The snapshot cannot be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// A request to the guest's agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A thread of this process panicked.
    #[error("a thread of the program ended unexpectedly: {0}")]
    Thread(String),
}

/// A network card, and the tap behind it.
#[derive(Debug)]
pub struct Card {
    /// The tap, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub tap: File,
    /// Hardware address of the card in the guest.
    pub mac: [u8; 6],
    /// MTU of the card, unless it is 1,500.
    pub mtu: Option<u16>,
}

/// A guest to boot.
#[derive(Debug)]
pub struct Boot {
    /// The kernel: an arm64 `Image`.
    pub kernel: PathBuf,
    /// The initramfs, with `hearth-guest` as its init.
    pub initramfs: PathBuf,
    /// Memory and CPUs.
    pub shape: Shape,
    /// Disks, `/dev/vda` first.
    pub disks: Vec<DiskSource>,
    /// The network card, if any.
    pub card: Option<Card>,
    /// Rate limits of disks and card.
    pub limits: DeviceLimits,
}

/// A guest to restore.
#[derive(Debug)]
pub struct Restore {
    /// The folder of the snapshot.
    pub snapshot: PathBuf,
    /// Disks, in the same order as when the snapshot was taken.
    pub disks: Vec<DiskSource>,
    /// The tap, if the guest had a network card.
    pub tap: Option<File>,
    /// The guest's clock after the restore.
    pub clock: RestoreClock,
    /// Rate limits of disks and card, in place of those that the guest had when the snapshot was taken.
    pub limits: DeviceLimits,
    /// Whether the guest's working set is recorded, rather than prefetched.
    pub record: bool,
}

/// A monitor process with its guest, and this process's connections to both. Dropping it kills the monitor, unless it was
/// [detached](Self::detach) or [adopted](Self::adopt).
#[derive(Debug)]
pub struct Microvm {
    folder: PathBuf,
    vmm: Mutex<Option<Vmm>>,
    client: Arc<Client>,
    agent: Agent,
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MicrovmError {
    let path = path.to_owned();
    move |source| MicrovmError::File { what, path, source }
}

/// Opens a file for reading.
///
/// # Errors
/// [`MicrovmError::File`].
pub fn open(what: &'static str, path: &Path) -> Result<File, MicrovmError> {
    File::open(path).map_err(file(what, path))
}

/// Creates an empty file for reading and writing; it must not exist yet.
///
/// # Errors
/// [`MicrovmError::File`].
pub fn create(what: &'static str, path: &Path) -> Result<File, MicrovmError> {
    File::options().create_new(true).read(true).write(true).open(path).map_err(file(what, path))
}

impl Microvm {
    /// Starts a jailed monitor without a machine, with `folder` as its run directory.
    ///
    /// # Errors
    /// [`MicrovmError`]; nothing is left behind but the folder.
    pub fn start(binary: &Path, folder: &Path, jail: JailConfig) -> Result<Self, MicrovmError> {
        fs::create_dir_all(folder).map_err(file("making the run directory", folder))?;
        let path = folder.join(MONITOR_LOG);
        let log = create("making the monitor's log", &path)?;
        let vmm = Launch::new(binary, folder).jail(jail).stderr(Stdio::from(log)).start()?;
        let socket = folder.join(CONTROL_SOCKET);
        let (client, agent) = (Arc::new(Client::connect(&socket)?), Agent::of_monitor(&socket)?);
        Ok(Self { folder: folder.to_owned(), vmm: Mutex::new(Some(vmm)), client, agent })
    }

    /// Connects to the monitor whose run directory is `folder`: one that another process has started, or that was detached.
    ///
    /// # Errors
    /// [`MicrovmError`] when no monitor answers there.
    pub fn adopt(folder: &Path) -> Result<Self, MicrovmError> {
        let socket = folder.join(CONTROL_SOCKET);
        let (client, agent) = (Arc::new(Client::connect(&socket)?), Agent::of_monitor(&socket)?);
        Ok(Self { folder: folder.to_owned(), vmm: Mutex::new(None), client, agent })
    }

    /// Lets the process live on when this is dropped. The caller that sees it exit removes its run directory and what its jail has
    /// left on the host. Returns none if it was detached before, or adopted.
    ///
    /// # Errors
    /// [`MicrovmError::File`]; nothing has changed then.
    pub fn detach(&self) -> Result<Option<Process>, MicrovmError> {
        let mut vmm = self.vmm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = vmm.as_ref().map(Vmm::pid) else { return Ok(None) };
        // It is a child that was not waited for, so its process id cannot have been reused.
        let opened = Process::open(pid).and_then(|process| process.ok_or(io::ErrorKind::NotFound.into()));
        let process = opened.map_err(file("looking at the process of", &self.folder))?;
        let _ = vmm.take().map(Vmm::detach);
        Ok(Some(process))
    }

    /// Renames the run directory, within the same file system.
    ///
    /// # Errors
    /// [`MicrovmError`]. The process is killed then, if this is its parent and it was not detached.
    pub fn move_to(self, folder: &Path) -> Result<Self, MicrovmError> {
        fs::rename(&self.folder, folder).map_err(file("moving the run directory to", folder))?;
        let vmm = self.vmm.into_inner().unwrap_or_else(PoisonError::into_inner);
        // New connections are made, because error messages contain the path that a connection was made with.
        Ok(Self { vmm: Mutex::new(vmm), ..Self::adopt(folder)? })
    }

    /// Builds a machine and boots it.
    ///
    /// # Errors
    /// [`MicrovmError`].
    pub fn boot(&self, boot: Boot) -> Result<(), MicrovmError> {
        let DeviceLimits { disk: rate_limiter, receive, transmit, room } = boot.limits;
        let disk = |source| DiskConfig { source, serial: String::new(), rate_limiter, room };
        let net = |card: Card| NetConfig {
            tap: card.tap,
            mac: card.mac,
            mtu: card.mtu,
            receive_limiter: receive,
            transmit_limiter: transmit,
        };
        let config = MachineConfig {
            vcpus: boot.shape.vcpus,
            memory_mib: boot.shape.memory_mib,
            initramfs: Some(open("opening the initramfs", &boot.initramfs)?),
            command_line: COMMAND_LINE.to_owned(),
            disks: boot.disks.into_iter().map(disk).collect(),
            nets: boot.card.into_iter().map(net).collect(),
            vsock: Some(VsockConfig { guest_cid: GUEST_CID, listener: None, broker: None }),
            balloon: Some(BalloonConfig { target_mib: 0, free_page_reporting: true }),
            rng: true,
            console_output: Some(self.file(CONSOLE)?.into()),
            console_max_bytes: CONSOLE_BYTES,
            exit_report: Some(self.file(EXIT_REPORT)?.into()),
            ..MachineConfig::new(open("opening the kernel", &boot.kernel)?)
        };
        config.validate()?;
        self.client.create(config)?;
        Ok(self.client.boot()?)
    }

    /// Builds the machine of a snapshot, and resumes it.
    ///
    /// # Errors
    /// [`MicrovmError`].
    pub fn restore(&self, restore: Restore) -> Result<proto::Restored, MicrovmError> {
        let mut config = snapshot::open(&restore.snapshot)?.into_config(restore.disks)?;
        config.taps = restore.tap.into_iter().collect();
        config.clock = restore.clock;
        config.limits = Some(restore.limits);
        config.resume = true;
        config.console_output = Some(self.file(CONSOLE)?.into());
        config.console_max_bytes = CONSOLE_BYTES;
        config.exit_report = Some(self.file(EXIT_REPORT)?.into());
        if restore.record {
            let device = File::options().read(true).write(true).open(USERFAULTFD);
            let failed =
                file("recording a working set takes Linux 6.1 and root: opening", Path::new(USERFAULTFD));
            config.userfaultfd = Some(device.map_err(failed)?);
            config.working_set = None;
        }
        Ok(self.client.restore(config)?)
    }

    fn file(&self, name: &str) -> Result<File, MicrovmError> {
        create("making a file of the microVM", &self.folder.join(name))
    }

    /// The client of the monitor.
    #[must_use]
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The guest's agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The run directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of the console output of the guest's kernel and of the monitor's log, to explain failures: 8 KiB of each at most, since
    /// guests and monitors write what they like.
    #[must_use]
    pub fn last_words(&self) -> String {
        let read = |name: &str| files::tail(&self.folder.join(name), WORDS_BYTES).unwrap_or_default();
        format!("{}{}", read(CONSOLE), read(MONITOR_LOG)).trim().to_owned()
    }

    /// Waits until the machine has ended, over a separate connection.
    ///
    /// # Errors
    /// [`MicrovmError::Monitor`] when the monitor dies without a report.
    pub async fn exited(&self) -> Result<proto::ExitReason, MicrovmError> {
        self.request(Client::wait_exit).await
    }

    /// Sends a request to the monitor, on a thread that may block.
    async fn request<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, MicrovmError> {
        let client = Arc::clone(&self.client);
        let result = tokio::task::spawn_blocking(move || work(&client)).await;
        Ok(result.map_err(|error| MicrovmError::Thread(error.to_string()))??)
    }

    /// Waits until the process has exited, which it does by itself when its machine has ended, and cleans up after it. Kills it
    /// after `limit`. Does nothing for a process that was detached or adopted.
    ///
    /// # Errors
    /// [`MicrovmError::File`], also when the process had to be killed.
    pub fn reap(&self, limit: Duration) -> Result<(), MicrovmError> {
        let mut vmm = self.vmm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(vmm) = vmm.as_mut() else { return Ok(()) };
        let waiting = "waiting for the monitor of";
        // It is a child that was not waited for, so its process id cannot have been reused.
        let process = Process::open(vmm.pid()).map_err(file(waiting, &self.folder))?;
        let ended = process.map_or(Ok(true), |process| process.wait(limit));
        if !ended.map_err(file(waiting, &self.folder))? {
            let _ = vmm.kill(); // it may have ended by now
            let _ = vmm.wait();
            return Err(file(waiting, &self.folder)(io::ErrorKind::TimedOut.into()));
        }
        match vmm.wait() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(waiting, &self.folder)(error)),
            _ => Ok(()),
        }
    }
}
