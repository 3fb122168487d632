//! What the measurements need of a microVM, whichever monitor runs it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hearth_test_guest::client::{self, Command};
use hearth_test_guest::{READY_LINE, READY_PORT};

/// When a measurement gives up on a guest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// What both monitors boot.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) memory_mib: u64,
}

impl Files {
    /// The files that `cargo xtask bench` names in the environment.
    pub(crate) fn from_environment(memory_mib: u64) -> Result<Self> {
        Ok(Self { kernel: path("HEARTH_GUEST_KERNEL")?, initramfs: path("HEARTH_GUEST_INITRD")?, memory_mib })
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

/// A kind of monitor.
pub(crate) trait Monitor {
    /// Its name in the table.
    fn name(&self) -> &'static str;
    /// Starts a process and boots a guest in it; returns at once. The folder is the microVM's own.
    fn boot(&self, folder: &Path, disk: Option<&Disk>) -> Result<Box<dyn Running>>;
    /// Whether it can do what [`Disk::overlay`] asks for.
    fn has_overlays(&self) -> bool;
}

/// A microVM that runs.
pub(crate) trait Running {
    /// Process id of its monitor.
    fn pid(&self) -> u32;
    /// Waits for the guest's first word.
    fn wait_until_ready(&mut self) -> Result<()>;
    /// The socket that takes `CONNECT <port>`.
    fn vsock(&self) -> PathBuf;
}

/// Waits at the socket of a guest's ready port for its first word.
pub(crate) fn wait_for_word(listener: &UnixListener) -> Result<()> {
    let (stream, _) = listener.accept().context("waiting for the guest's first word")?;
    check_word(stream)
}

/// Reads the guest's first word from `stream`.
pub(crate) fn check_word(stream: std::os::unix::net::UnixStream) -> Result<()> {
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

/// Opens a stream to a port of the guest behind `vsock`.
pub(crate) fn connect(vsock: &Path, port: u32) -> Result<std::os::unix::net::UnixStream> {
    client::connect(vsock, port, PATIENCE).with_context(|| format!("connecting to port {port} of the guest"))
}
