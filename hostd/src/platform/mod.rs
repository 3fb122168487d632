//! The platform: makes microVMs from processes, networks and files.
//!
//! The drivers use microVMs only through [`Platform`] and [`Guest`]. `host` is the implementation on this host; tests and
//! benches use the double (`double`, a feature outside this crate's own tests), which fails, hangs and reports wrong
//! results on request.
//!
//! Every operation can be repeated: after a crash of the daemon, the driver requests again what it had requested, and
//! the platform finds what exists already. A caller may stop waiting: dropping a future abandons its operation, and
//! half-made parts are removed, at the latest with the microVM. Everything that belongs to a microVM is found by its
//! id: its run directory (process), its folder (overlay, suspended state), its network.

#[cfg(any(test, feature = "double"))]
pub mod double;
pub mod host;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};
pub use hearth_host::shell::Streams;
use hearth_model::build::ImageBuild;
use hearth_model::hooks::{Hook, HookOutcome, Hooks};
use hearth_model::id::{AccountId, MicrovmId};
use hearth_model::role::RoleUse;
use tokio::io::{AsyncRead, AsyncWrite};

/// The specification of a microVM. It is the same for the launch, each resume, and the adoption.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Id of the microVM.
    pub id: MicrovmId,
    /// Account that owns the microVM.
    pub account: AccountId,
    /// ARN of the image.
    pub image_arn: String,
    /// Name of the image.
    pub image_name: String,
    /// Version of the image, like `1.0`.
    pub image_version: String,
    /// The build whose files the microVM runs from.
    pub build: ImageBuild,
    /// Baseline memory in MiB: decides the microVM's share of the CPUs.
    pub memory_mib: u32,
    /// The hooks of the image, for [`Guest::call_hook`].
    pub hooks: Hooks,
    /// The role whose credentials the guest gets, as it was named in a request. [`Self::execution_role`] adds the
    /// account that must be allowed to use the role.
    pub execution_role_arn: Option<String>,
    /// The networks that the guest may reach.
    pub egress: hearth_host::network::Egress,
    /// The log stream for the app's output; none if output is discarded.
    pub log: Option<LogTarget>,
    /// Payload for the `/run` hook.
    pub run_hook_payload: String,
    /// How often the microVM was suspended: the newest suspended state has this number.
    pub suspends: u64,
}

impl Spec {
    /// The role whose credentials the guest gets, as used by the microVM's account.
    #[must_use]
    pub fn execution_role(&self) -> Option<RoleUse> {
        self.execution_role_arn.as_ref().map(|role_arn| RoleUse::new(self.account.as_str(), role_arn))
    }
}

/// A log stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// Log group.
    pub group: String,
    /// Log stream.
    pub stream: String,
}

/// How a microVM has exited without a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The app's main process exited with this status.
    App(u32),
    /// The guest's kernel or the agent: the guest powered off, or caused an error after which no machine can
    /// continue. Contains the cause.
    Guest(String),
    /// The monitor process exited; contains the cause.
    Monitor(String),
}

/// The error of an implementation of the platform.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation of the platform failed. The microVM is as before, or gone.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The user's role yields no credentials: it cannot be assumed, or is not for the microVM's account.
    #[error(transparent)]
    Role(Cause),
    /// The host has no capacity left: memory, disk, networks, user ids.
    #[error(transparent)]
    Capacity(Cause),
    /// The operation failed in another way.
    #[error(transparent)]
    Failed(Cause),
}

/// Why a suspend did not happen. The microVM and its app run on.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// [`Guest::cancel_suspend`] was called in time.
    #[error("the suspend was cancelled")]
    Cancelled,
    /// The suspend failed.
    #[error(transparent)]
    Failed(Cause),
}

/// A connection to a port of the app.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why a connection to the app or a shell in its container could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The app does not listen on the port, or does not accept the connection.
    #[error(transparent)]
    App(Cause),
    /// The microVM does not respond.
    #[error(transparent)]
    Guest(Cause),
}

/// What was found of a microVM that an earlier daemon served.
pub enum Found {
    /// The microVM's process runs.
    Running(Arc<dyn Guest>),
    /// There is no process, and the complete suspended state with the requested number exists.
    Suspended,
    /// There is neither.
    Nothing,
}

/// Makes and removes microVMs.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// Makes a microVM from its image: process, network and overlay are made, the guest is restored and identified,
    /// and its output is followed. The caller has to call `/run`. Remains of an earlier launch of the same id are
    /// removed first.
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError>;

    /// Makes a microVM from its suspended state with the number `spec.suspends`, like [`Self::launch`]. That state
    /// stays until the microVM is suspended again or discarded. A process that an earlier resume has left is killed
    /// first: if this call fails, the state exists and no process. The caller has to call `/resume`.
    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError>;

    /// Finds what an earlier daemon has left. A process that was being saved as number `suspends` is killed if its
    /// state is complete, and otherwise continues. The result is definite.
    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError>;

    /// Kills the microVM's process, if there is one, and removes everything of it: network, run directory, overlay,
    /// suspended state. Succeeds if there is nothing.
    async fn discard(&self, id: &MicrovmId) -> Result<(), PlatformError>;

    /// Removes the files of a build. Succeeds if there are none.
    async fn remove_build(&self, build: &ImageBuild) -> Result<(), PlatformError>;

    /// Removes processes, networks and folders of all other microVMs, and the files of all other builds.
    async fn sweep(
        &self,
        microvms: &HashSet<MicrovmId>,
        builds: &HashSet<ImageBuild>,
    ) -> Result<(), PlatformError>;
}

/// A running microVM. Dropping this leaves the microVM running.
#[async_trait]
pub trait Guest: Send + Sync + std::fmt::Debug {
    /// Calls a hook with the timeout of the image, unless the hook is disabled.
    async fn call_hook(&self, hook: Hook) -> HookOutcome;

    /// Saves the microVM as suspended state `number` and terminates it. On success the state is durable, and the one
    /// before it is removed.
    async fn suspend(&self, number: u64) -> Result<(), SuspendError>;

    /// Cancels a suspend that is under way, if that is still possible.
    async fn cancel_suspend(&self);

    /// Connects to a port of the app.
    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError>;

    /// Starts a program with these streams in the app's container, as root; a login shell where `command` is empty.
    async fn shell(&self, command: &[String], streams: Streams) -> Result<(Stdin, Events), ConnectError>;

    /// Waits until the microVM has exited without a request. Pending for ever once the microVM was suspended or
    /// discarded.
    async fn exited(&self) -> Exit;
}
