//! The resources of this host that a machine uses: files, taps, sockets. Shared by `boot` and `restore`.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hearth_vmm::devices::virtio::vsock::broker::Broker;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_client::snapshot::Overlay;

use super::args::{Disk, DiskMode};

/// Opens a file for reading, and also for writing if `write` is set.
pub(super) fn open(what: &str, path: &Path, write: bool) -> anyhow::Result<File> {
    let file = File::options().read(true).write(write).open(path);
    file.with_context(|| format!("opening the {what} {}", path.display()))
}

/// A file that this program created. It is removed on drop, unless it is kept.
#[derive(Debug)]
pub(super) struct NewFile(Option<PathBuf>);

impl NewFile {
    /// Keeps the file.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path); // the file may have been removed already
        }
    }
}

/// The disks of a machine.
#[derive(Debug, Default)]
pub(super) struct Disks {
    /// Files of the disks, in the order in which the guest sees the disks.
    pub(super) sources: Vec<DiskSource>,
    /// Overlays of the disks.
    pub(super) overlays: Vec<Overlay>,
    /// Overlays that were created here.
    pub(super) new: Vec<NewFile>,
}

impl Disks {
    /// Opens the disks, and creates overlays that do not exist.
    pub(super) fn open(disks: &[Disk]) -> anyhow::Result<Self> {
        let mut opened = Self::default();
        for (index, disk) in disks.iter().enumerate() {
            let source = match &disk.mode {
                DiskMode::ReadOnly => DiskSource::ReadOnly(open("disk", &disk.path, false)?),
                DiskMode::Writable => DiskSource::Writable(open("disk", &disk.path, true)?),
                DiskMode::Overlay(path) => {
                    let base = open("disk", &disk.path, false)?;
                    let overlay = opened.open_overlay(index, path);
                    let overlay =
                        overlay.with_context(|| format!("opening the overlay {}", path.display()))?;
                    DiskSource::Overlay { base, layers: Vec::new(), overlay }
                }
            };
            opened.sources.push(source);
        }
        Ok(opened)
    }

    fn open_overlay(&mut self, index: usize, path: &Path) -> std::io::Result<File> {
        let exists = path.exists();
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if !exists {
            self.new.push(NewFile(Some(path.to_owned())));
        }
        self.overlays.push(Overlay::of(index, path, &file)?);
        Ok(file)
    }
}

/// A socket file. It is removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the file may have been removed already
    }
}

/// The host's side of a vsock device.
#[derive(Debug)]
pub(super) struct VsockHost {
    /// For the monitor: the socket to which clients connect.
    pub(super) listener: UnixListener,
    /// For the monitor: the connection to the broker, which provides connections to the host.
    pub(super) broker: OwnedFd,
    /// Must be held while the machine runs.
    pub(super) file: SocketFile,
}

impl VsockHost {
    /// Listens at `path`, and serves the guest's connections to port P of the host at `<path>_P`.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("making the vsock socket {}", path.display()))?;
        let file = SocketFile(path.to_owned());
        let (broker, monitors_end) = Broker::pair().context("making the vsock broker")?;
        let prefix = path.to_owned();
        // The thread stops when the monitor exits, because the monitor holds the other end.
        std::thread::spawn(move || broker.serve_path_prefix(&prefix));
        Ok(Self { listener, broker: monitors_end, file })
    }
}
