//! The interface that the measurements use for microVMs of both monitors.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hearth_test_guest::client::{self, Command};
use hearth_test_guest::{COMMAND_PORT, READY_LINE, READY_PORT};

/// Timeout of every wait for a guest.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(600);

/// The files that both monitors boot.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Files {
    /// The files whose paths `cargo xtask bench` passes in the environment.
    pub(crate) fn from_environment() -> Result<Self> {
        Ok(Self { kernel: path("HEARTH_GUEST_KERNEL")?, initramfs: path("HEARTH_GUEST_INITRD")? })
    }
}

/// A path that `cargo xtask bench` passes in the environment.
pub(crate) fn path(variable: &str) -> Result<PathBuf> {
    let value = std::env::var_os(variable);
    Ok(value
        .with_context(|| format!("{variable} is not set: run this through `cargo xtask bench vmm`"))?
        .into())
}

/// Kernel command line of both. There is no console: it would cost an exit per byte, which is not to be measured.
pub(crate) const COMMAND_LINE: &str = "quiet panic=-1 hearth.test=serve";

/// A disk of the guest.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// Whether writes are stored in an overlay, if the monitor has overlays.
    pub(crate) overlay: bool,
}

/// A guest to boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'a> {
    /// Guest memory in MiB.
    pub(crate) memory_mib: u64,
    pub(crate) disk: Option<&'a Disk>,
    /// Whether the guest will be saved: Firecracker needs its API for that, and boots a little faster without.
    pub(crate) saved_later: bool,
}

/// A saved machine.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) state: PathBuf,
    pub(crate) memory: PathBuf,
    /// Pages that have changed since `memory` was written, if they are in a separate file.
    pub(crate) diff: Option<PathBuf>,
    pub(crate) memory_mib: u64,
}

impl Snapshot {
    /// A full snapshot whose files are (or will be) in `folder`.
    pub(crate) fn full(folder: &Path, memory_mib: u64) -> Self {
        Self { state: folder.join("state"), memory: folder.join("memory"), diff: None, memory_mib }
    }
}

/// The part of memory that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Save {
    /// All memory.
    Full,
    /// Pages that differ from the snapshot that the machine was restored from.
    Diff,
}

/// How a snapshot is restored; the machine always runs at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore<'a> {
    /// The folder of the new microVM.
    pub(crate) folder: &'a Path,
    pub(crate) snapshot: &'a Snapshot,
    /// The recorded working set to prefetch.
    pub(crate) working_set: Option<&'a Path>,
    /// Whether the machine will be saved as a diff: Firecracker has to track dirty pages for that.
    pub(crate) diff_later: bool,
}

impl<'a> Restore<'a> {
    /// A restore of `snapshot` without further options.
    pub(crate) fn plain(folder: &'a Path, snapshot: &'a Snapshot) -> Self {
        Self { folder, snapshot, working_set: None, diff_later: false }
    }
}

/// A kind of monitor.
pub(crate) trait Monitor {
    /// Name of the monitor in the table.
    fn name(&self) -> &'static str;
    /// Starts a process and boots a guest in it; returns at once. The folder is used by this microVM only.
    fn boot(&self, folder: &Path, guest: Guest<'_>) -> Result<Box<dyn Running>>;
    /// Starts a process in which a snapshot can be restored.
    fn start(&self, folder: &Path) -> Result<Box<dyn Waiting>>;
    /// Whether the monitor supports [`Disk::overlay`].
    fn has_overlays(&self) -> bool;
    /// How the monitor suspends a guest that was restored from a snapshot.
    fn suspends_by(&self) -> Save;
    /// Restores a guest, waits for its response, and writes the set of pages that it has touched to `file`. Returns false if the
    /// monitor cannot do this.
    fn record_working_set(&self, restore: Restore<'_>, file: &Path) -> Result<bool>;
}

/// A process without a machine.
pub(crate) trait Waiting {
    /// Does the work that does not depend on the snapshot to restore.
    fn prepare(&mut self, memory_mib: u64) -> Result<()>;
    /// Restores a machine, which runs when this returns.
    fn restore(self: Box<Self>, restore: Restore<'_>) -> Result<Box<dyn Running>>;
}

/// A running microVM.
pub(crate) trait Running {
    /// Process id of the monitor.
    fn pid(&self) -> u32;
    /// Waits for the first message of a guest that was booted.
    fn wait_until_ready(&mut self) -> Result<()>;
    /// Path of the socket that accepts `CONNECT <port>`.
    fn vsock(&self) -> PathBuf;
    /// Pauses the guest.
    fn pause(&mut self) -> Result<()>;
    /// Writes a paused guest into `folder`. A diff is written without its base.
    fn save(&mut self, how: Save, folder: &Path) -> Result<()>;
}

/// Checks the guest's first message on `stream`.
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

/// Sends a command to the guest behind `vsock`, and returns its output.
pub(crate) fn command(vsock: &Path, command: &str) -> Result<String> {
    let answer = Command::start(vsock, command, WAIT_TIMEOUT).and_then(Command::finish);
    let answer = answer.with_context(|| format!("asking the guest for `{command}`"))?;
    answer.map_err(|reason| anyhow::anyhow!("`{command}` failed in the guest: {reason}"))
}

/// Greets a restored guest behind `vsock` and returns the time at which the first byte of its response came. The guest may drop the
/// first stream while it learns that its transport was reset; then it is greeted again.
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
            Err(error) if error.kind() == io::ErrorKind::NotFound || started.elapsed() >= WAIT_TIMEOUT => {
                return Err(error).context("greeting the guest");
            }
            Err(_) => dropped += 1,
        }
    }
}

fn greet(vsock: &Path) -> io::Result<Instant> {
    let mut stream = client::connect(vsock, COMMAND_PORT, WAIT_TIMEOUT)?;
    stream.write_all(b"ping\n")?;
    stream.read_exact(&mut [0])?;
    let came = Instant::now();
    BufReader::new(stream).read_line(&mut String::new())?;
    Ok(came)
}

/// Opens a stream to a port of the guest behind `vsock`.
pub(crate) fn connect(vsock: &Path, port: u32) -> Result<UnixStream> {
    client::connect(vsock, port, WAIT_TIMEOUT)
        .with_context(|| format!("connecting to port {port} of the guest"))
}
