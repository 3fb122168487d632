//! A `hearthd` process on the shared data folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::site::Site;
use super::{config, traces, until};

/// The environment variable that names the point at which the daemon kills itself.
const FAULT: &str = "HEARTH_FAULT";

/// Held by the test whose daemon runs: one daemon at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A `hearthd` process, which may be killed and started again. If it is dropped without [`Self::finish`], the test
/// has failed: it then prints the end of its log and removes its microVMs.
pub(crate) struct Daemon {
    pub(crate) site: &'static Site,
    process: Option<Child>,
    channel: Channel,
    extra: String,
    _turn: MutexGuard<'static, ()>,
}

impl Daemon {
    /// Starts a daemon and waits until it responds. None if the tests do not run on the metal.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// Like [`Self::start`], with additional configuration.
    pub(crate) async fn start_with(extra: &str) -> Option<Self> {
        Some(Self::start_on(Site::get()?, extra).await)
    }

    /// Like [`Self::start_with`], with other folders or programs.
    pub(crate) async fn start_on(site: &'static Site, extra: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut daemon =
            Self { site, process: None, channel: channel(site), extra: extra.to_owned(), _turn: turn };
        daemon.restart(None).await;
        daemon
    }

    /// The error output of a daemon that must not start with this additional configuration.
    pub(crate) fn refused(site: &'static Site, extra: &str) -> String {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let file = site.folder.join("refused.toml");
        fs::write(&file, config::text(site, extra)).unwrap();
        let output = Command::new(&site.hostd).arg("--config").arg(file).output().unwrap();
        assert!(!output.status.success(), "it has started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A client of the operations of AWS.
    pub(crate) fn api(&self) -> MicrovmServiceClient<Channel> {
        MicrovmServiceClient::new(self.channel.clone())
    }

    /// A client of the host's own operations.
    pub(crate) fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// The channel of the clients.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The daemon's log in this test.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Whether the daemon process has died.
    pub(crate) fn has_died(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Starts the daemon after it was killed or has died, optionally with a point at which it kills itself. Returns
    /// once the daemon listens.
    pub(crate) async fn restart(&mut self, fault: Option<&str>) {
        self.spawn(fault);
        let socket = self.site.socket();
        until("hearthd listens", async || UnixStream::connect(&socket).await.ok().map(drop)).await;
        // The old channel reconnects only at the next request.
        self.channel = channel(self.site);
    }

    /// Starts the daemon without waiting for it.
    pub(crate) fn spawn(&mut self, fault: Option<&str>) {
        if let Some(mut old) = self.process.take() {
            let _ = old.kill();
            old.wait().unwrap();
        }
        let _ = fs::remove_file(self.site.socket());
        let file = self.site.folder.join("hearthd.toml");
        fs::write(&file, config::text(self.site, &self.extra)).unwrap();
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(&self.site.hostd);
        command.arg("--config").arg(file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        match fault {
            Some(point) => command.env(FAULT, point),
            None => command.env_remove(FAULT),
        };
        self.process = Some(command.spawn().unwrap());
    }

    fn log(&self) -> PathBuf {
        self.site.folder.join("hearthd.log")
    }

    /// Terminates all microVMs, stops the daemon as a service manager does, and checks that nothing is left.
    pub(crate) async fn finish(mut self) {
        self.end_all().await;
        self.stop().await;
        traces::assert_none(self.site);
    }

    /// Stops the daemon as a service manager does. MicroVMs run on.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        // Meanwhile the daemon asks this process's connections to close, and they do.
        let status = tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
        assert!(status.success(), "hearthd, asked to stop: {status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "--- the end of hearthd's log");
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                let _ = writeln!(out, "{line}");
            }
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_file(self.log());
    }
}

/// A channel that connects at its first use.
fn channel(site: &'static Site) -> Channel {
    let connect = move |_| async move {
        let stream = UnixStream::connect(site.socket()).await?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    };
    Endpoint::from_static("http://hearthd").connect_with_connector_lazy(service_fn(connect))
}
