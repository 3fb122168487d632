//! The example `counter` at its endpoint, called by programs of others: curl, and Python's clients for WebSocket and
//! gRPC.

use std::io::Write as _;
use std::process::{Command, Output};

use super::*;

/// Debian's own Python, which finds the packages of Debian.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// A host whose microVM runs the counter, and the certificate that clients trust.
struct Stand {
    host: Host,
    certificate: tempfile::NamedTempFile,
}

impl Stand {
    async fn new() -> Self {
        Self::with(Wish::default()).await
    }

    async fn with(wish: Wish) -> Self {
        let host = Host::with(wish).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        host.platform.world().ports.insert(8080, listener.local_addr().unwrap());
        tokio::spawn(hearth_example_counter::serve(listener));
        let mut certificate = tempfile::NamedTempFile::new().unwrap();
        certificate.write_all(host.certificate_pem.as_bytes()).unwrap();
        Self { host, certificate }
    }

    /// Runs a client program beside the endpoint.
    async fn run(mut command: Command) -> Output {
        let package = format!("{command:?} cannot be run; `cargo xtask test` installs what it needs");
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect(&package)
    }

    /// Runs curl, which has to succeed, and returns its output.
    async fn curl(&self, path: &str, arguments: &[&str]) -> String {
        self.curl_ends(0, path, arguments).await
    }

    /// Runs curl, which has to exit with this status, and returns its output.
    async fn curl_ends(&self, status: i32, path: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]);
        command.arg(self.certificate.path());
        let port = self.host.address.port();
        command.arg("--resolve").arg(format!("{}:{port}:127.0.0.1", Host::name()));
        command.args(arguments).arg(format!("https://{}:{port}{path}", Host::name()));
        let output = Self::run(command).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn auth(&self) -> String {
        format!("x-aws-proxy-auth: {}", self.host.token())
    }

    /// Runs a Python script to its end.
    async fn python(&self, script: &'static str) {
        let mut command = Command::new(PYTHON);
        command.arg("-c").arg(script).arg(self.host.address.port().to_string()).arg(Host::name());
        command.arg(self.certificate.path()).arg(self.host.token());
        let output = Self::run(command).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{errors}");
    }
}

#[tokio::test]
async fn curl_asks_over_both_versions_of_http_and_is_told_what_is_wrong() {
    let stand = Stand::new().await;
    let auth = stand.auth();
    for (number, version) in [(1, "--http1.1"), (2, "--http2")] {
        let answer = stand.curl("/", &[version, "-H", &auth]).await;
        assert_eq!(answer, format!("request {number} of this microVM's life\n"));
    }
    let both = ["-w", " %{http_code} %{http_version}"];
    let refused = stand.curl("/", &both).await;
    assert_eq!(refused, "Request missing authentication 403 2");
    // The request is answered before the app has read the body, while curl is still sending it.
    for (number, version) in [(3, "--http1.1"), (4, "--http2"), (5, "--http1.1"), (6, "--http2")] {
        let upload = ["-H", &auth, version, "--data-binary", "@/bin/bash"];
        assert_eq!(stand.curl("/", &upload).await, format!("request {number} of this microVM's life\n"));
        let upload = [&both[..], &[version, "--data-binary", "@/bin/bash"]].concat();
        assert!(stand.curl("/", &upload).await.starts_with("Request missing authentication 403"));
    }
    // This header makes the endpoint use HTTP/2 without TLS to the app.
    let forced = stand.curl("/", &["-H", &auth, "-H", "x-aws-proxy-force-h2: true"]).await;
    assert_eq!(forced, "request 7 of this microVM's life\n");
    // The event stream does not end, so curl exits with the status of a timeout.
    let events = stand.curl_ends(28, "/events", &["--no-buffer", "--max-time", "1", "-H", &auth]).await;
    assert_eq!(events, "data: 7\n\n");
}

#[tokio::test]
async fn curl_is_told_that_a_microvm_has_too_many_requests() {
    let connections = EndpointConnections { requests_per_microvm: 1, ..EndpointConnections::default() };
    let stand = Stand::with(Wish { connections, ..Wish::default() }).await;
    let auth = stand.auth();
    let events = stand.host.http2().await.send(stand.host.get("/events")).await;
    for version in ["--http1.1", "--http2"] {
        let status = [version, "-H", &auth, "-w", " %{http_code}"];
        let told = stand.curl("/", &status).await;
        assert!(
            told.contains("endpoint.connections.requests_per_microvm") && told.ends_with(" 429"),
            "{told}"
        );
        stand.curl_ends(22, "/", &[version, "-H", &auth, "--fail"]).await;
    }
    drop(events);
    stand.host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 0\n")).await;
    assert_eq!(stand.curl("/", &["-H", &auth]).await, "request 1 of this microVM's life\n");
}

#[tokio::test]
async fn a_websocket_client_counts() {
    Stand::new().await.python(include_str!("clients/websocket.py")).await;
}

#[tokio::test]
async fn a_grpc_client_makes_calls_of_each_kind() {
    Stand::new().await.python(include_str!("clients/grpc_calls.py")).await;
}
