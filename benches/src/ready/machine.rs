//! A monitor, its network and its guest, made like the daemon's.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use hearth_host::agent::control::{Control, HookCall};
use hearth_host::limits::LimitsConfig;
use hearth_host::microvm::{Microvm, Restore, create, open};
use hearth_host::network::{Egress, MicrovmNetwork, NetworkConfig, Networks};
use hearth_model::shape::{MemoryClass, Shape};
use hearth_proto::guest::v1::{Hook, Identify, Network};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_client::snapshot::{self, Overlay, Take};
use hearth_vmm_jail::JailConfig;
use serde::Deserialize;

/// Timeout of every wait for a guest, an app or the exit of a process.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of entropy for a guest.
const ENTROPY: usize = 64;
/// First user id of monitors; the daemon uses no ids from here on.
const FIRST_UID: u32 = 700_000;

/// The common parts of all machines.
pub(crate) struct Host {
    vmm: PathBuf,
    image: PathBuf,
    work: PathBuf,
    port: u16,
    shape: Shape,
    networks: Networks,
    made: u32,
}

/// The part of an image's description that is needed here.
#[derive(Deserialize)]
struct Manifest {
    shape: Shape,
}

/// The snapshot that is restored.
pub(crate) enum Source {
    /// The image's snapshot.
    Image,
    /// A suspended state of the image.
    Suspended(PathBuf),
}

/// A machine. Dropping it ends it.
pub(crate) struct Machine {
    microvm: Microvm,
    network: Option<MicrovmNetwork>,
    control: Option<Control>,
    image: PathBuf,
    port: u16,
    /// The machine's run directory, and the folder of its disk's files.
    folders: [PathBuf; 2],
}

impl Host {
    pub(crate) fn open(vmm: &Path, image: &Path, work: &Path, port: u16) -> Result<Self> {
        let manifest = image.join("image.json");
        let text = fs::read(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
        let Manifest { shape } =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", manifest.display()))?;
        let networks = Networks::open(NetworkConfig::default(), None)?;
        let (vmm, image, work) = (vmm.to_owned(), image.to_owned(), work.to_owned());
        Ok(Self { vmm, image, work, port, shape, networks, made: 0 })
    }

    /// Starts a monitor with a virtual machine and a network, which waits for a restore.
    pub(crate) fn monitor(&mut self) -> Result<Machine> {
        self.made += 1;
        let name = format!("ready-{}-{}", std::process::id(), self.made);
        let folders = [Path::new("/run").join(&name), self.work.join(&name)];
        fs::create_dir_all(&folders[1]).with_context(|| format!("making {}", folders[1].display()))?;
        let uid = FIRST_UID + self.made;
        let jail = JailConfig { uid, gid: uid, ..JailConfig::default() };
        let microvm = Microvm::start(&self.vmm, &folders[0], jail)?;
        microvm.client().prepare(self.shape.vcpus, self.shape.memory_mib)?;
        let network = Some(self.networks.create(&name, Egress::None)?);
        let (image, port) = (self.image.clone(), self.port);
        Ok(Machine { microvm, network, control: None, image, port, folders })
    }
}

impl Machine {
    fn overlay(&self) -> PathBuf {
        self.folders[1].join("overlay")
    }

    fn control(&mut self) -> Result<&mut Control> {
        self.control.as_mut().context("the agent has not answered yet")
    }

    /// Builds the machine of a snapshot and resumes it.
    pub(crate) fn restore(&mut self, from: &Source) -> Result<()> {
        let (snapshot, clock) = match from {
            Source::Image => (self.image.join("snapshot"), RestoreClock::Continue),
            Source::Suspended(state) => (state.clone(), RestoreClock::Advance),
        };
        let base = open("opening the image's disk", &self.image.join("disk"))?;
        let overlay = create("making an overlay", &self.overlay())?;
        let disks = vec![DiskSource::Overlay { base, layers: Vec::new(), overlay }];
        let tap = self.network.as_ref().map(MicrovmNetwork::tap).transpose().context("duplicating a tap")?;
        let limits = LimitsConfig::default().of(MemoryClass::DEFAULT.mib().into());
        self.microvm.restore(Restore { snapshot, disks, tap, clock, limits, record: false })?;
        Ok(())
    }

    /// Waits for the agent's first response. The connection stays open.
    pub(crate) async fn answer(&mut self) -> Result<()> {
        self.control = Some(self.microvm.agent().wait_ready(WAIT_TIMEOUT).await?);
        Ok(())
    }

    /// Gives the guest its identity.
    pub(crate) async fn identify(&mut self) -> Result<()> {
        let network = self.network.as_ref().map(|network| Network {
            address: network.address(),
            gateway: network.gateway(),
            mtu: network.mtu().into(),
        });
        let mut entropy = vec![0; ENTROPY];
        File::open("/dev/urandom")?.read_exact(&mut entropy)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let identify = Identify {
            microvm_id: "microvm-00000000-0000-4000-8000-000000000000".into(),
            wall_clock_ns: u64::try_from(now)?,
            entropy,
            network,
            ..Identify::default()
        };
        Ok(self.control()?.identify(identify).await?)
    }

    /// Calls a hook of the app, on the same connection.
    pub(crate) async fn hook(&mut self, hook: Hook) -> Result<()> {
        let body =
            (hook == Hook::Run).then(|| r#"{"microvmId": "microvm", "runHookPayload": ""}"#.to_owned());
        let call = HookCall { hook, port: self.port, timeout: WAIT_TIMEOUT, body };
        let result = self.control()?.call_hook(&call).await?;
        ensure!(result.is_success(), "the app's {hook:?}: {result:?}");
        Ok(())
    }

    /// Freezes the app.
    pub(crate) async fn freeze(&mut self) -> Result<()> {
        self.control()?.freeze(false).await?;
        Ok(())
    }

    pub(crate) fn pause(&self) -> Result<()> {
        Ok(self.microvm.client().pause()?)
    }

    pub(crate) fn resume(&self) -> Result<()> {
        Ok(self.microvm.client().resume()?)
    }

    /// Saves the machine's state. The machine is paused afterwards.
    pub(crate) fn save(&self) -> Result<()> {
        snapshot::take(self.microvm.client(), &self.folders[1].join("suspended"), &self.take()?)?;
        Ok(())
    }

    /// Saves and ends the machine. Its state outlives this value.
    pub(crate) fn suspend(mut self) -> Result<PathBuf> {
        let state = self.folders[1].join("suspended");
        snapshot::suspend(self.microvm.client(), &state, &self.take()?)?;
        self.microvm.reap(WAIT_TIMEOUT)?;
        self.leave()?;
        Ok(state)
    }

    fn take(&self) -> Result<Take> {
        let path = self.overlay();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let overlay = Overlay::of(0, &path, &file).context("looking at the overlay")?;
        Ok(Take { base: Some(self.image.join("snapshot")), overlays: vec![overlay], ..Take::default() })
    }

    /// Ends the machine.
    pub(crate) fn end(mut self) -> Result<()> {
        self.microvm.client().shutdown()?;
        self.microvm.reap(WAIT_TIMEOUT)?;
        self.leave()
    }

    fn leave(&mut self) -> Result<()> {
        self.network.take().map_or(Ok(()), MicrovmNetwork::remove)?;
        Ok(fs::remove_dir_all(&self.folders[0])?)
    }
}
