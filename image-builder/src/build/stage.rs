//! A microVM with a network, for one step of a build.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_host::agent::control::Control;
use hearth_host::agent::{Agent, AgentError};
use hearth_host::microvm::{Boot, Card, Microvm, Restore};
use hearth_host::network::{Egress, MicrovmNetwork, Owner};
use hearth_model::shape::Shape;
use hearth_proto::guest::v1::{self as proto, FailureCode as AgentFailure};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_jail::JailConfig;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::BuildError;
use super::event::{LogStream, Sink};
use super::settings::Settings;
use super::workspace::{STAGES, Workspace};
use hearth_base::Base;

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

/// A microVM of a build. Dropping it kills the monitor and removes the network.
pub(super) struct Stage {
    microvm: Arc<Microvm>,
    network: Option<MicrovmNetwork>,
    names: Option<JoinHandle<()>>,
    host: Host,
}

impl Stage {
    /// Starts a monitor and makes a network for it. `stage` is one of [`STAGES`].
    pub(super) async fn start(
        host: &Host,
        workspace: &Workspace,
        stage: &'static str,
    ) -> Result<Self, BuildError> {
        let (folder, name) = (workspace.path(stage), workspace.network(stage));
        let number = STAGES.iter().position(|other| *other == stage).unwrap_or_default();
        let uid =
            host.settings.jail.uid + 1 + workspace.number() * 4 + u32::try_from(number).unwrap_or_default();
        let jail = JailConfig { uid, gid: uid, ..host.settings.jail.clone() };
        let host = host.clone();
        // Both steps block for milliseconds, on processes and netlink.
        let made = spawn_blocking(move || -> Result<Self, BuildError> {
            let microvm = Microvm::start(&host.settings.vmm, &folder, jail)?;
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
            Ok(Self { microvm: Arc::new(microvm), network, names: None, host })
        });
        made.await?
    }

    fn tap(&self) -> Result<Option<File>, BuildError> {
        let taps = self.network.as_ref().map(MicrovmNetwork::tap).transpose();
        taps.map_err(|error| BuildError::Platform(format!("duplicating the tap: {error}")))
    }

    /// Boots a guest of the managed base.
    pub(super) async fn boot(
        &mut self,
        base: &Base,
        shape: Shape,
        disks: Vec<DiskSource>,
    ) -> Result<Control, BuildError> {
        let card = match (&self.network, self.tap()?) {
            (Some(network), Some(tap)) => Some(Card { tap, mac: network.mac(), mtu: Some(network.mtu()) }),
            _ => None,
        };
        let (kernel, initramfs): (PathBuf, PathBuf) = (base.kernel(), base.initramfs());
        let boot = Boot { kernel, initramfs, shape, disks, card };
        // The monitor may take long to respond.
        let microvm = Arc::clone(&self.microvm);
        spawn_blocking(move || microvm.boot(boot)).await??;
        self.reach().await
    }

    /// Restores a guest.
    pub(super) async fn restore(&mut self, restore: Restore) -> Result<Control, BuildError> {
        let (microvm, restore) = (Arc::clone(&self.microvm), Restore { tap: self.tap()?, ..restore });
        spawn_blocking(move || microvm.restore(restore)).await??;
        self.reach().await
    }

    /// Waits for the agent, and answers the guest's DNS queries from then on.
    async fn reach(&mut self) -> Result<Control, BuildError> {
        let ready = tokio::select! {
            ready = self.agent().wait_ready(BOOT) => ready.map_err(BuildError::from),
            ended = self.microvm.exited() => Err(BuildError::Platform(match ended {
                Ok(reason) => format!("the guest ended while it booted ({:?}): {}", reason.kind(), reason.message),
                Err(error) => error.to_string(),
            })),
        };
        let control = ready.map_err(|error| match self.microvm.last_words() {
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
        &self.microvm
    }

    pub(super) fn agent(&self) -> &Agent {
        self.microvm.agent()
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
        Ok(spawn_blocking(move || self.microvm.reap(limit)).await??)
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

/// Whether the agent reports a mistake of the user: a program, user or folder that does not exist.
pub(super) fn is_users_fault(error: &AgentError) -> bool {
    matches!(error, AgentError::Refused { code: AgentFailure::NotFound | AgentFailure::Invalid, .. })
}
