//! A microVM with the test guest in it.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use hearth_proto::vmm::v1 as proto;
use hearth_test_guest::client::{self, Command};
use hearth_test_guest::work::Status;
use hearth_vmm::client::{CONTROL_SOCKET, Client, Launch, Vmm};
use hearth_vmm::config::{MachineConfig, VsockConfig};
use hearth_vmm::control::PROTOCOL_VERSION;
use hearth_vmm::control::socket::PacketSocket;
use hearth_vmm::jail::{CgroupConfig, JailConfig};
use hearth_vmm::memory::MIB;
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Answer;
use tempfile::TempDir;

use super::{Console, HostPorts, Metal, PATIENCE, within};

/// Where the tests' control groups go.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Numbers of this process's guests.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Ports of the guests that serve copies of disks.
static NEXT_COPY: AtomicU32 = AtomicU32::new(9000);

/// A machine to be: its configuration, and what the test keeps of it.
pub(crate) struct Machine {
    /// What the monitor will get. Vsock, console and exit report are set already.
    pub(crate) config: MachineConfig,
    /// Folder for the test's files.
    pub(crate) folder: TempDir,
    metal: Metal,
    ports: HostPorts,
    console: Console,
    report: PipeReader,
}

impl Machine {
    /// One vCPU, 256 MiB, the test guest, the console, vsock and the entropy device.
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

    /// Makes a file for a disk in this machine's folder that holds the stream `seed`, open for reading and
    /// writing.
    pub(crate) fn disk_file(&self, name: &str, seed: u64, bytes: u64) -> File {
        super::patterned(&self.folder.path().join(name), seed, bytes)
    }

    /// Makes an empty file in this machine's folder, open for reading and writing.
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

    /// Boots it, and waits until the guest takes commands.
    pub(crate) fn boot(self) -> Guest {
        let guest = self.create();
        guest.client().boot().unwrap();
        guest.ports.wait_until_ready();
        guest
    }
}

/// What a guest needs beside its configuration.
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

/// The control group of guest `number` of the test process `pid`.
pub(crate) fn cgroup(pid: u32, number: u32, memory_mib: u64) -> CgroupConfig {
    CgroupConfig::for_guest(CGROUPS, format!("hearth-e2e-{pid}-{number}"), memory_mib * MIB)
}

pub(crate) fn vsock_path(folder: &Path) -> PathBuf {
    folder.join("vsock")
}

/// How a microVM has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The line that the monitor wrote into the exit report.
    pub(crate) report: String,
    /// How its process ended.
    pub(crate) status: ExitStatus,
}

/// A running microVM.
pub(crate) struct Guest {
    vmm: Option<Vmm>,
    cgroup: PathBuf,
    /// Folder of the test's files.
    pub(crate) folder: TempDir,
    /// What the guest reaches on the host.
    pub(crate) ports: HostPorts,
    /// Its console.
    pub(crate) console: Console,
    report: Option<PipeReader>,
    /// Size of its memory.
    pub(crate) memory_mib: u64,
    /// The memory of the snapshot that it was made of, or of the one that that builds on.
    pub(crate) base: Option<PathBuf>,
}

impl Guest {
    /// The connection to its monitor.
    pub(crate) fn client(&self) -> &Client {
        self.vmm().client()
    }

    /// Its monitor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.vmm().pid()
    }

    fn vmm(&self) -> &Vmm {
        self.vmm.as_ref().unwrap()
    }

    /// Its monitor's control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("run").join(CONTROL_SOCKET)
    }

    /// Asks its monitor to say when and why it ends.
    pub(crate) fn waiting_for_exit(&self) -> ExitWait {
        ExitWait::ask(&self.control())
    }

    /// The socket on which the host opens streams to the guest.
    pub(crate) fn vsock(&self) -> PathBuf {
        vsock_path(self.folder.path())
    }

    /// Has the guest do something, and returns its answer.
    pub(crate) fn run(&self, command: &str) -> String {
        self.attempt(command).unwrap_or_else(|reason| panic!("`{command}` failed in the guest: {reason}"))
    }

    /// Has the guest do something whose answer is a status of its work (`work-check`, `work-stop` …).
    pub(crate) fn work(&self, command: &str) -> Status {
        let status: Status = self.run(command).parse().unwrap();
        assert_eq!(status.errors, 0, "`{command}`: {status}");
        status
    }

    /// Makes a file of what the guest reads from a disk, which need not be one file for us.
    pub(crate) fn copy_disk(&self, device: &str, path: &Path) {
        // The guest, or the one that it was restored from, may still serve an earlier copy.
        let port = NEXT_COPY.fetch_add(1, Ordering::Relaxed);
        self.run(&format!("vsock-disk {port} {device}"));
        let copied = super::files::copy(self.connect(port), path);
        let sectors = self.run(&format!("blk-info {device}"));
        let sectors = sectors.split(' ').next().unwrap().parse();
        assert_eq!(Ok(copied.metadata().unwrap().len() / 512), sectors, "not all of {device} has come");
    }

    /// Has the guest try something.
    pub(crate) fn attempt(&self, command: &str) -> Result<String, String> {
        let result = self.start(command).finish();
        result.unwrap_or_else(|error| panic!("no answer to `{command}`: {error}"))
    }

    /// Has the guest start something.
    pub(crate) fn start(&self, command: &str) -> Command {
        let started = Command::start(&self.vsock(), command, PATIENCE);
        started.unwrap_or_else(|error| panic!("`{command}` cannot be started: {error}"))
    }

    /// Opens a stream to a port of the guest.
    pub(crate) fn connect(&self, port: u32) -> UnixStream {
        client::connect(&self.vsock(), port, PATIENCE).unwrap()
    }

    /// A counter of the monitor, which must exist.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let metrics = self.client().metrics().unwrap();
        let counters =
            metrics.groups.iter().filter(|entry| entry.name == group).flat_map(|entry| &entry.counters);
        let counter = counters.into_iter().find(|counter| counter.name == name);
        counter.unwrap_or_else(|| panic!("there is no counter {name} of {group} in {metrics:?}")).value
    }

    /// Asks the guest to power off, and waits for the end.
    pub(crate) fn power_off(self) -> Ended {
        let _unanswered = self.start("poweroff");
        let ended = self.wait();
        ended.assert_kind("power_off");
        ended
    }

    /// Waits until the microVM has ended; checks that it has left nothing behind.
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

    /// Kills the monitor, and waits until it is gone. Returns the folder with the test's files.
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

/// A question that a monitor answers when it ends.
pub(crate) struct ExitWait(PacketSocket);

impl ExitWait {
    /// Asks the monitor behind a control socket, and makes sure that it has heard the question.
    pub(crate) fn ask(control: &Path) -> Self {
        let socket = PacketSocket::connect(control).unwrap();
        for operation in [Operation::WaitExit(proto::WaitExit {}), Operation::Hello(proto::Hello {})] {
            let request = proto::Request { version: PROTOCOL_VERSION, operation: Some(operation) };
            socket.send(&request.encode_to_vec(), &[]).unwrap();
        }
        // Requests of one controller are handled in their order.
        let waiting = Self(socket);
        assert!(matches!(waiting.receive(), Answer::Status(_)));
        waiting
    }

    fn receive(&self) -> Answer {
        let mut packet = Vec::new();
        self.0.receive(&mut packet).unwrap().expect("the monitor is gone without an answer");
        proto::Response::decode(packet.as_slice()).unwrap().result.unwrap()
    }

    /// Waits for the answer.
    pub(crate) fn answer(self) -> proto::ExitReason {
        match self.receive() {
            Answer::Exit(reason) => reason,
            other => panic!("{other:?} is no answer to WaitExit"),
        }
    }
}

impl Ended {
    /// Checks that the machine ended in this way and the monitor properly.
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
