//! What the measurements need of a microVM, whichever monitor runs it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hearth_test_guest::client::{self, Command};
use hearth_test_guest::{COMMAND_PORT, READY_LINE, READY_PORT};

/// When a measurement gives up on a guest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// What both monitors boot.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Files {
    /// The files that `cargo xtask bench` names in the environment.
    pub(crate) fn from_environment() -> Result<Self> {
        Ok(Self { kernel: path("HEARTH_GUEST_KERNEL")?, initramfs: path("HEARTH_GUEST_INITRD")? })
    }
}

/// A path that `cargo xtask bench` names in the environment.
pub(crate) fn path(variable: &str) -> Result<PathBuf> {
    let value = std::env::var_os(variable);
    Ok(value
        .with_context(|| format!("{variable} is not set: run this through `cargo xtask bench vmm`"))?
        .into())
}

/// Kernel command line of both. Without a console: one costs an exit per byte, and is not what is measured.
pub(crate) const COMMAND_LINE: &str = "quiet panic=-1 hearth.test=serve";

/// A disk of the guest.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// Whether writes go to an overlay, where the monitor has such a thing.
    pub(crate) overlay: bool,
}

/// A guest to boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'a> {
    /// Its memory in MiB.
    pub(crate) memory_mib: u64,
    pub(crate) disk: Option<&'a Disk>,
    /// Whether it will be saved: Firecracker needs its API for that, and boots a little faster without.
    pub(crate) saved_later: bool,
}

/// A saved machine.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) state: PathBuf,
    pub(crate) memory: PathBuf,
    /// What has changed since `memory` was written, where that is a file of its own.
    pub(crate) diff: Option<PathBuf>,
    pub(crate) memory_mib: u64,
}

impl Snapshot {
    /// A full one whose files are (to be) in `folder`.
    pub(crate) fn full(folder: &Path, memory_mib: u64) -> Self {
        Self { state: folder.join("state"), memory: folder.join("memory"), diff: None, memory_mib }
    }
}

/// How much of memory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Save {
    /// All of it.
    Full,
    /// What differs from the snapshot that the machine was restored from.
    Diff,
}

/// How a snapshot becomes a machine again; it always runs at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore<'a> {
    /// The folder of the new microVM.
    pub(crate) folder: &'a Path,
    pub(crate) snapshot: &'a Snapshot,
    /// The recorded working set to bring in.
    pub(crate) working_set: Option<&'a Path>,
    /// Whether it will be saved as a diff: Firecracker has to track dirty pages for that.
    pub(crate) diff_later: bool,
}

impl<'a> Restore<'a> {
    /// `snapshot` as it is.
    pub(crate) fn plain(folder: &'a Path, snapshot: &'a Snapshot) -> Self {
        Self { folder, snapshot, working_set: None, diff_later: false }
    }
}

/// A kind of monitor.
pub(crate) trait Monitor {
    /// Its name in the table.
    fn name(&self) -> &'static str;
    /// Starts a process and boots a guest in it; returns at once. The folder is the microVM's own.
    fn boot(&self, folder: &Path, guest: Guest<'_>) -> Result<Box<dyn Running>>;
    /// Starts a process that a snapshot can be restored in.
    fn start(&self, folder: &Path) -> Result<Box<dyn Waiting>>;
    /// Whether it can do what [`Disk::overlay`] asks for.
    fn has_overlays(&self) -> bool;
    /// How it suspends a guest that was restored from a snapshot.
    fn suspends_by(&self) -> Save;
    /// Restores a guest, has it answer, and writes what it has touched of its memory to `file`. False where the
    /// monitor knows no such thing.
    fn record_working_set(&self, restore: Restore<'_>, file: &Path) -> Result<bool>;
}

/// A process without a machine.
pub(crate) trait Waiting {
    /// Does what can be done before it is known which snapshot will be restored.
    fn prepare(&mut self, memory_mib: u64) -> Result<()>;
    /// Restores a machine, which runs when this returns.
    fn restore(self: Box<Self>, restore: Restore<'_>) -> Result<Box<dyn Running>>;
}

/// A microVM that runs.
pub(crate) trait Running {
    /// Process id of its monitor.
    fn pid(&self) -> u32;
    /// Waits for the first word of a guest that was booted.
    fn wait_until_ready(&mut self) -> Result<()>;
    /// The socket that takes `CONNECT <port>`.
    fn vsock(&self) -> PathBuf;
    /// Stops the guest.
    fn pause(&mut self) -> Result<()>;
    /// Writes a stopped guest into `folder`. A diff is returned without what it builds on.
    fn save(&mut self, how: Save, folder: &Path) -> Result<()>;
}

/// Checks the guest's first word on `stream`.
pub(crate) fn check_word(stream: UnixStream) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("reading the guest's first word")?;
    if line.trim_end() != READY_LINE {
        bail!("the guest's first word is {line:?}, not {READY_LINE:?}");
    }
    Ok(())
}

/// The socket, beside `vsock`, on which a guest's connection to [`READY_PORT`] arrives.
pub(crate) fn ready_socket(vsock: &Path) -> PathBuf {
    let mut name = vsock.as_os_str().to_owned();
    name.push(format!("_{READY_PORT}"));
    name.into()
}

/// Has the guest behind `vsock` do something.
pub(crate) fn command(vsock: &Path, command: &str) -> Result<String> {
    let answer = Command::start(vsock, command, PATIENCE).and_then(Command::finish);
    let answer = answer.with_context(|| format!("asking the guest for `{command}`"))?;
    answer.map_err(|reason| anyhow::anyhow!("`{command}` failed in the guest: {reason}"))
}

/// Greets a restored guest behind `vsock` and returns when the first byte of its answer came. The first stream that
/// is opened may be one that the guest drops while it learns that its transport was reset; then it is greeted anew.
pub(crate) fn first_byte(vsock: &Path) -> Result<Instant> {
    let started = Instant::now();
    let mut dropped = 0;
    loop {
        match greet(vsock) {
            Ok(came) => {
                if dropped > 0 {
                    eprintln!("  the guest dropped {dropped} streams before it answered");
                }
                return Ok(came);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound || started.elapsed() >= PATIENCE => {
                return Err(error).context("greeting the guest");
            }
            Err(_) => dropped += 1,
        }
    }
}

fn greet(vsock: &Path) -> io::Result<Instant> {
    let mut stream = client::connect(vsock, COMMAND_PORT, PATIENCE)?;
    stream.write_all(b"ping\n")?;
    stream.read_exact(&mut [0])?;
    let came = Instant::now();
    BufReader::new(stream).read_line(&mut String::new())?;
    Ok(came)
}

/// Opens a stream to a port of the guest behind `vsock`.
pub(crate) fn connect(vsock: &Path, port: u32) -> Result<UnixStream> {
    client::connect(vsock, port, PATIENCE).with_context(|| format!("connecting to port {port} of the guest"))
}
