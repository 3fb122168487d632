//! A `hearthd` process over the shared state.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::site::Site;
use super::{config, traces, until};

/// Names the point at which the daemon is to die.
const FAULT: &str = "HEARTH_FAULT";

/// Whose turn it is: one daemon at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A `hearthd` process, which may be killed and started again. Dropped without [`Self::finish`] – the test has failed – it
/// shows the end of its log and takes its microVMs with it.
pub(crate) struct Daemon {
    pub(crate) site: &'static Site,
    process: Option<Child>,
    channel: Channel,
    extra: String,
    _turn: MutexGuard<'static, ()>,
}

impl Daemon {
    /// A daemon that answers. None where this is not the metal.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// The same with more in its configuration.
    pub(crate) async fn start_with(extra: &str) -> Option<Self> {
        let site = Site::get()?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut daemon =
            Self { site, process: None, channel: channel(site), extra: extra.to_owned(), _turn: turn };
        daemon.restart(None).await;
        Some(daemon)
    }

    /// What a daemon says that does not start with this in its configuration.
    pub(crate) fn refused(site: &'static Site, extra: &str) -> String {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let file = site.folder.join("refused.toml");
        fs::write(&file, config::text(site, extra)).unwrap();
        let output = Command::new(&site.hostd).arg("--config").arg(file).output().unwrap();
        assert!(!output.status.success(), "it has started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The operations of AWS.
    pub(crate) fn api(&self) -> MicrovmServiceClient<Channel> {
        MicrovmServiceClient::new(self.channel.clone())
    }

    /// What a host has beside them.
    pub(crate) fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// The connection of its clients.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What it has logged in this test.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    /// Kills it the hard way.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Whether it has died.
    pub(crate) fn has_died(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Starts it, after it was killed or has died, with a point at which it is to die. Returns once it answers.
    pub(crate) async fn restart(&mut self, fault: Option<&str>) {
        self.spawn(fault);
        let socket = self.site.socket();
        until("hearthd listens", async || UnixStream::connect(&socket).await.ok().map(drop)).await;
        // The old channel reconnects only when it is asked for something.
        self.channel = channel(self.site);
    }

    /// Starts it without waiting for anything.
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

    /// Ends all microVMs, stops the daemon as a service manager does, and looks whether anything is left.
    pub(crate) async fn finish(mut self) {
        self.end_all().await;
        self.stop().await;
        traces::assert_none();
    }

    /// Stops it as a service manager does. MicroVMs run on.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        // SAFETY: kill takes plain numbers, and the process is ours and not waited for yet.
        unsafe { libc::kill(i32::try_from(process.id()).unwrap(), libc::SIGTERM) };
        // Meanwhile this process's connections are told to end, and do.
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

/// A channel that connects when it is used.
fn channel(site: &'static Site) -> Channel {
    let connect = move |_| async move {
        let stream = UnixStream::connect(site.socket()).await?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    };
    Endpoint::from_static("http://hearthd").connect_with_connector_lazy(service_fn(connect))
}
