//! A microVM that boots into the agent.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Answer;
use hearth_proto::guest::v1::{
    Configure, Exited, Failure, GetStatus, Open, OpenExec, OpenLogs, Opened, PowerOff, Process, RootDisk,
    StartApp, Status, WaitApp, WindowSize, open, open_exec,
};
use hearth_vmm_api::config::{DiskConfig, DiskSource, MachineConfig, NetConfig, VsockConfig};
use hearth_vmm_client::snapshot::{self, Take};
use hearth_vmm_client::{Launch, Vmm};
use tempfile::TempDir;

use super::connection::{Connection, Exec, Finished, Logs};
use super::{Metal, TEST_TIMEOUT};

/// A machine that is not started yet.
pub(crate) struct Machine {
    pub(crate) configure: Configure,
    /// The network card of the machine.
    pub(crate) card: Option<NetConfig>,
    metal: Metal,
}

/// A machine that runs.
pub(crate) struct Guest {
    vmm: Vmm,
    console: Receiver<String>,
    /// Requests go over this connection.
    control: Connection,
    metal: Metal,
    folder: TempDir,
}

impl Machine {
    /// A machine with one vCPU, 256 MiB, and the root disk with changes on an overlay of its own.
    pub(crate) fn new(metal: &Metal) -> Self {
        let disk = RootDisk {
            device: "/dev/vda".to_string(),
            file_system: "ext4".to_string(),
            overlay_in_memory: false,
        };
        Self {
            configure: Configure { root: Some(disk), ..Configure::default() },
            card: None,
            metal: metal.clone(),
        }
    }

    /// Boots the machine, and configures its container.
    pub(crate) fn boot(self) -> Guest {
        let configure = self.configure.clone();
        let mut guest = self.boot_only();
        guest.done(Operation::Configure(configure));
        guest
    }

    /// Boots the machine.
    pub(crate) fn boot_only(self) -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let mut config = MachineConfig::new(File::open(&self.metal.kernel).unwrap());
        config.memory_mib = 256;
        config.initramfs = Some(File::open(&self.metal.initramfs).unwrap());
        config.command_line = "console=ttyS0 quiet panic=-1 rcupdate.rcu_cpu_stall_suppress=1".to_string();
        config.rng = true;
        config.nets.extend(self.card);
        let listener = UnixListener::bind(folder.path().join("vsock")).unwrap();
        config.vsock = Some(VsockConfig { guest_cid: 3, listener: Some(listener), broker: None });
        let (console, console_writer) = io::pipe().unwrap();
        config.console_output = Some(console_writer.into());
        let source = disk(&self.metal, &folder.path().join("overlay"));
        config.disks =
            vec![DiskConfig { source, serial: "root".to_string(), rate_limiter: None, room: None }];
        let vmm = Launch::new(&self.metal.monitor, &folder.path().join("run")).start().unwrap();
        vmm.client().create(config).unwrap();
        vmm.client().boot().unwrap();
        let console = lines(console);
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains("hearth-guest: ready")) {
            match console.recv_timeout(TEST_TIMEOUT) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("the agent does not say that it is ready ({error}): {seen:#?}"),
            }
        }
        let control = Connection::open(&vmm, open::Kind::Control(Default::default())).unwrap();
        Guest { vmm, console, control, metal: self.metal, folder }
    }
}

impl Guest {
    /// Opens a connection.
    pub(crate) fn open(&self, kind: open::Kind) -> Result<Connection, Failure> {
        Connection::open(&self.vmm, kind)
    }

    /// A connection on which nothing was sent yet.
    pub(crate) fn raw(&self) -> UnixStream {
        let stream = self.vmm.client().vsock_connect(hearth_agent_protocol::PORT).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    /// Opens a connection in another version of the protocol.
    pub(crate) fn greet(&self, open: &Open) -> Result<(Connection, Opened), Failure> {
        Connection::greet(&self.vmm, open)
    }

    /// Sends a request to the agent, and returns its result.
    pub(crate) fn ask(&mut self, operation: Operation) -> Answer {
        self.control.ask(operation)
    }

    /// Sends a request to the agent, which must answer with Done.
    pub(crate) fn done(&mut self, operation: Operation) {
        let what = format!("{operation:?}");
        let answer = self.ask(operation);
        assert!(matches!(answer, Answer::Done(_)), "{what}: {answer:?}");
    }

    /// Sends a request to the agent, which must refuse it.
    pub(crate) fn refused(&mut self, operation: Operation) -> Failure {
        match self.ask(operation) {
            Answer::Failure(failure) => failure,
            other => panic!("not refused, but {other:?}"),
        }
    }

    /// The guest's status.
    pub(crate) fn status(&mut self) -> Status {
        match self.ask(Operation::GetStatus(GetStatus {})) {
            Answer::Status(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// Starts the app.
    pub(crate) fn start(&mut self, process: Process) {
        self.done(Operation::StartApp(StartApp { process: Some(process) }));
    }

    /// Starts an app that does nothing, for tests of processes beside it.
    pub(crate) fn start_idle(&mut self) {
        self.start(super::process(&["sleep", "1000000"]));
    }

    /// Waits until the app has terminated.
    pub(crate) fn wait_app(&mut self) -> Exited {
        match self.ask(Operation::WaitApp(WaitApp {})) {
            Answer::Exited(exited) => exited,
            other => panic!("no exit: {other:?}"),
        }
    }

    /// Opens a process beside the app.
    pub(crate) fn exec(&self, process: Process, terminal: Option<WindowSize>, privileged: bool) -> Exec {
        let what = Some(open_exec::What::Process(process));
        Exec(self.open(open::Kind::Exec(OpenExec { what, terminal, privileged, as_app: false })).unwrap())
    }

    /// Runs a process beside the app, and returns its output and result.
    pub(crate) fn run(&self, process: Process) -> Finished {
        self.exec(process, None, false).finish()
    }

    /// The stdout of a script beside the app; panics unless the script succeeds.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.run(super::shell(script)).success(script)
    }

    /// Unpacks or packs an archive.
    pub(crate) fn archive(&self, what: open_exec::What) -> Exec {
        let open = OpenExec { what: Some(what), ..OpenExec::default() };
        Exec(self.open(open::Kind::Exec(open)).unwrap())
    }

    /// The log, after this record.
    pub(crate) fn logs(&self, after: u64) -> Logs {
        Logs(self.open(open::Kind::Logs(OpenLogs { after })).unwrap())
    }

    /// Saves the machine, ends it, and restores it; connections are new ones then.
    pub(crate) fn save_and_restore(self) -> Self {
        self.save_and_restore_with_memory().0
    }

    /// Like [`Self::save_and_restore`]; also returns the path of the saved memory.
    pub(crate) fn save_and_restore_with_memory(mut self) -> (Self, PathBuf) {
        let snapshot = self.folder.path().join("snapshot");
        snapshot::suspend(self.vmm.client(), &snapshot, &Take::default()).unwrap();
        self.vmm.wait().unwrap();
        let source = disk(&self.metal, &self.folder.path().join("restored-overlay"));
        let mut config = snapshot::open(&snapshot).unwrap().into_config(vec![source]).unwrap();
        config.vsock_listener = Some(UnixListener::bind(self.folder.path().join("restored-vsock")).unwrap());
        let (console, console_writer) = io::pipe().unwrap();
        config.console_output = Some(console_writer.into());
        config.resume = true;
        let vmm = Launch::new(&self.metal.monitor, &self.folder.path().join("restored")).start().unwrap();
        vmm.client().restore(config).unwrap();
        self.control = Connection::open(&vmm, open::Kind::Control(Default::default())).unwrap();
        self.console = lines(console);
        self.vmm = vmm;
        (self, snapshot.join("memory"))
    }

    /// Powers the machine off, and waits until its monitor has exited.
    pub(crate) fn power_off(mut self) {
        self.done(Operation::PowerOff(PowerOff {}));
        let status = self.vmm.wait().unwrap();
        assert!(status.success(), "{status}; console: {:#?}", self.console.try_iter().collect::<Vec<_>>());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the guest's console: {:#?}", self.console.try_iter().collect::<Vec<_>>());
        }
    }
}

/// The root disk with an overlay.
fn disk(metal: &Metal, overlay: &Path) -> DiskSource {
    let overlay = File::options().create_new(true).read(true).write(true).open(overlay).unwrap();
    DiskSource::Overlay { base: File::open(&metal.root).unwrap(), layers: Vec::new(), overlay }
}

fn lines(console: PipeReader) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_string()).is_err() {
                break;
            }
            line.clear();
        }
    });
    lines
}
