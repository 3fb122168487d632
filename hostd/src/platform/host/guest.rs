//! A running microVM.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hearth_host::agent::exec::{Events, Stdin};
use hearth_host::agent::{Agent, AgentError};
use hearth_host::microvm::Microvm;
use hearth_host::microvm::process::Process;
use hearth_host::network::Egress;
use hearth_model::hooks::{Hook, HookOutcome};
use hearth_proto::guest::v1 as agent;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::layout::Place;
use super::logs::{self, Output};
use super::{Host, dns, hooks, identity, watch as end};
use crate::panics::poisoned;
use crate::platform::{ConnectError, Connection, Exit, Guest, Spec, SuspendError};

/// How long the app may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the agent may take to thaw the app; below, the pause before the next attempt.
const THAW: Duration = Duration::from_secs(10);
const THAW_AGAIN: Duration = Duration::from_secs(1);
/// The environment of shells (docs/behaviour.md, "Shells").
const SHELL_ENVIRONMENT: [&str; 2] = ["TERM=xterm", "PS1=λ $ "];

/// The phase of a running microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The microVM runs.
    Running,
    /// The microVM is being suspended.
    Suspending,
    /// The microVM was suspended or discarded, or belongs to another daemon: its exit is not reported.
    Gone,
}

/// The parts of a guest, in addition to its [`Spec`].
pub(super) struct Made {
    pub(super) microvm: Microvm,
    pub(super) process: Arc<Process>,
    pub(super) place: Place,
    /// Number of the suspended state that the guest was made from; 0 stands for the image.
    pub(super) from: u64,
    /// The full snapshot that the guest's state builds on.
    pub(super) base: PathBuf,
    /// Whether the guest has a network card.
    pub(super) card: bool,
    /// When the guest's credentials expire.
    pub(super) expiration: Option<SystemTime>,
}

/// A running microVM. Dropping it leaves the microVM running, and nothing takes the microVM's output any more.
pub(super) struct Machine {
    pub(super) host: Arc<Host>,
    pub(super) spec: Spec,
    pub(super) made: Made,
    pub(super) phase: watch::Sender<Phase>,
    /// Whether the suspend under way is cancelled.
    pub(super) cancel: AtomicBool,
    /// Whether a background task retries a thaw.
    thawing: Arc<AtomicBool>,
    /// Held from a freeze until its suspend is over, and during a thaw: a late thaw must not undo a later freeze.
    pub(super) freezing: Arc<tokio::sync::Mutex<()>>,
    exit: watch::Receiver<Option<Exit>>,
    /// The tasks that serve the microVM, aborted when this is dropped.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("id", &self.spec.id).finish_non_exhaustive()
    }
}

impl Machine {
    /// Starts the tasks that serve a microVM: its output, name queries, credentials, and watching for its exit.
    pub(super) fn start(host: &Arc<Host>, spec: &Spec, made: Made) -> Arc<Self> {
        let (phase, exit) = (watch::Sender::new(Phase::Running), watch::Sender::new(None));
        let exits = exit.subscribe();
        let agent = made.microvm.agent();
        let mut tasks = JoinSet::new();
        let folder = made.place.run.clone();
        tasks.spawn(end::watch(agent.clone(), Arc::clone(&made.process), folder, phase.subscribe(), exit));
        let output = Output {
            account: spec.account.clone(),
            microvm: spec.id.clone(),
            target: spec.log.clone(),
            sink: Arc::clone(&host.logs),
        };
        tasks.spawn(logs::follow(agent.clone(), output));
        if made.card && spec.egress == Egress::Internet {
            tasks.spawn(dns::serve(agent.clone(), host.config.dns.clone()));
        }
        if let Some(role) = spec.execution_role() {
            let (roles, clock) = (Arc::clone(&host.roles), host.clock);
            tasks.spawn(identity::refresh(agent.clone(), roles, role, clock, made.expiration));
        }
        Arc::new(Self {
            host: Arc::clone(host),
            spec: spec.clone(),
            made,
            phase,
            cancel: AtomicBool::new(false),
            thawing: Arc::default(),
            freezing: Arc::default(),
            exit: exits,
            tasks: Mutex::new(tasks),
        })
    }

    pub(super) fn agent(&self) -> &Agent {
        self.made.microvm.agent()
    }

    /// Stops serving the microVM.
    pub(super) fn let_go(&self) {
        self.phase.send_replace(Phase::Gone);
        self.tasks.lock().unwrap_or_else(poisoned).abort_all();
    }
}

#[async_trait]
impl Guest for Machine {
    async fn call_hook(&self, hook: Hook) -> HookOutcome {
        let Spec { id, hooks, run_hook_payload, .. } = &self.spec;
        let Some(call) = hooks::call(hooks, hook, id, run_hook_payload) else {
            return HookOutcome::Disabled;
        };
        let result = self.agent().call_hook(&call).await;
        match &result {
            Ok(result) if result.is_success() => {}
            Ok(result) => tracing::info!(microvm = id, %hook, ?result, "the hook did not succeed"),
            Err(error) => tracing::warn!(microvm = id, %hook, %error, "the hook could not be called"),
        }
        hooks::outcome(result)
    }

    async fn suspend(&self, number: u64) -> Result<(), SuspendError> {
        super::suspend::suspend(self, number).await
    }

    async fn cancel_suspend(&self) {
        super::suspend::cancel(self).await;
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Connection>, ConnectError> {
        let stream = self.agent().stream(port, CONNECT).await.map_err(connect_error)?;
        Ok(Box::new(stream))
    }

    async fn shell(&self, command: &[String]) -> Result<(Stdin, Events), ConnectError> {
        let arguments = if command.is_empty() { login_shell() } else { command.to_vec() };
        let environment = SHELL_ENVIRONMENT.map(str::to_owned).to_vec();
        let process = agent::Process { arguments, environment, ..agent::Process::default() };
        let exec = agent::OpenExec {
            what: Some(agent::open_exec::What::Process(process)),
            // The size of AWS's terminals, until the client sends its own.
            terminal: Some(agent::WindowSize::default()),
            privileged: false,
            as_app: true,
        };
        self.agent().exec(exec).await.map_err(connect_error)
    }

    async fn exited(&self) -> Exit {
        let mut exits = self.exit.clone();
        let exit = match exits.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_) => None,
        };
        match exit {
            Some(exit) if *self.phase.borrow() != Phase::Gone => exit,
            // The exit was requested.
            _ => std::future::pending().await,
        }
    }
}

/// A login shell: bash if the guest has it.
fn login_shell() -> Vec<String> {
    let script = "[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l";
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn connect_error(error: AgentError) -> ConnectError {
    match error {
        AgentError::Refused { message, .. } => ConnectError::App(message),
        error => ConnectError::Guest(error.to_string()),
    }
}

impl Machine {
    /// Thaws the app, which a suspend has frozen or may have: one that was cancelled, or one that an earlier daemon
    /// had begun. If the guest does not thaw it at once, a background task retries until it does, and the microVM
    /// counts as running. The caller holds `freezing`, or has exclusive access to the microVM.
    pub(super) async fn thaw(&self) {
        if let Err(error) = self.agent().thaw(THAW).await {
            tracing::warn!(microvm = self.spec.id, %error, "the app could not be thawed, trying again");
            if self.thawing.swap(true, Ordering::AcqRel) {
                return;
            }
            let (agent, freezing) = (self.agent().clone(), Arc::clone(&self.freezing));
            let thawing = Arc::clone(&self.thawing);
            let mut tasks = self.tasks.lock().unwrap_or_else(poisoned);
            tasks.spawn(async move {
                loop {
                    sleep(THAW_AGAIN).await;
                    let _freezing = freezing.lock().await;
                    if agent.thaw(THAW).await.is_ok() {
                        // The flag is cleared before the lock is released, so that a failing thaw after another
                        // freeze can start a new task.
                        thawing.store(false, Ordering::Release);
                        return;
                    }
                }
            });
        }
    }

    /// Whether the suspend under way is cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }
}
