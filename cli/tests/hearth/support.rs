//! A daemon with scripted responses on a Unix socket, and the program `hearth` that connects to it.

use std::path::Path;
use std::process::{Output, Stdio};

use hearth_proto::host::v1::host_service_server::HostServiceServer;
use hearth_proto::microvms::v1::microvm_service_server::MicrovmServiceServer;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::daemon::Daemon;

/// A running daemon, which stops with the test.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) daemon: Daemon,
    pub(crate) endpoint: String,
}

/// Both services of a daemon.
pub(crate) fn services(server: &mut Server, daemon: &Daemon) -> Router {
    server
        .add_service(MicrovmServiceServer::new(daemon.clone()))
        .add_service(HostServiceServer::new(daemon.clone()))
}

impl Host {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("hearthd.sock");
        let daemon = Daemon::default();
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        tokio::spawn(services(&mut Server::builder(), &daemon).serve_with_incoming(incoming));
        Self { endpoint: format!("unix:{}", socket.display()), folder, daemon }
    }

    /// The program with arguments, which are separated by spaces.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = hearth(self.folder.path());
        command.env("HEARTH_ENDPOINT", &self.endpoint).args(words.split(' '));
        command
    }

    pub(crate) async fn run(&self, words: &str) -> Done {
        Done::of(&mut self.command(words)).await
    }

    /// The stdout of a command that must succeed.
    pub(crate) async fn out(&self, words: &str) -> String {
        let done = self.run(words).await;
        assert_eq!((done.status, done.err.as_str()), (0, ""), "hearth {words}");
        done.out
    }

    /// The JSON output of a command that must succeed.
    pub(crate) async fn json(&self, words: &str) -> serde_json::Value {
        let out = self.out(&format!("--json {words}")).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("hearth --json {words}: {error}: {out}"))
    }

    /// Exit status and message of a command that must fail.
    pub(crate) async fn error(&self, words: &str) -> (i32, String) {
        let done = self.run(words).await;
        assert_eq!(done.err.lines().count(), 1, "one line: {}", done.err);
        (done.status, done.err.trim_end().to_owned())
    }
}

/// The program without the tester's own environment.
pub(crate) fn hearth(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.env_clear().env("HOME", home).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Result of a program.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) async fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }
}
