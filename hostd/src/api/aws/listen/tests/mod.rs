//! The listener, with requests written byte by byte, and clients of others at it.

mod clients;
mod lines;
pub(crate) mod stand;
mod trouble;
mod uploads;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::AwsConfig;
use super::AwsListener;
use crate::access::sigv4::tests::Signer;
use crate::api::connections::config::ConnectionLimits;
use crate::certificates::authority::{Authority, Validity};
use crate::clock::Clock;
use crate::service::Profile;
use stand::{KEYS, Stand};

struct Server {
    address: SocketAddr,
    end: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _stand: Stand,
}

async fn server() -> Server {
    serve(AwsConfig::default()).await
}

/// Serves at a free port.
async fn serve(config: AwsConfig) -> Server {
    let stand = Stand::new(Profile::Default).await;
    let config = AwsConfig { address: Some(([127, 0, 0, 1], 0).into()), ..config };
    let listener = AwsListener::bind(&config, true, Clock::system()).await.unwrap().unwrap();
    let address = listener.address().unwrap();
    let (end, ended) = watch::channel(false);
    let serving = tokio::spawn(listener.serve(stand.service.clone(), Arc::clone(&stand.access), ended));
    Server { address, end, serving, _stand: stand }
}

/// Makes files in `folder`: the certificate of an authority, `ca.pem`, and one for `localhost` that the configuration names.
fn certified(folder: &Path) -> AwsConfig {
    let path = |name: &str| folder.join(name);
    let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
    let authority = Authority::new("A", None, valid).unwrap();
    let signed = authority.sign("B", &["localhost".to_owned()], valid).unwrap();
    for (name, text) in [("ca.pem", authority.pem()), ("c.pem", &signed.pem), ("c.key", &signed.key_pem)] {
        fs::write(path(name), text).unwrap();
    }
    AwsConfig { certificate: Some(path("c.pem")), key: Some(path("c.key")), ..AwsConfig::default() }
}

/// The request line and the headers of a signed request, without the empty line at their end.
fn signed(method: &str, path: &str, body: &str) -> String {
    let (key, secret, _) = KEYS[0];
    let signer = Signer { key, secret, time: SystemTime::now(), ..Signer::default() };
    let parts = signer.sign(method, path, &[], body.as_bytes()).parts;
    let headers =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
    format!("{method} {path} HTTP/1.1\r\n{}", headers.collect::<String>())
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and returns everything that comes until the server closes.
    async fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_request_without_a_signature_is_refused_before_its_body_comes() {
    let server = server().await;
    let head = "POST /2025-09-09/microvms HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000\r\n\
                expect: 100-continue\r\n\r\n";
    let answer = server.exchange(head).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("x-amzn-errortype: MissingAuthenticationTokenException\r\n"), "{answer}");
    assert!(answer.contains("x-amzn-requestid: ") && !answer.contains("100 Continue"), "{answer}");
    assert!(answer.ends_with("{\"message\":\"Missing Authentication Token\"}"), "{answer}");
}

#[tokio::test]
async fn connections_are_kept_and_a_body_is_asked_for() {
    let server = server().await;
    let mut stream = server.connect().await;
    let get = signed("GET", "/2025-09-09/microvms", "") + "\r\n";
    for _ in 0..2 {
        stream.write_all(get.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"items\":[]}"), "{answer}");
    }
    let body = "{\"imageIdentifier\":\"none\"}";
    let head = signed("POST", "/2025-09-09/microvms", body);
    let head =
        format!("{head}connection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("No active version found"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let server = server().await;
    let head = signed("POST", "/2025-09-09/microvms", "") + "connection: close\r\n";
    let answer = server.exchange(&format!("{head}content-length: 3000000\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let body = "a".repeat(0x20_0001);
    let chunks = format!("{head}transfer-encoding: chunked\r\n\r\n200001\r\n{body}");
    let answer = server.exchange(&chunks).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_not_kept() {
    let server = server().await;
    for sent in ["", "GET / HTTP/1.1\r\nhost", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // It ends by itself. What HTTP says at the end is HTTP's.
        let _ = stream.read_to_end(&mut answer).await;
    }
}

#[tokio::test]
async fn an_address_has_a_limited_number_of_connections() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let connections = ConnectionLimits { per_client: 3, ..ConnectionLimits::default() };
    let server = serve(AwsConfig { connections, ..AwsConfig::default() }).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(server.connect().await);
    }
    assert_eq!(server.exchange("").await, "", "one too many is closed without an answer");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let mut other = socket.connect(server.address).await.unwrap();
    for client in [&mut other, kept.last_mut().unwrap()] {
        client.write_all(GET).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_listener_ends_with_the_daemon_whatever_its_clients_do() {
    let server = server().await;
    let mut client = server.connect().await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.read_u8().await.unwrap();
    server.end.send(true).unwrap();
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn curl_signs_and_asks_over_tls_in_both_versions_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(certified(folder.path())).await;
    let url = format!("https://localhost:{}/2025-09-09/microvms", server.address.port());
    let (id, secret, _) = KEYS[0];
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            version,
            "--write-out",
            " %{http_version}",
        ]);
        curl.args(["--aws-sigv4", "aws:amz:us-east-1:lambda", "--user", &format!("{id}:{secret}")]);
        curl.arg("--cacert").arg(folder.path().join("ca.pem")).arg(&url);
        let output = tokio::task::spawn_blocking(move || curl.output()).await.unwrap();
        let output = output.expect("curl cannot be run; `cargo xtask test` installs it");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{{\"items\":[]}} {number}"), "{errors}");
    }
}
