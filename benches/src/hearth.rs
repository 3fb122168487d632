//! Hearth: a jailed `hearth-vmm` process, driven through its client.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hearth_proto::vmm::v1 as proto;
use hearth_test_guest::READY_PORT;
use hearth_vmm::devices::virtio::vsock::broker::Broker;
use hearth_vmm_api::config::restore::RestoreConfig;
use hearth_vmm_api::config::{DiskConfig, DiskSource, MachineConfig, VsockConfig};
use hearth_vmm_client::{Launch, SaveConfig, Vmm};
use hearth_vmm_jail::JailConfig;

use crate::vm::{self, COMMAND_LINE, Disk, Files, Guest, Monitor, Restore, Running, Save, Waiting};

/// Hearth as a kind of monitor.
#[derive(Debug)]
pub(crate) struct Hearth {
    binary: PathBuf,
    files: Files,
    jail: JailConfig,
    steps: bool,
}

impl Hearth {
    /// The monitor in `HEARTH_VMM`. With `steps`, it prints the steps of saving and restoring.
    pub(crate) fn new(files: Files, jail: JailConfig, steps: bool) -> Result<Self> {
        Ok(Self { binary: vm::path("HEARTH_VMM")?, files, jail, steps })
    }

    fn config(&self, guest: Guest<'_>, vsock: &Path, broker: OwnedFd) -> Result<MachineConfig> {
        let disks = guest.disk.map(|disk| open_disk(disk, vsock)).transpose()?;
        Ok(MachineConfig {
            memory_mib: guest.memory_mib,
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
    Ok(DiskConfig { source, serial: String::new(), rate_limiter: None, room: None })
}

impl Monitor for Hearth {
    fn name(&self) -> &'static str {
        "hearth"
    }

    fn boot(&self, folder: &Path, guest: Guest<'_>) -> Result<Box<dyn Running>> {
        let vsock = folder.join("vsock");
        let (broker, monitors_end) = Broker::pair().context("making a broker")?;
        let config = self.config(guest, &vsock, monitors_end)?;
        let vmm = Launch::new(&self.binary, &folder.join("run")).jail(self.jail.clone()).start()?;
        vmm.client().create(config)?;
        vmm.client().boot()?;
        Ok(Box::new(Machine { vmm, vsock, broker: Some(broker), restored: None, steps: self.steps }))
    }

    fn start(&self, folder: &Path) -> Result<Box<dyn Waiting>> {
        let vmm = Launch::new(&self.binary, &folder.join("run")).jail(self.jail.clone()).start()?;
        Ok(Box::new(Empty { vmm, prepared: false, steps: self.steps }))
    }

    fn has_overlays(&self) -> bool {
        true
    }

    fn suspends_by(&self) -> Save {
        Save::Diff
    }

    fn record_working_set(&self, restore: Restore<'_>, file: &Path) -> Result<bool> {
        let vmm = Launch::new(&self.binary, &restore.folder.join("run")).jail(self.jail.clone()).start()?;
        let (config, vsock) = restore_config(restore)?;
        let userfaultfd = Some(open_writable(Path::new("/dev/userfaultfd"))?);
        vmm.client().restore(RestoreConfig { userfaultfd, ..config })?;
        vm::first_byte(&vsock)?;
        vmm.client().save_working_set(create(file)?)?;
        Ok(true)
    }
}

/// The configuration of a restore, and the path of the guest's vsock socket.
fn restore_config(restore: Restore<'_>) -> Result<(RestoreConfig, PathBuf)> {
    let vsock = restore.folder.join("vsock");
    let snapshot = restore.snapshot;
    let config = RestoreConfig {
        diff: snapshot.diff.as_deref().map(open).transpose()?,
        working_set: restore.working_set.map(open).transpose()?,
        vsock_listener: Some(UnixListener::bind(&vsock).context("making the vsock socket")?),
        resume: true,
        ..RestoreConfig::new(open(&snapshot.state)?, open(&snapshot.memory)?)
    };
    Ok((config, vsock))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

fn open_writable(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

fn create(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path);
    file.with_context(|| format!("making {}", path.display()))
}

/// Prints the times of an operation's steps.
fn show(what: &str, steps: &[proto::Step], pages: &[proto::Counter]) {
    eprint!("  {what}:");
    for step in steps {
        eprint!(" {} {} us,", step.name, step.nanoseconds / 1000);
    }
    for counter in pages {
        eprint!(" {} {},", counter.name, counter.value);
    }
    eprintln!();
}

/// A process without a machine.
struct Empty {
    vmm: Vmm,
    prepared: bool,
    steps: bool,
}

impl Waiting for Empty {
    fn prepare(&mut self, memory_mib: u64) -> Result<()> {
        self.vmm.client().prepare(1, memory_mib)?;
        self.prepared = true;
        Ok(())
    }

    fn restore(self: Box<Self>, restore: Restore<'_>) -> Result<Box<dyn Running>> {
        let (config, vsock) = restore_config(restore)?;
        let client = self.vmm.client();
        // A prepared process has opened /dev/kvm already.
        let restored =
            if self.prepared { client.restore_with_kvm(config, None) } else { client.restore(config) }?;
        Ok(Box::new(Machine {
            vmm: self.vmm,
            vsock,
            broker: None,
            restored: Some(restored),
            steps: self.steps,
        }))
    }
}

struct Machine {
    vmm: Vmm,
    vsock: PathBuf,
    broker: Option<Broker>,
    /// The monitor's report of a restore.
    restored: Option<proto::Restored>,
    steps: bool,
}

impl Running for Machine {
    fn pid(&self) -> u32 {
        self.vmm.pid()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let broker = self.broker.as_mut().context("a restored guest has had its first word")?;
        let request = broker.next().context("waiting for the guest's first word")?;
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

    fn pause(&mut self) -> Result<()> {
        Ok(self.vmm.client().pause()?)
    }

    fn save(&mut self, how: Save, folder: &Path) -> Result<()> {
        let kind = match how {
            Save::Full => proto::SaveKind::Full,
            Save::Diff => proto::SaveKind::Diff,
        };
        let (state, memory) = (create(&folder.join("state"))?, create(&folder.join("memory"))?);
        let saved = self.vmm.client().save(SaveConfig::new(kind, state, memory))?;
        if self.steps {
            show("save", &saved.steps, &saved.pages);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.steps
            && let Some(restored) = &self.restored
        {
            show("restore", &restored.steps, &restored.pages);
            let metrics = self.vmm.client().metrics().unwrap_or_default();
            let jail = metrics.groups.iter().find(|group| group.name == "jail");
            show("jail", &[], jail.map_or(&[], |group| &group.counters));
        }
    }
}
