//! `hearth-vmm boot`: opens the files it is given, starts a jailed monitor, passes it the descriptors, and
//! shows the guest's console until the guest ends.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use hearth_proto::vmm::v1::ExitKind;
use hearth_vmm::client::{CONTROL_SOCKET, Client, Launch};
use hearth_vmm::config::{BalloonConfig, DiskConfig, DiskSource, MachineConfig, NetConfig, VsockConfig};
use hearth_vmm::devices::virtio::vsock::broker::Broker;
use hearth_vmm::jail::{CgroupConfig, JailConfig, JailMode};
use hearth_vmm::memory::MIB;
use hearth_vmm::tap;

use super::args::{Disk, DiskMode, Tap, Vsock};
use super::console;

#[derive(Debug, Args)]
pub(super) struct Boot {
    /// Kernel: an uncompressed arm64 Image
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// Initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0 reboot=k panic=1")]
    cmdline: String,

    /// Number of vCPUs, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    vcpus: u32,

    /// Memory in MiB, 128 to 32768
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,

    /// Disk, read-only unless told otherwise: PATH[,ro|,rw|,overlay=PATH][,serial=ID]; may be repeated
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<Disk>,

    /// Network card on an existing tap: NAME[,mac=ADDRESS][,mtu=BYTES]; may be repeated
    #[arg(long = "tap", value_name = "TAP")]
    taps: Vec<Tap>,

    /// Vsock device: PATH[,cid=N]. A socket is made at PATH, to which a client writes "CONNECT PORT"; a guest
    /// that connects to port P of the host reaches the socket PATH_P
    #[arg(long, value_name = "VSOCK")]
    vsock: Option<Vsock>,

    /// Balloon with free page reporting, taking this much memory at first
    #[arg(long, value_name = "MIB")]
    balloon: Option<u32>,

    /// Entropy device
    #[arg(long)]
    rng: bool,

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

/// The run directory, removed in the end if it was made here.
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
            let _ = fs::remove_dir(&self.path); // what somebody else has put there stays
        }
    }
}

/// A socket file, removed in the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // somebody else may have removed it
    }
}

fn open(what: &str, path: &Path, write: bool) -> anyhow::Result<File> {
    let file = File::options().read(true).write(write).open(path);
    file.with_context(|| format!("opening the {what} {}", path.display()))
}

fn open_disk(disk: &Disk) -> anyhow::Result<DiskConfig> {
    let source = match &disk.mode {
        DiskMode::ReadOnly => DiskSource::ReadOnly(open("disk", &disk.path, false)?),
        DiskMode::Writable => DiskSource::Writable(open("disk", &disk.path, true)?),
        DiskMode::Overlay(path) => {
            let overlay = File::options().read(true).write(true).create(true).truncate(false).open(path);
            DiskSource::Overlay {
                base: open("disk", &disk.path, false)?,
                layers: Vec::new(),
                overlay: overlay.with_context(|| format!("opening the overlay {}", path.display()))?,
            }
        }
    };
    Ok(DiskConfig { source, serial: disk.serial.clone(), rate_limiter: None })
}

fn open_tap(index: usize, tap: &Tap) -> anyhow::Result<NetConfig> {
    let number = u8::try_from(index).context("too many network cards")?;
    Ok(NetConfig {
        tap: tap::open_tap(&tap.name)?,
        // Locally administered; unlike what other hypervisors hand out.
        mac: tap.mac.unwrap_or([0x06, b'h', b'r', b't', b'h', number]),
        mtu: tap.mtu,
        receive_limiter: None,
        transmit_limiter: None,
    })
}

impl Boot {
    pub(super) fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut sockets = Vec::new();
        let (console_output, guest_output) = pipe()?;
        let (guest_input, console_input) = pipe()?;
        let vsock = self.vsock.take().map(|vsock| open_vsock(&vsock, &mut sockets)).transpose()?;
        let config = MachineConfig {
            vcpus: self.vcpus,
            memory_mib: self.memory,
            initramfs: self.initrd.as_ref().map(|path| open("initramfs", path, false)).transpose()?,
            command_line: self.cmdline.clone(),
            disks: self.disks.iter().map(open_disk).collect::<Result<_, _>>()?,
            nets: self
                .taps
                .iter()
                .enumerate()
                .map(|(index, tap)| open_tap(index, tap))
                .collect::<Result<_, _>>()?,
            vsock,
            balloon: self.balloon.map(|target_mib| BalloonConfig { target_mib, free_page_reporting: true }),
            rng: self.rng,
            console_output: Some(guest_output),
            console_input: Some(guest_input),
            console_max_bytes: u64::MAX,
            ..MachineConfig::new(open("kernel", &self.kernel, false)?)
        };
        config.validate()?;
        if !self.no_cgroup && self.jail.mode == JailMode::On {
            let name = format!("hearth-vmm-{}", std::process::id());
            let bytes = config.memory_mib * MIB;
            self.jail.cgroup = Some(CgroupConfig::for_guest(&self.cgroup_parent, name, bytes));
        }
        let run_dir = RunDirectory::new(self.run_dir.as_deref())?;
        let binary = std::env::current_exe().context("finding this program's own file")?;
        let mut vmm = Launch::new(&binary, &run_dir.path).jail(self.jail).start()?;
        vmm.client().create(config)?;

        let raw = RawTerminal::new();
        let output = console::forward_output(console_output);
        let socket = run_dir.path.join(CONTROL_SOCKET);
        console::forward_input(console_input, move || {
            if let Ok(client) = Client::connect(&socket) {
                let _ = client.shutdown(); // it may have ended by itself
            }
        });
        vmm.client().boot()?;
        let reason = vmm.client().wait_exit();
        let status = vmm.wait().context("waiting for the monitor")?;
        let _ = output.join(); // ends with the monitor, which holds the other end
        drop(raw);
        drop(sockets);
        let Ok(reason) = reason else { bail!("the monitor ended without a word ({status})") };
        match reason.kind() {
            ExitKind::PowerOff | ExitKind::Shutdown => {
                eprintln!("hearth-vmm: {}", reason.message);
                Ok(ExitCode::SUCCESS)
            }
            _ => bail!("the machine ended: {}", reason.message),
        }
    }
}

/// Raw mode with a hint, where there is a terminal.
struct RawTerminal(#[expect(dead_code, reason = "held for its drop")] Option<console::RawTerminal>);

impl RawTerminal {
    fn new() -> Self {
        if std::io::stdin().is_terminal() {
            eprintln!("hearth-vmm: Ctrl-A x ends the microVM");
        }
        Self(console::RawTerminal::enter())
    }
}

fn open_vsock(vsock: &Vsock, sockets: &mut Vec<SocketFile>) -> anyhow::Result<VsockConfig> {
    let listener = UnixListener::bind(&vsock.path)
        .with_context(|| format!("making the vsock socket {}", vsock.path.display()))?;
    sockets.push(SocketFile(vsock.path.clone()));
    let (broker, monitors_end) = Broker::pair().context("making the vsock broker")?;
    let prefix = vsock.path.clone();
    // Ends when the monitor does, which holds the other end.
    std::thread::spawn(move || broker.serve_path_prefix(&prefix));
    Ok(VsockConfig { guest_cid: vsock.cid, listener: Some(listener), broker: Some(monitors_end) })
}

/// A pipe: its read end, then its write end.
fn pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    Ok((reader.into(), writer.into()))
}
