//! A microVM with a network, for one step of a build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::control::Control;
use hearth_host::agent::{Agent, AgentError};
use hearth_host::groups::Share;
use hearth_host::microvm::{Boot, Card, Microvm, Restore};
use hearth_host::network::{Egress, MicrovmNetwork, Owner};
use hearth_model::shape::{MemoryClass, Shape};
use hearth_proto::guest::v1::{self as proto, FailureCode as AgentFailure};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_jail::JailConfig;
use tokio::task::{JoinHandle, spawn_blocking};

use super::container::SCRATCH_EXTRA;
use super::error::{BuildError, file};
use super::event::{LogStream, Sink};
use super::record::GroupRecord;
use super::settings::Settings;
use super::uids::UserId;
use super::workspace::Workspace;
use hearth_base::Base;

/// What files have beside what is in them: maps, checksums, trailers.
const FILE_OVERHEAD: u64 = 1 << 30;

/// Deadline for a guest to boot. An emulated one takes seconds.
const BOOT: Duration = Duration::from_secs(120);

/// The common part of all microVMs of one build.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) settings: Arc<Settings>,
    pub(super) egress: Egress,
    /// The account whose connections and queries those of the build are.
    pub(super) account: String,
    pub(super) sink: Sink,
}

/// The monitor of a step with what it has on the host, in the order in which that goes: its user id is free again when nothing is left.
#[derive(Debug)]
struct Owned {
    microvm: Microvm,
    _group: Option<GroupRecord>,
    _uid: Box<dyn UserId>,
}

/// What the microVM of a step is for, and how much of the host it may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allotment {
    /// One of [`STAGES`](super::workspace::STAGES).
    pub(super) stage: &'static str,
    /// Its memory and CPUs.
    pub(super) shape: Shape,
    /// The memory class in MiB whose share it has.
    pub(super) class_mib: u64,
}

impl Allotment {
    /// That of a microVM of the image itself.
    pub(super) fn of_image(stage: &'static str, shape: Shape, class: MemoryClass) -> Self {
        Self { stage, shape, class_mib: class.mib().into() }
    }
}

/// A microVM of a build. Dropping it kills the monitor and removes the network.
pub(super) struct Stage {
    owned: Arc<Owned>,
    network: Option<MicrovmNetwork>,
    names: Option<JoinHandle<()>>,
    shape: Shape,
    limits: DeviceLimits,
    host: Host,
}

impl Owned {
    fn start(settings: &Settings, folder: &Path, share: Share) -> Result<Self, BuildError> {
        let uid = Arc::clone(&settings.user_ids).take().ok_or_else(|| {
            BuildError::Platform("all user ids of monitors are in use: give more (jail.uids)".into())
        })?;
        let number = uid.number();
        fs::create_dir_all(folder).map_err(file("making the run directory", folder))?;
        // No process has this user id, so a group of that name is left over.
        let leftover = settings.groups.remove(number);
        leftover.map_err(|error| BuildError::Platform(error.to_string()))?;
        let cgroup = settings.groups.limited(number, share, folder);
        let group = cgroup.as_ref().map(|group| GroupRecord::write(folder, &group.path())).transpose()?;
        let fsize = settings.jail.fsize.or(Some(largest_file(share)));
        let jail = JailConfig { uid: number, gid: number, cgroup, fsize, ..settings.jail.clone() };
        let microvm = Microvm::start(&settings.vmm, folder, jail)?;
        Ok(Self { microvm, _group: group, _uid: uid })
    }
}

/// Bytes that the largest file of a build's microVM has at most: its memory, a root disk of any class, or scratch, and what comes with
/// them. A monitor that its guest has taken over can make none of its files larger.
fn largest_file(share: Share) -> u64 {
    let memory = share.shape.memory_mib.saturating_mul(1 << 20);
    let disk = MemoryClass::LARGEST.disk_bytes().saturating_add(SCRATCH_EXTRA);
    memory.max(disk).saturating_add(FILE_OVERHEAD)
}

impl Stage {
    /// Starts a monitor and makes a network for it.
    pub(super) async fn start(
        host: &Host,
        workspace: &Workspace,
        allotment: Allotment,
    ) -> Result<Self, BuildError> {
        let Allotment { stage, shape, class_mib } = allotment;
        let (folder, name) = (workspace.path(stage), workspace.network(stage));
        let (host, limits) = (host.clone(), host.settings.limits.of(class_mib));
        // Both steps block for milliseconds, on processes and netlink.
        let made = spawn_blocking(move || -> Result<Self, BuildError> {
            let owned = Owned::start(&host.settings, &folder, Share { shape, class_mib })?;
            let network = match host.egress {
                Egress::Internet => {
                    let network = host.settings.networks.create(&name, host.egress)?;
                    // If this fails, the next sweep removes the network.
                    if let Some(slot) = network.slot() {
                        host.settings.networks.assign(slot, Owner::of(&host.account))?;
                    }
                    Some(network)
                }
                Egress::None => None,
            };
            Ok(Self { owned: Arc::new(owned), network, names: None, shape, limits, host })
        });
        made.await?
    }

    fn tap(&self) -> Result<Option<File>, BuildError> {
        let taps = self.network.as_ref().map(MicrovmNetwork::tap).transpose();
        taps.map_err(|error| BuildError::Platform(format!("duplicating the tap: {error}")))
    }

    /// Boots a guest of the managed base.
    pub(super) async fn boot(&mut self, base: &Base, disks: Vec<DiskSource>) -> Result<Control, BuildError> {
        let card = match (&self.network, self.tap()?) {
            (Some(network), Some(tap)) => Some(Card { tap, mac: network.mac(), mtu: Some(network.mtu()) }),
            _ => None,
        };
        let (kernel, initramfs): (PathBuf, PathBuf) = (base.kernel(), base.initramfs());
        let boot = Boot { kernel, initramfs, shape: self.shape, disks, card, limits: self.limits };
        // The monitor may take long to respond.
        let owned = Arc::clone(&self.owned);
        spawn_blocking(move || owned.microvm.boot(boot)).await??;
        self.reach().await
    }

    /// Restores a guest.
    pub(super) async fn restore(&mut self, restore: Restore) -> Result<Control, BuildError> {
        let restore = Restore { tap: self.tap()?, limits: self.limits, ..restore };
        let owned = Arc::clone(&self.owned);
        spawn_blocking(move || owned.microvm.restore(restore)).await??;
        self.reach().await
    }

    /// Waits for the agent, and answers the guest's DNS queries from then on.
    async fn reach(&mut self) -> Result<Control, BuildError> {
        let ready = tokio::select! {
            ready = self.agent().wait_ready(BOOT) => ready.map_err(BuildError::from),
            ended = self.microvm().exited() => Err(BuildError::Platform(match ended {
                Ok(reason) => format!("the guest ended while it booted ({:?}): {}", reason.kind(), reason.message),
                Err(error) => error.to_string(),
            })),
        };
        let control = ready.map_err(|error| match self.microvm().last_words() {
            words if words.is_empty() => error,
            words => BuildError::Platform(format!("{error}; the guest's console says:\n{words}")),
        })?;
        if self.network.is_some() {
            let resolver = Arc::new(self.host.settings.resolvers.of_guest(&self.host.account));
            let agent = self.agent().clone();
            self.names = Some(tokio::spawn(async move {
                let answer = move |query: Vec<u8>| {
                    let resolver = Arc::clone(&resolver);
                    async move { resolver.answer(&query).await }
                };
                let _ = agent.serve_names(answer).await; // ends with the guest
            }));
        }
        Ok(control)
    }

    /// The guest's network, in the form that the agent expects.
    pub(super) fn guest_network(&self) -> Option<proto::Network> {
        self.network.as_ref().map(|network| proto::Network {
            address: network.address(),
            gateway: network.gateway(),
            mtu: network.mtu().into(),
        })
    }

    pub(super) fn microvm(&self) -> &Microvm {
        &self.owned.microvm
    }

    pub(super) fn agent(&self) -> &Agent {
        self.owned.microvm.agent()
    }

    /// Reports the app's lines as events of `stream`, from now until the guest ends.
    pub(super) fn follow_logs(&self, stream: LogStream) -> JoinHandle<()> {
        let (agent, sink) = (self.agent().clone(), self.host.sink.clone());
        tokio::spawn(async move {
            if let Ok(logs) = agent.logs(0).await {
                logs.follow(|record| sink.log(stream, record.source(), &record.line)).await;
            }
        })
    }

    /// Waits for the monitor to exit, which it or its guest was requested to do; kills it after `limit`.
    pub(super) async fn finish(self, limit: Duration) -> Result<(), BuildError> {
        Ok(spawn_blocking(move || self.owned.microvm.reap(limit)).await??)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(names) = self.names.take() {
            names.abort();
        }
        if let Some(network) = self.network.take() {
            let _ = network.remove(); // the next sweep removes what could not be removed here
        }
    }
}

/// Whether the agent reports a mistake of the user: a program, user or folder that does not exist, or a program that cannot be executed.
pub(super) fn is_users_fault(error: &AgentError) -> bool {
    match error {
        AgentError::Refused { code: AgentFailure::NotFound | AgentFailure::Invalid, .. } => true,
        // So says the agent of bases of release 0.2.
        AgentError::Refused { code: AgentFailure::System, message } => {
            message.starts_with("executing ") && message.contains("Exec format error")
        }
        _ => false,
    }
}
