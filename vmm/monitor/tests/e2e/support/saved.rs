//! Snapshots in folders, and guests that are restored from them.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::restore::{RestoreClock, RestoreConfig};
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_client::{ClientError, SaveConfig, SaveKind};
use tempfile::TempDir;

use super::guest::{Guest, Start};
use super::{Console, HostPorts, Metal};

/// The files of a snapshot.
pub(crate) struct Saved {
    /// The folder that contains the files.
    pub(crate) folder: TempDir,
    /// The monitor's response to the save.
    pub(crate) answer: proto::Saved,
    /// The memory file of the snapshot on which this one builds.
    pub(crate) base: Option<PathBuf>,
    /// Size of the guest's memory in MiB.
    pub(crate) memory_mib: u64,
}

/// Creates an empty file, open for reading and writing.
pub(crate) fn create(path: &Path) -> File {
    File::options().create_new(true).read(true).write(true).open(path).unwrap()
}

impl Saved {
    /// Returns the path of the file `state`.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the path of the file `memory`.
    pub(crate) fn memory(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    /// Reads the file `state`.
    pub(crate) fn read_state(&self) -> proto::SavedMachine {
        state_file::read(&File::open(self.state()).unwrap()).unwrap()
    }

    /// Returns the path of the saved layer of disk `index`.
    pub(crate) fn layer(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("disk{index}"))
    }

    /// Returns the number of pages of `kind` that the monitor counted.
    pub(crate) fn pages(&self, kind: &str) -> u64 {
        let counter = self.answer.pages.iter().find(|counter| counter.name == kind);
        counter.unwrap_or_else(|| panic!("no pages of kind {kind}")).value
    }

    /// Returns the number of bytes that the memory file occupies on the disk.
    pub(crate) fn memory_on_disk(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        self.memory().metadata().unwrap().blocks() * 512
    }

    /// Prepares a guest that is to be restored from this snapshot.
    pub(crate) fn clone_on(&self, metal: &Metal) -> Clone {
        let open = |path: &Path| File::open(path).unwrap();
        let mut config = match &self.base {
            Some(base) => {
                let mut config = RestoreConfig::new(open(&self.state()), open(base));
                config.diff = Some(open(&self.memory()));
                config
            }
            None => RestoreConfig::new(open(&self.state()), open(&self.memory())),
        };
        config.resume = true;
        Clone::new(metal, config, self.memory_mib, self.base.clone().unwrap_or_else(|| self.memory()))
    }
}

impl Guest {
    /// Pauses the guest and writes it into a folder; the guest stays paused.
    pub(crate) fn save(&self, kind: SaveKind) -> Saved {
        self.save_layers(kind, &[])
    }

    /// Saves as [`Self::save`] does, with the layers of these disks.
    pub(crate) fn save_layers(&self, kind: SaveKind, disks: &[usize]) -> Saved {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| create(&folder.path().join(name));
        let mut config = SaveConfig::new(kind, file("state"), file("memory"));
        config.layers = disks.iter().map(|&index| (index, file(&format!("disk{index}")))).collect();
        let answer = self.client().save(config).unwrap();
        let base = if kind == SaveKind::Diff { self.base.clone() } else { None };
        Saved { folder, answer, base, memory_mib: self.memory_mib }
    }
}

/// A guest that is about to be restored from a snapshot.
pub(crate) struct Clone {
    /// The parameters for the monitor. Vsock, console and exit report are set already; the guest runs immediately.
    pub(crate) config: RestoreConfig,
    start: Start,
}

impl Clone {
    pub(crate) fn new(metal: &Metal, mut config: RestoreConfig, memory_mib: u64, base: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ports, broker) = HostPorts::open();
        config.vsock_listener = Some(UnixListener::bind(super::guest::vsock_path(folder.path())).unwrap());
        config.vsock_broker = Some(broker);
        let (console, console_writer) = io::pipe().unwrap();
        config.console_output = Some(console_writer.into());
        let (report, report_writer) = io::pipe().unwrap();
        config.exit_report = Some(report_writer.into());
        let start = Start {
            folder,
            metal: metal.clone(),
            ports,
            console: Console::new(console),
            report,
            memory_mib,
            base: Some(base),
        };
        Self { config, start }
    }

    /// Returns a path for a file of the test in the guest's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.start.folder.path().join(name)
    }

    /// Sets the disks' files, attached in the same way as when the snapshot was taken.
    pub(crate) fn disks(mut self, disks: Vec<DiskSource>) -> Self {
        self.config.disks = disks;
        self
    }

    /// Sets the time to which the guest's clock is set.
    pub(crate) fn clock(mut self, clock: RestoreClock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Restores the guest.
    pub(crate) fn restore(self) -> Guest {
        self.attempt().unwrap()
    }

    /// Tries to restore the guest.
    pub(crate) fn attempt(self) -> Result<Guest, ClientError> {
        let Self { config, start } = self;
        let guest = start.launch();
        guest.client().restore(config)?;
        Ok(guest)
    }

    /// Checks that a monitor refuses to restore the guest, and ends because of that; returns the reason.
    pub(crate) fn refused(self) -> String {
        let Self { config, start } = self;
        let guest = start.launch();
        let message = match guest.client().restore(config) {
            Err(ClientError::Refused { message, .. }) => message,
            other => panic!("it should have been refused: {other:?}"),
        };
        let ended = guest.wait();
        assert!(ended.status.success(), "{ended:?}");
        // The report is one of the files that a restore is passed: without a configuration there is none.
        if !ended.report.is_empty() {
            ended.assert_kind("monitor_error");
        }
        message
    }
}

impl Metal {
    /// Restores a guest from an opened snapshot folder; the guest runs immediately.
    pub(crate) fn restore_folder(&self, mut config: RestoreConfig, memory_mib: u64) -> Guest {
        config.resume = true;
        Clone::new(self, config, memory_mib, PathBuf::new()).restore()
    }
}
