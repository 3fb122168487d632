//! Hearth: a jailed `hearth-vmm` process, driven through its client.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hearth_test_guest::READY_PORT;
use hearth_vmm::client::{Launch, Vmm};
use hearth_vmm::config::{DiskConfig, DiskSource, MachineConfig, VsockConfig};
use hearth_vmm::devices::virtio::vsock::broker::Broker;
use hearth_vmm::jail::JailConfig;

use crate::vm::{self, COMMAND_LINE, Disk, Files, Monitor, Running};

/// The kind.
#[derive(Debug)]
pub(crate) struct Hearth {
    binary: PathBuf,
    files: Files,
    jail: JailConfig,
}

impl Hearth {
    /// The monitor that `HEARTH_VMM` names.
    pub(crate) fn new(files: Files, jail: JailConfig) -> Result<Self> {
        Ok(Self { binary: vm::path("HEARTH_VMM")?, files, jail })
    }

    fn config(&self, disk: Option<&Disk>, vsock: &Path, broker: OwnedFd) -> Result<MachineConfig> {
        let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
        let disks = disk.map(|disk| open_disk(disk, vsock)).transpose()?;
        Ok(MachineConfig {
            memory_mib: self.files.memory_mib,
            initramfs: Some(open(&self.files.initramfs)?),
            command_line: COMMAND_LINE.into(),
            disks: disks.into_iter().collect(),
            vsock: Some(VsockConfig {
                guest_cid: 3,
                listener: Some(UnixListener::bind(vsock).context("making the vsock socket")?),
                broker: Some(broker),
            }),
            ..MachineConfig::new(open(&self.files.kernel)?)
        })
    }
}

fn open_disk(disk: &Disk, vsock: &Path) -> Result<DiskConfig> {
    let open = |path: &Path| {
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        options.with_context(|| format!("opening {}", path.display()))
    };
    let base = open(&disk.path)?;
    let source = if disk.overlay {
        DiskSource::Overlay { base, layers: Vec::new(), overlay: open(&vsock.with_extension("overlay"))? }
    } else {
        DiskSource::Writable(base)
    };
    Ok(DiskConfig { source, serial: String::new(), rate_limiter: None })
}

impl Monitor for Hearth {
    fn name(&self) -> &'static str {
        "hearth"
    }

    fn boot(&self, folder: &Path, disk: Option<&Disk>) -> Result<Box<dyn Running>> {
        let vsock = folder.join("vsock");
        let (broker, monitors_end) = Broker::pair().context("making a broker")?;
        let config = self.config(disk, &vsock, monitors_end)?;
        let vmm = Launch::new(&self.binary, &folder.join("run")).jail(self.jail.clone()).start()?;
        vmm.client().create(config)?;
        vmm.client().boot()?;
        Ok(Box::new(Machine { vmm, vsock, broker }))
    }

    fn has_overlays(&self) -> bool {
        true
    }
}

struct Machine {
    vmm: Vmm,
    vsock: PathBuf,
    broker: Broker,
}

impl Running for Machine {
    fn pid(&self) -> u32 {
        self.vmm.pid()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let request = self.broker.next().context("waiting for the guest's first word")?;
        let Some(request) = request.filter(|request| request.port() == READY_PORT) else {
            bail!("the guest ended, or connected elsewhere first");
        };
        let (ours, theirs) = UnixStream::pair().context("making a socket pair")?;
        request.accept(&theirs).context("answering the monitor")?;
        vm::check_word(ours)
    }

    fn vsock(&self) -> PathBuf {
        self.vsock.clone()
    }
}
