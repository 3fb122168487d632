//! A microVM that runs the test guest.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_proto::vmm::v1 as proto;
use hearth_test_guest::client::{self, Command};
use hearth_test_guest::work::Status;
use hearth_vmm::memory::MIB;
use hearth_vmm_api::config::{MachineConfig, VsockConfig};
use hearth_vmm_api::protocol::PROTOCOL_VERSION;
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_client::{CONTROL_SOCKET, Client, Launch, Vmm};
use hearth_vmm_jail::{CgroupConfig, JailConfig};
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Response;
use tempfile::TempDir;

use super::{Console, HostPorts, Metal, TEST_TIMEOUT, within};

/// Parent of the tests' control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Number of this process's next guest.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Next guest port on which a copy of a disk is served.
static NEXT_COPY: AtomicU32 = AtomicU32::new(9000);

/// A machine to be created: its configuration, and the resources of it that the test keeps.
pub(crate) struct Machine {
    /// The configuration for the monitor. Vsock, console and exit report are set already.
    pub(crate) config: MachineConfig,
    /// Folder for the test's files.
    pub(crate) folder: TempDir,
    metal: Metal,
    ports: HostPorts,
    console: Console,
    report: PipeReader,
}

impl Machine {
    /// Creates a machine with one vCPU, 256 MiB, the test guest, the console, vsock and the entropy device.
    pub(crate) fn new(metal: &Metal) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = MachineConfig::new(File::open(&metal.kernel).unwrap());
        config.memory_mib = 256;
        config.initramfs = Some(File::open(&metal.initramfs).unwrap());
        config.command_line = "console=ttyS0 quiet panic=-1".to_string();
        config.rng = true;
        let (ports, broker) = HostPorts::open();
        let listener = UnixListener::bind(vsock_path(folder.path())).unwrap();
        config.vsock = Some(VsockConfig { guest_cid: 3, listener: Some(listener), broker: Some(broker) });
        let (console, console_writer) = io::pipe().unwrap();
        config.console_output = Some(console_writer.into());
        let (report, report_writer) = io::pipe().unwrap();
        config.exit_report = Some(report_writer.into());
        Self { config, folder, metal: metal.clone(), ports, console: Console::new(console), report }
    }

    /// Creates a file for a disk in this machine's folder that contains the stream `seed`, open for reading and
    /// writing.
    pub(crate) fn disk_file(&self, name: &str, seed: u64, bytes: u64) -> File {
        super::patterned(&self.folder.path().join(name), seed, bytes)
    }

    /// Creates an empty file in this machine's folder, open for reading and writing.
    pub(crate) fn empty_file(&self, name: &str) -> File {
        self.disk_file(name, 0, 0)
    }

    /// Adds a word to the kernel command line.
    pub(crate) fn argument(&mut self, word: &str) {
        self.config.command_line += &format!(" {word}");
    }

    /// Starts a monitor, and creates the machine without booting it.
    pub(crate) fn create(self) -> Guest {
        let Self { config, folder, metal, ports, console, report } = self;
        let memory_mib = config.memory_mib;
        let start = Start { folder, metal, ports, console, report, memory_mib, base: None };
        let guest = start.launch();
        guest.client().create(config).unwrap();
        guest
    }

    /// Boots the machine, and waits until the guest accepts commands.
    pub(crate) fn boot(self) -> Guest {
        let guest = self.create();
        guest.client().boot().unwrap();
        guest.ports.wait_until_ready();
        guest
    }
}

/// What a guest needs in addition to its configuration.
pub(crate) struct Start {
    pub(crate) folder: TempDir,
    pub(crate) metal: Metal,
    pub(crate) ports: HostPorts,
    pub(crate) console: Console,
    pub(crate) report: PipeReader,
    pub(crate) memory_mib: u64,
    pub(crate) base: Option<PathBuf>,
}

impl Start {
    /// Starts a monitor without a machine.
    pub(crate) fn launch(self) -> Guest {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup(std::process::id(), number, self.memory_mib);
        let jail = JailConfig { cgroup: Some(cgroup.clone()), ..JailConfig::default() };
        let run_dir = self.folder.path().join("run");
        let vmm = Launch::new(&self.metal.monitor, &run_dir).jail(jail).start().unwrap();
        Guest {
            vmm: Some(vmm),
            cgroup: cgroup.path(),
            folder: self.folder,
            ports: self.ports,
            console: self.console,
            report: Some(self.report),
            memory_mib: self.memory_mib,
            base: self.base,
        }
    }
}

/// Returns the control group of guest `number` of the test process `pid`.
pub(crate) fn cgroup(pid: u32, number: u32, memory_mib: u64) -> CgroupConfig {
    CgroupConfig::for_guest(CGROUPS, format!("hearth-e2e-{pid}-{number}"), memory_mib * MIB)
}

pub(crate) fn vsock_path(folder: &Path) -> PathBuf {
    folder.join("vsock")
}

/// How a microVM has exited.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The line that the monitor wrote into the exit report.
    pub(crate) report: String,
    /// Exit status of the monitor.
    pub(crate) status: ExitStatus,
}

/// A running microVM.
pub(crate) struct Guest {
    vmm: Option<Vmm>,
    cgroup: PathBuf,
    /// Folder of the test's files.
    pub(crate) folder: TempDir,
    /// The host's ports that the guest can reach.
    pub(crate) ports: HostPorts,
    /// Console of the guest.
    pub(crate) console: Console,
    report: Option<PipeReader>,
    /// Size of the guest's memory in MiB.
    pub(crate) memory_mib: u64,
    /// If the guest was restored: the memory file of its snapshot, or of the snapshot on which that builds.
    pub(crate) base: Option<PathBuf>,
}

impl Guest {
    /// Returns the connection to the guest's monitor.
    pub(crate) fn client(&self) -> &Client {
        self.vmm().client()
    }

    /// Returns the process id of the monitor.
    pub(crate) fn pid(&self) -> u32 {
        self.vmm().pid()
    }

    fn vmm(&self) -> &Vmm {
        self.vmm.as_ref().unwrap()
    }

    /// Returns the path of the monitor's control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("run").join(CONTROL_SOCKET)
    }

    /// Requests the exit reason from the monitor, which it sends when the machine exits.
    pub(crate) fn waiting_for_exit(&self) -> ExitWait {
        ExitWait::ask(&self.control())
    }

    /// Returns the path of the socket on which the host opens streams to the guest.
    pub(crate) fn vsock(&self) -> PathBuf {
        vsock_path(self.folder.path())
    }

    /// Runs a command in the guest, and returns its answer.
    pub(crate) fn run(&self, command: &str) -> String {
        self.attempt(command).unwrap_or_else(|reason| panic!("`{command}` failed in the guest: {reason}"))
    }

    /// Runs a command in the guest whose answer is a status of its work (`work-check`, `work-stop` …).
    pub(crate) fn work(&self, command: &str) -> Status {
        let status: Status = self.run(command).parse().unwrap();
        assert_eq!(status.errors, 0, "`{command}`: {status}");
        status
    }

    /// Creates a file with the contents that the guest reads from a disk, which may consist of several files on the
    /// host.
    pub(crate) fn copy_disk(&self, device: &str, path: &Path) {
        // A new port each time, because the guest, or the one it was restored from, may still serve an earlier copy.
        let port = NEXT_COPY.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("vsock-disk {port} {device}"));
        let copied = super::files::copy(self.connect(port), path);
        let sectors = self.run(&format!("blk-info {device}"));
        let sectors = sectors.split(' ').next().unwrap().parse();
        assert_eq!(Ok(copied.metadata().unwrap().len() / 512), sectors, "not all of {device} has come");
    }

    /// Runs a command in the guest that may fail.
    pub(crate) fn attempt(&self, command: &str) -> Result<String, String> {
        let result = self.start(command).finish();
        result.unwrap_or_else(|error| panic!("no answer to `{command}`: {error}"))
    }

    /// Starts a command in the guest.
    pub(crate) fn start(&self, command: &str) -> Command {
        let started = Command::start(&self.vsock(), command, TEST_TIMEOUT);
        started.unwrap_or_else(|error| panic!("`{command}` cannot be started: {error}"))
    }

    /// Opens a stream to a port of the guest.
    pub(crate) fn connect(&self, port: u32) -> UnixStream {
        client::connect(&self.vsock(), port, TEST_TIMEOUT).unwrap()
    }

    /// Returns a counter of the monitor; it must exist.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let metrics = self.client().metrics().unwrap();
        let counters =
            metrics.groups.iter().filter(|entry| entry.name == group).flat_map(|entry| &entry.counters);
        let counter = counters.into_iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("there is no counter {name} of {group} in {metrics:?}")).value
    }

    /// Powers the guest off, and waits until the microVM has exited.
    pub(crate) fn power_off(self) -> Ended {
        let _unanswered = self.start("poweroff");
        let ended = self.wait();
        ended.assert_kind("power_off");
        ended
    }

    /// Waits until the microVM has exited; checks that it has left nothing behind.
    pub(crate) fn wait(mut self) -> Ended {
        let report = self.report.take().unwrap();
        let report = within("the exit report", move || {
            let mut line = String::new();
            BufReader::new(report).read_line(&mut line).map(|_| line)
        });
        let mut vmm = self.vmm.take().unwrap();
        let status = within("the end of the monitor", move || vmm.wait());
        self.assert_nothing_is_left();
        Ended { report: report.unwrap(), status: status.unwrap() }
    }

    /// Kills the monitor, and waits until it has exited. Returns the folder with the test's files.
    pub(crate) fn kill(mut self) -> TempDir {
        let mut vmm = self.vmm.take().unwrap();
        vmm.kill().unwrap();
        within("the end of the monitor", move || vmm.wait()).unwrap();
        self.assert_nothing_is_left();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    fn assert_nothing_is_left(&self) {
        assert!(!self.cgroup.exists(), "the control group is left: {}", self.cgroup.display());
        let left = fs::read_dir(self.folder.path().join("run")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left in the run directory: {left:?}");
    }
}

/// A pending WaitExit request; the monitor answers it when the machine exits.
pub(crate) struct ExitWait(PacketSocket);

impl ExitWait {
    /// Sends the request to the monitor behind a control socket, and makes sure that the monitor has received it.
    pub(crate) fn ask(control: &Path) -> Self {
        let socket = PacketSocket::connect(control).unwrap();
        for operation in [Operation::WaitExit(proto::WaitExit {}), Operation::Hello(proto::Hello {})] {
            let request = proto::Request { version: PROTOCOL_VERSION, operation: Some(operation) };
            socket.send(&request.encode_to_vec(), &[]).unwrap();
        }
        // Requests of one controller are handled in order, so the response to Hello shows that WaitExit was received.
        let waiting = Self(socket);
        assert!(matches!(waiting.receive(), Response::Status(_)));
        waiting
    }

    fn receive(&self) -> Response {
        let mut packet = Vec::new();
        self.0.receive(&mut packet).unwrap().expect("the monitor is gone without an answer");
        proto::Response::decode(packet.as_slice()).unwrap().result.unwrap()
    }

    /// Waits for the response.
    pub(crate) fn answer(self) -> proto::ExitReason {
        match self.receive() {
            Response::Exit(reason) => reason,
            other => panic!("{other:?} is no answer to WaitExit"),
        }
    }
}

impl Ended {
    /// Checks that the machine exited in this way, and that the monitor exited without a signal.
    pub(crate) fn assert_kind(&self, kind: &str) {
        assert!(self.report.contains(&format!("\"kind\":\"{kind}\"")), "{self:?}");
        assert!(self.status.success() || kind != "power_off", "{self:?}");
        assert!(self.status.code().is_some(), "the monitor died of a signal: {self:?}");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of the guest's console:\n{}", self.console.tail());
        }
    }
}
