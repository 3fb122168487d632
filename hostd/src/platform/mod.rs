//! How microVMs are made of processes, networks and files.
//!
//! The drivers know microVMs through [`Platform`] and [`Guest`] only. `host` is the real one; tests and benches have the one
//! double (`double`, a feature outside this crate's own tests), which fails, hangs and lies where they say so.
//!
//! Everything here can be repeated: after a crash of the daemon, the driver asks again for what it had asked for, and the
//! platform finds what is there already. Whoever waits for something here may stop waiting: dropping a future gives up what it was
//! for, and what was half made is removed, or is ended with the microVM. What belongs to a microVM is found by its id: its run directory (process), its
//! folder (overlay, suspended state), its network.

#[cfg(any(test, feature = "double"))]
pub mod double;
pub mod host;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};
use hearth_host::roles::RoleUse;
use hearth_proto::microvms::v1::Hooks;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a hook has that is enabled without a time (docs/behaviour.md, "Hooks").
const HOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a microVM is made of. The same for its launch, each resume, and its adoption.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// `microvm-UUID`
    pub id: String,
    /// Account.
    pub account: String,
    /// ARN of its image.
    pub image_arn: String,
    /// Name of its image.
    pub image_name: String,
    /// Version, like `1.0`.
    pub image_version: String,
    /// Where the image's files are, by name.
    pub artifact: Artifact,
    /// Baseline memory: decides its share of the CPUs.
    pub memory_mib: u32,
    /// The hooks of its image, for [`Guest::call_hook`].
    pub hooks: Option<Hooks>,
    /// The role whose credentials it gets, as a request named it: [`Self::execution_role`] says whose it must be.
    pub execution_role_arn: Option<String>,
    /// What it may reach.
    pub egress: hearth_host::network::Egress,
    /// Where its output goes; nowhere without.
    pub log: Option<LogTarget>,
    /// What /run gets.
    pub run_hook_payload: String,
    /// How often it has been suspended: the newest suspended state has this number.
    pub suspends: u64,
}

impl Spec {
    /// The role whose credentials it gets, asked for by its account.
    #[must_use]
    pub fn execution_role(&self) -> Option<RoleUse> {
        self.execution_role_arn.as_ref().map(|role_arn| RoleUse::new(&self.account, role_arn))
    }
}

/// The files of a build.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Artifact {
    /// Account.
    pub account: String,
    /// The image's uid.
    pub image_uid: String,
    /// Number of the version.
    pub version: u32,
    /// Id of the build.
    pub build_id: String,
}

/// A log stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// Log group.
    pub group: String,
    /// Log stream.
    pub stream: String,
}

/// A lifecycle hook of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `/run`
    Run,
    /// `/suspend`
    Suspend,
    /// `/resume`
    Resume,
    /// `/terminate`
    Terminate,
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Run => "Run",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::Terminate => "Terminate",
        })
    }
}

impl Hook {
    /// How long the app has to answer it, by the hooks of its image; a second without a time (docs/behaviour.md, "Hooks").
    #[must_use]
    pub fn timeout(self, hooks: Option<&Hooks>) -> Duration {
        let settings = hooks.and_then(|hooks| hooks.microvm_hooks.as_ref());
        let seconds = settings.and_then(|settings| match self {
            Self::Run => settings.run_timeout_in_seconds,
            Self::Suspend => settings.suspend_timeout_in_seconds,
            Self::Resume => settings.resume_timeout_in_seconds,
            Self::Terminate => settings.terminate_timeout_in_seconds,
        });
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        seconds.map_or(HOOK_TIMEOUT, Duration::from_secs)
    }
}

/// What became of a call of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    /// The hook is disabled, so nothing was called.
    Disabled,
    /// The app answered with this HTTP status.
    Status(u32),
    /// Nobody listens on the port.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Anything else.
    Failed,
}

impl HookOutcome {
    /// Whether things may go on.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Disabled | Self::Status(200..=299))
    }
}

/// How a microVM that nobody asked to end has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The app's main process, with this status.
    App(u32),
    /// The guest's kernel or the agent: it powered off, or did what no machine can go on after.
    Guest(String),
    /// The monitor process.
    Monitor(String),
}

/// Why the platform could not do something. The microVM is as before, or gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlatformError {
    /// A role of the user's gives no credentials: it cannot be assumed, or is not for the microVM's account.
    #[error("{0}")]
    Role(String),
    /// The host has no room: memory, disk, networks, user ids.
    #[error("{0}")]
    Capacity(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Why a suspend did not happen. The microVM and its app run on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SuspendError {
    /// [`Guest::cancel_suspend`] came in time.
    #[error("the suspend was cancelled")]
    Cancelled,
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// A connection to a port of the app.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why the app, or a shell beside it, was not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or takes the connection.
    #[error("{0}")]
    App(String),
    /// The microVM does not answer.
    #[error("{0}")]
    Guest(String),
}

/// What is there of a microVM that an earlier daemon drove.
pub enum Found {
    /// Its process, and it runs.
    Running(Arc<dyn Guest>),
    /// No process, and whole suspended state with the number that was asked for.
    Suspended,
    /// Neither.
    Nothing,
}

/// Makes microVMs.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// Makes a microVM from its image: process, network, overlay, restored, identified, its output followed. `/run` is the
    /// caller's. What an earlier launch of the same id has left is removed first.
    async fn launch(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError>;

    /// Makes a microVM from its suspended state with the number `spec.suspends`, as [`Self::launch`] does; that state stays until
    /// the microVM is suspended anew or discarded. A process that an earlier resume has left is ended first: where this fails, there is
    /// the state and no process. `/resume` is the caller's.
    async fn resume(&self, spec: &Spec) -> Result<Arc<dyn Guest>, PlatformError>;

    /// What an earlier daemon has left. A process that was being saved as number `suspends` is ended if its state is whole, and
    /// goes on if not: what is returned is settled.
    async fn find(&self, spec: &Spec, suspends: u64) -> Result<Found, PlatformError>;

    /// Ends the microVM's process, if there is one, and removes everything of it: network, run directory, overlay, suspended
    /// state. Done when there is nothing.
    async fn discard(&self, id: &str) -> Result<(), PlatformError>;

    /// Removes the files of a build. Done when there are none.
    async fn remove_artifact(&self, artifact: &Artifact) -> Result<(), PlatformError>;

    /// Removes what belongs to none of these: processes, networks and folders of microVMs, files of builds.
    async fn sweep(
        &self,
        microvms: &HashSet<String>,
        artifacts: &HashSet<Artifact>,
    ) -> Result<(), PlatformError>;
}

/// A running microVM. Dropping it leaves it running.
#[async_trait]
pub trait Guest: Send + Sync + std::fmt::Debug {
    /// Calls a hook, unless it is disabled, with the timeout of the image.
    async fn call_hook(&self, hook: Hook) -> HookOutcome;

    /// Saves it as suspended state number `number` and ends it. Durable when done; the state before that is removed then.
    async fn suspend(&self, number: u64) -> Result<(), SuspendError>;

    /// Gives up a suspend that is under way, if that is still possible.
    async fn cancel_suspend(&self);

    /// Connects to a port of the app.
    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError>;

    /// Starts a program on a terminal of its own in the app's container, as root; a login shell where `command` is empty.
    async fn shell(&self, command: &[String]) -> Result<(Stdin, Events), ConnectError>;

    /// Waits until it has ended without being asked to. Pending for ever once it was suspended or discarded.
    async fn exited(&self) -> Exit;
}
