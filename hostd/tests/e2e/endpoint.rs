//! Endpoints: requests from outside to the apps of microVMs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_proto::host::v1::GetHostStatusRequest;
use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_proto::microvms::v1::port_specification::Specification;
use hearth_proto::microvms::v1::{
    CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest, IdlePolicy, Microvm, MicrovmState,
    PortSpecification,
};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::Request;
use hyper::http::request::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tonic::Status;

use crate::support::api::request;
use crate::support::site::full;
use crate::support::{Daemon, until};

/// Number of requests in a wave; below, the number of waves.
const WAVE: usize = 12;
const WAVES: usize = 4;

/// A client of one microVM's endpoint.
struct Endpoint {
    address: SocketAddr,
    name: String,
    token: String,
    shell: Result<String, Status>,
    tls: TlsConnector,
    websocket: TlsConnector,
}

impl Endpoint {
    async fn of(daemon: &Daemon, microvm: &Microvm) -> Self {
        let status = daemon.host().get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
        let endpoint = status.endpoint.unwrap();
        assert!(microvm.endpoint.ends_with(&format!(".{}", endpoint.domain)), "{microvm:?}");
        let allowed_ports = vec![PortSpecification { specification: Some(Specification::Port(8080)) }];
        let wanted = CreateMicrovmAuthTokenRequest {
            microvm_identifier: Some(microvm.microvm_id.clone()),
            expiration_in_minutes: Some(30),
            allowed_ports,
        };
        let tokens = daemon.api().create_microvm_auth_token(wanted).await.unwrap().into_inner().auth_token;
        let wanted = CreateMicrovmShellAuthTokenRequest {
            microvm_identifier: Some(microvm.microvm_id.clone()),
            expiration_in_minutes: Some(30),
        };
        let shell = daemon.api().create_microvm_shell_auth_token(wanted).await;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(endpoint.certificate_authority_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let mut websocket = tls.clone();
        websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address: endpoint.address.parse().unwrap(),
            name: microvm.endpoint.clone(),
            token: tokens["X-aws-proxy-auth"].clone(),
            shell: shell.map(|answer| answer.into_inner().auth_token["X-aws-proxy-auth"].clone()),
            tls: TlsConnector::from(Arc::new(tls)),
            websocket: TlsConnector::from(Arc::new(websocket)),
        }
    }

    async fn connect(&self, tls: &TlsConnector) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(self.name.clone()).unwrap();
        tls.connect(name, stream).await.unwrap()
    }

    /// A response with its trailers, over a connection of its own.
    async fn exchange(&self, request: Builder, body: Bytes) -> (u16, Collected<Bytes>) {
        let stream = TokioIo::new(self.connect(&self.tls).await);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.unwrap();
        let serving = tokio::spawn(connection);
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let answer = (response.status().as_u16(), response.into_body().collect().await.unwrap());
        serving.abort();
        answer
    }

    fn request(&self, method: &str, path: &str, token: &str) -> Builder {
        let uri = format!("https://{}{path}", self.name);
        Request::builder().method(method).uri(uri).header("x-aws-proxy-auth", token)
    }

    /// Status and text of a response.
    async fn send(&self, method: &str, path: &str, token: &str) -> (u16, String) {
        let (status, body) = self.exchange(self.request(method, path, token), Bytes::new()).await;
        (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// The counts that a gRPC call with several responses returns.
    async fn count_up(&self, times: u8) -> Vec<u8> {
        let request = self.request("POST", "/hearth.example.v1.Counter/CountUp", &self.token);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        // An uncompressed message of 2 bytes: field 1.
        let (status, body) = self.exchange(request, Bytes::from(vec![0, 0, 0, 0, 2, 8, times])).await;
        let trailers = body.trailers().cloned().unwrap_or_default();
        assert_eq!((status, trailers["grpc-status"].to_str().unwrap()), (200, "0"));
        body.to_bytes().chunks(7).map(|message| message[6]).collect()
    }

    /// The response to a message over a WebSocket.
    async fn message(&self) -> String {
        let mut request = format!("wss://{}/socket", self.name).into_client_request().unwrap();
        request.headers_mut().insert("x-aws-proxy-auth", self.token.parse().unwrap());
        let stream = self.connect(&self.websocket).await;
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        socket.send(Message::text("count")).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
        socket.close(None).await.unwrap();
        answer
    }

    /// The output of a program on a terminal in the app's container, and its exit status.
    async fn run(&self, command: &[&str]) -> (String, i64) {
        let stream = self.connect(&self.websocket).await;
        let mut request = format!("wss://{}/?ext=1", self.name).into_client_request().unwrap();
        let token = self.shell.clone().unwrap().parse().unwrap();
        request.headers_mut().insert("x-aws-proxy-auth", token);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let exec = serde_json::json!({ "type": "exec", "command": command });
        socket.send(Message::text(exec.to_string())).await.unwrap();
        let (mut shown, mut code) = (Vec::new(), None);
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => shown.extend_from_slice(&bytes),
                Message::Text(text) => {
                    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
                    code = said["code"].as_i64().or(code);
                }
                _ => {}
            }
        }
        (String::from_utf8(shown).unwrap(), code.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, &self.token).await
    }

    async fn count(&self) -> u64 {
        let (status, text) = self.get("/").await;
        assert_eq!(status, 200, "{text}");
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

async fn state(daemon: &Daemon, id: &str) -> MicrovmState {
    daemon.get(id).await.unwrap().state()
}

#[tokio::test]
async fn an_app_answers_at_its_endpoint_and_wakes_up_for_a_request() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let mut wanted = request(&daemon.counter().await);
    let connector =
        |name| format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}");
    wanted.ingress_network_connectors = ["HTTP_INGRESS", "SHELL_INGRESS"].map(connector).to_vec();
    wanted.idle_policy = Some(IdlePolicy {
        max_idle_duration_seconds: Some(60),
        suspended_duration_seconds: Some(3600),
        auto_resume_enabled: Some(true),
    });
    let launched = daemon.launch(wanted).await.unwrap();
    let id = launched.microvm_id.as_str();
    let endpoint = Endpoint::of(&daemon, &launched).await;
    // A request that arrives before the microVM runs waits for it.
    assert_eq!(endpoint.count().await, 1);
    assert_eq!(state(&daemon, id).await, Running);
    assert_eq!(endpoint.count().await, 2);
    let refused = endpoint.send("GET", "/", "no token").await;
    assert_eq!(refused, (403, "Request missing authentication".to_owned()));
    let hook = "/aws/lambda-microvms/runtime/v1/terminate";
    assert_eq!(endpoint.send("POST", hook, &endpoint.token).await.0, 403);

    // A suspended microVM is resumed by an authorized request only.
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Suspended).await;
    assert_eq!(endpoint.send("GET", "/", "no token").await.0, 403);
    assert_eq!(state(&daemon, id).await, Suspended);
    let counts = tokio::join!(endpoint.count(), endpoint.count(), endpoint.count());
    let mut counts = [counts.0, counts.1, counts.2];
    counts.sort_unstable();
    assert_eq!(counts, [3, 4, 5]);
    assert_eq!(state(&daemon, id).await, Running);

    // This app's second /suspend fails, and it runs on.
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Running).await;
    // Each wave of requests finds the microVM suspended, with another suspend in its midst: every request gets
    // exactly one response.
    let mut counts = Vec::new();
    for _ in 0..WAVES {
        let _ = daemon.suspend(id).await; // the microVM may be suspended already
        daemon.wait(id, Suspended).await;
        let wave = join_all((0..WAVE).map(|_| async { [endpoint.count().await, endpoint.count().await] }));
        let (wave, _) = tokio::join!(wave, daemon.suspend(id));
        counts.extend(wave.into_iter().flatten());
    }
    counts.sort_unstable();
    assert_eq!(counts, (6..).take(2 * WAVE * WAVES).collect::<Vec<_>>());
    let mut last = counts.last().copied().unwrap();

    // A program in the app's container has the app's environment.
    last += 1;
    assert_eq!(
        endpoint.run(&["/counter", "ask", "/"]).await,
        (format!("request {last} of this microVM's life\r\n"), 0)
    );

    // Another daemon takes over; tokens stay valid.
    daemon.kill();
    daemon.restart(None).await;
    assert_eq!(state(&daemon, id).await, Running);
    assert_eq!(endpoint.count().await, last + 1);
    assert_eq!(endpoint.message().await, format!("request {} of this microVM's life", last + 2));
    assert_eq!(endpoint.count_up(2).await, [last + 3, last + 4].map(|count| u8::try_from(count).unwrap()));

    if full() {
        // Nothing passes the gate for a minute.
        tokio::time::sleep(Duration::from_secs(55)).await;
        assert_eq!(state(&daemon, id).await, Running);
        until("it is suspended", async || (state(&daemon, id).await == Suspended).then_some(())).await;
        assert_eq!(endpoint.count().await, last + 5);
    }
    daemon.terminate(id).await.unwrap();
    daemon.ended(id).await;
    assert_eq!(endpoint.get("/").await, (502, String::new()));
    daemon.finish().await;
}
