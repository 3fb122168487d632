//! A monitor that this program starts, with its guest's console on this terminal. Shared by `boot` and `restore`.

use std::fs;
use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use hearth_proto::vmm::v1::ExitKind;
use hearth_vmm::memory::MIB;
use hearth_vmm_client::{CONTROL_SOCKET, Client, Launch, Vmm};
use hearth_vmm_jail::{CgroupConfig, JailConfig, JailMode};

use super::console;
use super::origin::{Origin, OriginFile};
use super::output;

/// Where the monitor runs, and behind which walls.
#[derive(Debug, Args)]
pub(super) struct SessionOptions {
    /// Folder for the control socket and the monitor's empty root; a new one under /run unless given
    #[arg(long, value_name = "FOLDER")]
    run_dir: Option<PathBuf>,

    /// Control group (version 2) to make the microVM's own one in; its memory is limited there
    #[arg(long, value_name = "FOLDER", default_value = "/sys/fs/cgroup")]
    cgroup_parent: PathBuf,

    /// Have no control group
    #[arg(long)]
    no_cgroup: bool,

    #[command(flatten)]
    jail: JailConfig,
}

/// The run directory. It is removed on drop if this program created it.
#[derive(Debug)]
struct RunDirectory {
    path: PathBuf,
    made: bool,
}

impl RunDirectory {
    fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => PathBuf::from(format!("/run/hearth-vmm-{}", std::process::id())),
        };
        let made = !path.exists();
        if made {
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700).create(&path).with_context(|| {
                format!("making the run directory {}: give another one with --run-dir", path.display())
            })?;
        }
        Ok(Self { path, made })
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir(&self.path); // the folder remains if it contains files of others
        }
    }
}

/// This terminal's ends of the pipes to the guest's console.
#[derive(Debug)]
pub(super) struct Console {
    output: OwnedFd,
    input: OwnedFd,
}

impl Console {
    /// Creates the pipes. Returns this terminal's ends, the end to which the monitor writes the guest's output, and the
    /// end from which it reads the guest's input.
    pub(super) fn open() -> anyhow::Result<(Self, OwnedFd, OwnedFd)> {
        let pipe = || std::io::pipe().context("making a pipe");
        let ((output, guest_output), (guest_input, input)) = (pipe()?, pipe()?);
        Ok((Self { output: output.into(), input: input.into() }, guest_output.into(), guest_input.into()))
    }
}

/// A running monitor. The order of the fields is the order of the drops: the monitor exits before its folder is
/// removed.
#[derive(Debug)]
pub(super) struct Session {
    vmm: Vmm,
    _origin: OriginFile,
    run_dir: RunDirectory,
}

impl Session {
    /// Starts a monitor for a machine with `memory_mib` MiB of memory, and writes the file `origin`.
    pub(super) fn start(
        mut options: SessionOptions,
        memory_mib: u64,
        origin: &Origin,
    ) -> anyhow::Result<Self> {
        if !options.no_cgroup && options.jail.mode == JailMode::On {
            let name = format!("hearth-vmm-{}", std::process::id());
            let cgroup = CgroupConfig::for_guest(&options.cgroup_parent, name, memory_mib * MIB);
            options.jail.cgroup = Some(cgroup);
        }
        let run_dir = RunDirectory::new(options.run_dir.as_deref())?;
        let binary = std::env::current_exe().context("finding this program's own file")?;
        let vmm = Launch::new(&binary, &run_dir.path).jail(options.jail).start()?;
        let origin = origin.write(&run_dir.path)?;
        Ok(Self { vmm, _origin: origin, run_dir })
    }

    /// Returns the connection to the monitor.
    pub(super) fn client(&self) -> &Client {
        self.vmm.client()
    }

    /// Runs the machine with its console on this terminal, until it exits. `quit` is called on Ctrl-A x and must shut
    /// the machine down.
    pub(super) fn run(
        mut self,
        console: Console,
        go: impl FnOnce(&Client) -> anyhow::Result<()>,
        quit: impl Fn(&Client) + Send + 'static,
    ) -> anyhow::Result<ExitCode> {
        let raw = RawTerminal::new();
        let output = console::forward_output(console.output);
        let socket = self.run_dir.path.join(CONTROL_SOCKET);
        console::forward_input(console.input, move || {
            // The monitor may have exited by itself.
            if let Ok(client) = Client::connect(&socket) {
                quit(&client);
            }
        });
        go(self.vmm.client())?;
        let reason = self.vmm.client().wait_exit();
        let status = self.vmm.wait().context("waiting for the monitor")?;
        let _ = output.join(); // the thread stops when the monitor exits, which holds the other end
        drop(raw);
        let Ok(reason) = reason else { bail!("the monitor ended without a word ({status})") };
        match reason.kind() {
            ExitKind::PowerOff | ExitKind::Shutdown => {
                output::print_error(&reason.message);
                Ok(ExitCode::SUCCESS)
            }
            _ => bail!("the machine ended: {}", reason.message),
        }
    }
}

/// Raw mode, with a hint on how to leave it, if standard input is a terminal.
struct RawTerminal(#[expect(dead_code, reason = "held for its drop")] Option<console::RawTerminal>);

impl RawTerminal {
    fn new() -> Self {
        if std::io::stdin().is_terminal() {
            output::print_error("Ctrl-A x ends the microVM");
        }
        Self(console::RawTerminal::enter())
    }
}
