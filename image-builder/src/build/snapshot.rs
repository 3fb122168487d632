//! The app's first microVM: it boots, gets ready, and becomes the snapshot.

use std::path::Path;
use std::time::Duration;

use hearth_host::agent::AgentError;
use hearth_host::agent::control::{Control, HookCall};
use hearth_host::microvm::{create, open};
use hearth_model::hooks::{HookOutcome, HookSettings, ImageHook};
use hearth_model::shape::Shape;
use hearth_model::text::harmless;
use hearth_proto::guest::v1::{self as proto, AppState, LogSource};
use hearth_vmm_api::config::DiskSource;
use hearth_vmm_client::snapshot::{Overlay, Take, suspend};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::error::{BuildError, file};
use super::event::{LogStream, Step};
use super::identity::{Identity, random_id};
use super::request::BuildRequest;
use super::stage::{Allotment, Host, Stage, is_users_fault};
use super::workspace::Workspace;
use crate::failure::StateReason;
use crate::image::App;
use hearth_base::Base;

/// Most bytes of what the guest says of an app that did not start.
const REASON: usize = 1000;
/// Without `/ready`: how long the app must have run before the snapshot.
const SETTLING: Duration = Duration::from_secs(10);
/// Without `/ready`: for how long the guest must have been idle.
const IDLE: Duration = Duration::from_secs(2);
/// Share of the processors' time in percent below which the guest counts as idle.
const BUSY_MAX: u64 = 5;
/// Without `/ready`: after this time, the snapshot is taken even if the guest is not idle.
const SETTLING_MAX: Duration = Duration::from_secs(60);
/// Interval between checks for idleness.
const LOOK: Duration = Duration::from_millis(250);
/// Deadline for the monitor to exit, once the snapshot is complete.
const END: Duration = Duration::from_secs(60);
/// Deadline for the host to receive all lines that the app has written before the snapshot.
const LOGS: Duration = Duration::from_secs(30);
/// Deadline for the host to receive the last lines of an app that has failed.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Inputs of the step.
pub(super) struct Job<'a> {
    pub(super) host: &'a Host,
    pub(super) workspace: &'a Workspace,
    pub(super) request: &'a BuildRequest,
    pub(super) base: &'a Base,
    pub(super) app: &'a App,
    pub(super) credentials: Option<proto::Credentials>,
    /// The root disk.
    pub(super) disk: &'a Path,
    /// Folder of the snapshot.
    pub(super) snapshot: &'a Path,
}

impl Job<'_> {
    pub(super) fn shape(&self) -> Shape {
        self.request.memory.shape(self.request.burst)
    }

    /// Boots the app and takes its snapshot.
    pub(super) async fn run(&self) -> Result<(), BuildError> {
        let sink = &self.host.sink;
        let overlay = self.workspace.path("overlay");
        let (stage, mut control) = sink.step(Step::Start, self.start(&overlay)).await?;
        let ready = sink.step(Step::Ready, self.get_ready(&stage, &mut control)).await;
        if ready.is_err() {
            last_lines(&stage).await;
        }
        ready?;
        sink.step(Step::Snapshot, self.save(stage, control, &overlay)).await
    }

    async fn start(&self, overlay: &Path) -> Result<(Stage, Control), BuildError> {
        let base = open("opening the root disk", self.disk)?;
        let disk = DiskSource::Overlay {
            base,
            layers: Vec::new(),
            overlay: create("making the root disk's overlay", overlay)?,
        };
        let allotment = Allotment::of_image("snapshot", self.shape(), self.request.memory);
        let mut stage = Stage::start(self.host, self.workspace, allotment).await?;
        let mut control = stage.boot(self.base, vec![disk]).await?;
        let root = proto::RootDisk {
            device: "/dev/vda".into(),
            file_system: "ext4".into(),
            overlay_in_memory: false,
        };
        let (nofile_hard, shm_mib) = self.host.settings.app.files_and_shm_mib();
        control
            .configure(proto::Configure {
                root: Some(root),
                network: stage.guest_network(),
                all_capabilities: self.request.all_capabilities,
                nofile_hard,
                shm_mib,
                keep_etc: self.app.keeps_etc(),
                ..proto::Configure::default()
            })
            .await?;
        // The guest has booted with a clock in 1970, and without entropy.
        let metadata = Some(self.request.platform.metadata());
        let who = Identity { microvm_id: &random_id(), metadata, credentials: None };
        control.identify(who.message(&stage)?).await?;
        if let Some(credentials) = &self.credentials {
            control.set_sealed_credentials(credentials).await?;
        }
        stage.follow_logs(LogStream::Snapshot);
        match control.start_app(self.app.process()).await {
            Ok(()) => Ok((stage, control)),
            Err(error) if is_users_fault(&error) => {
                let reason = StateReason::AppNotStarted(harmless(error.to_string().as_bytes(), REASON));
                self.host.sink.log(LogStream::Snapshot, LogSource::Stderr, reason.sentence().as_bytes());
                Err(BuildError::failed(reason, ""))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn get_ready(&self, stage: &Stage, control: &mut Control) -> Result<(), BuildError> {
        let mut waiter = stage.agent().control().await?;
        tokio::select! {
            ready = self.until_ready(control) => ready,
            exit = waiter.wait_app() => match exit {
                Ok(exit) => Err(BuildError::failed(StateReason::AppExited(exit.code), "before it was ready")),
                Err(_) => Err(terminated(stage)),
            },
            _ = stage.microvm().exited() => Err(terminated(stage)),
        }
    }

    async fn until_ready(&self, control: &mut Control) -> Result<(), BuildError> {
        let hooks = self.request.hooks;
        match hooks.ready {
            Some(settings) => call(control, ImageHook::Ready, hooks.port, settings).await,
            None => quiescent(control).await.map_err(BuildError::from),
        }
    }

    async fn save(&self, stage: Stage, mut control: Control, overlay: &Path) -> Result<(), BuildError> {
        let saved = tokio::select! {
            saved = self.write(&stage, &mut control, overlay) => saved,
            // The guest has ended although nobody requested it: it has crashed, or powered itself off.
            _ = stage.microvm().exited() => {
                // Taking the snapshot ends the guest, too, when it is complete.
                if self.snapshot.join("state").exists() { Ok(()) } else { Err(terminated(&stage)) }
            }
        };
        saved?;
        drop(control);
        stage.finish(END).await
    }

    async fn write(&self, stage: &Stage, control: &mut Control, overlay: &Path) -> Result<(), BuildError> {
        // Clones must not inherit anything from this build: neither its identity and credentials nor its time and random numbers, with
        // which the app would go on until it gets its own.
        control.freeze(true).await?;
        drain_logs(control).await?;
        let quiesced = control.quiesce(true).await?;
        stage.microvm().trim(quiesced.free_mib).await?;
        let (client, to) = (stage.microvm().client().clone(), self.snapshot.to_owned());
        let opened = std::fs::File::open(overlay).and_then(|opened| Overlay::of(0, overlay, &opened));
        let overlay = opened.map_err(file("opening", overlay))?;
        let take = Take { overlays: vec![overlay], ..Take::default() };
        let taken = spawn_blocking(move || suspend(&client, &to, &take)).await?;
        taken.map_err(|error| BuildError::Platform(format!("taking the snapshot: {error}")))?;
        Ok(())
    }
}

fn terminated(stage: &Stage) -> BuildError {
    BuildError::failed(StateReason::TerminatedDuringSnapshot, stage.microvm().last_words())
}

/// Waits until the host has received all lines that the app has written.
pub(super) async fn drain_logs(control: &mut Control) -> Result<(), AgentError> {
    let end = Instant::now() + LOGS;
    loop {
        let status = control.status().await?;
        if status.acknowledged_log >= status.last_log || Instant::now() >= end {
            return Ok(());
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Receives the last lines of the app of a failed stage: they explain the failure.
pub(super) async fn last_lines(stage: &Stage) {
    let take = async {
        // This is a new connection, because a request may still be under way on the other one.
        let mut control = stage.agent().control().await?;
        drain_logs(&mut control).await
    };
    // The guest may have ended: then there are no more lines.
    let _ = timeout(LAST_LINES, take).await;
}

/// Calls an image hook and returns its outcome.
pub(super) async fn call(
    control: &mut Control,
    hook: ImageHook,
    port: u16,
    settings: HookSettings,
) -> Result<(), BuildError> {
    let kind = match hook {
        ImageHook::Ready => proto::Hook::Ready,
        ImageHook::Validate => proto::Hook::Validate,
    };
    let timeout = settings.timeout();
    let outcome = control.call_hook(&HookCall { hook: kind, port, timeout, body: None }).await?;
    if outcome.is_success() {
        return Ok(());
    }
    let detail = match &outcome {
        HookOutcome::Status(status) => format!("HTTP status {status}"),
        HookOutcome::Refused => format!("nobody listens on port {port}"),
        HookOutcome::TimedOut | HookOutcome::Disabled => String::new(),
        HookOutcome::Failed(message) => message.clone(),
    };
    Err(BuildError::failed(StateReason::Hook { hook, outcome, timeout }, detail))
}

/// Waits until an app without `/ready` has most likely started: it has run for a while, and the guest is idle.
async fn quiescent(control: &mut Control) -> Result<(), AgentError> {
    let started = Instant::now();
    let mut idle = Idle::default();
    loop {
        let status = control.status().await?;
        let lives = status.app() == AppState::Running;
        let idle_for = idle.sample(started.elapsed(), status.cpu_total_ms, status.cpu_busy_ms);
        if lives && started.elapsed() >= SETTLING && idle_for >= IDLE || started.elapsed() >= SETTLING_MAX {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// Measures for how long the processors have been idle.
#[derive(Debug, Default)]
struct Idle {
    last: Option<(u64, u64)>,
    since: Option<Duration>,
}

impl Idle {
    /// Takes a sample of processor times; returns for how long they have been idle.
    fn sample(&mut self, now: Duration, total: u64, busy: u64) -> Duration {
        let (last_total, last_busy) = self.last.replace((total, busy)).unwrap_or((total, busy));
        let (total, busy) = (total.saturating_sub(last_total), busy.saturating_sub(last_busy));
        if busy * 100 >= total.max(1) * BUSY_MAX {
            self.since = None;
            return Duration::ZERO;
        }
        now.saturating_sub(*self.since.get_or_insert(now))
    }
}

#[cfg(test)]
mod tests {
    use hearth_host::agent::double::played;
    use hearth_model::hooks::DEFAULT_PORT;
    use proto::hook_outcome::Result as Outcome;

    use super::*;

    /// The `stateReason` of a build whose agent reports `outcome` of a hook with a timeout of five minutes.
    async fn reason(name: ImageHook, outcome: Outcome) -> Option<String> {
        let (agent, mut guest) = played();
        let script = async {
            let mut line = guest.next().await.unwrap().unwrap();
            line.accept().await.unwrap();
            line.receive_request().await.unwrap();
            let outcome = proto::HookOutcome { result: Some(outcome), attempts: 1, elapsed_us: 1 };
            line.answer(proto::response::Result::Hook(outcome)).await.unwrap();
        };
        let called = async {
            let mut control = agent.control().await.unwrap();
            let settings = HookSettings { timeout_seconds: 300 };
            call(&mut control, name, DEFAULT_PORT, settings).await
        };
        tokio::join!(called, script).0.err().map(|error| error.state_reason())
    }

    #[tokio::test]
    async fn every_outcome_of_an_image_hook_has_its_reason() {
        use ImageHook::{Ready, Validate};
        let done = proto::Done {};
        for (hook, outcome, expected) in [
            (Ready, Outcome::Status(200), None),
            (Ready, Outcome::Status(204), None),
            (Ready, Outcome::TimedOut(done), Some("Ready hook invocation timed out after PT5M")),
            (
                Ready,
                Outcome::Status(404),
                Some("Ready hook check failed: the application returned a client error (HTTP 4xx) response"),
            ),
            (
                Ready,
                Outcome::Status(500),
                Some("Ready hook check failed: the application returned a server error (HTTP 5xx) response"),
            ),
            (
                Ready,
                Outcome::Status(302),
                Some("Ready hook check failed: the application returned an unexpected (HTTP 302) response"),
            ),
            (
                Ready,
                Outcome::Refused(done),
                Some("Ready hook check failed: the connection was refused by the application"),
            ),
            (
                Ready,
                Outcome::Transport("reset".into()),
                Some("Ready hook check failed: the application returned no valid HTTP response"),
            ),
            (Validate, Outcome::TimedOut(done), Some("Validate hook invocation timed out after PT5M")),
            (
                Validate,
                Outcome::Status(418),
                Some(
                    "Validate hook check failed: the application returned a client error (HTTP 4xx) response",
                ),
            ),
        ] {
            assert_eq!(reason(hook, outcome.clone()).await.as_deref(), expected, "{hook} {outcome:?}");
        }
    }

    #[test]
    fn a_guest_is_idle_from_the_first_quiet_sample_on() {
        let mut idle = Idle::default();
        let second = Duration::from_secs;
        assert_eq!(idle.sample(second(1), 1000, 900), second(0));
        assert_eq!(idle.sample(second(2), 2000, 1900), second(0), "busy");
        assert_eq!(idle.sample(second(3), 3000, 1910), second(0), "the first quiet second");
        assert_eq!(idle.sample(second(5), 5000, 1950), second(2));
        assert_eq!(idle.sample(second(6), 6000, 2050), second(0), "busy again");
        assert_eq!(idle.sample(second(7), 7000, 2060), second(0));
    }
}
