//! Clients of microVMs' endpoints.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_proto::host::v1::{EndpointStatus, GetHostStatusRequest};
use hearth_proto::microvms::v1::port_specification::Specification;
use hearth_proto::microvms::v1::{
    CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest, Microvm, PortSpecification,
};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::Request;
use hyper::http::request::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tonic::Status;

use super::Daemon;

/// The header with a token, and the name of a token in responses.
pub(crate) const HEADER: &str = "X-aws-proxy-auth";
/// The port of the apps.
const PORT: i32 = 8080;

/// A connection, which comes from this address if one is given.
pub(crate) async fn connect_from(from: Option<Ipv4Addr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    socket.connect(to).await
}

/// A client that trusts this authority alone.
pub(crate) fn trusting(authority_pem: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A request for a token for the app's port.
pub(crate) fn token_request(microvm: &Microvm) -> CreateMicrovmAuthTokenRequest {
    CreateMicrovmAuthTokenRequest {
        microvm_identifier: Some(microvm.microvm_id.clone()),
        expiration_in_minutes: Some(30),
        allowed_ports: vec![PortSpecification { specification: Some(Specification::Port(PORT)) }],
    }
}

/// Bytes of input that are sent at once.
const PIECE: usize = 64 << 10;

/// What a program with pipes has written, and its exit status; none if it was cut off.
#[derive(Debug, Default)]
pub(crate) struct Piped {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) code: Option<i64>,
}

/// A client of one microVM's endpoint.
pub(crate) struct Endpoint {
    address: SocketAddr,
    /// The address that connections come from; any unless given.
    pub(crate) from: Option<Ipv4Addr>,
    name: String,
    pub(crate) token: String,
    shell: Result<String, Status>,
    tls: TlsConnector,
    websocket: TlsConnector,
}

impl Endpoint {
    pub(crate) async fn of(daemon: &Daemon, microvm: &Microvm) -> Self {
        let status = daemon.host().get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
        let tokens = daemon.api().create_microvm_auth_token(token_request(microvm)).await.unwrap();
        let wanted = CreateMicrovmShellAuthTokenRequest {
            microvm_identifier: Some(microvm.microvm_id.clone()),
            expiration_in_minutes: Some(30),
        };
        let shell = daemon.api().create_microvm_shell_auth_token(wanted).await;
        Self::with(
            &status.endpoint.unwrap(),
            microvm,
            &tokens.into_inner().auth_token,
            shell.map(|answer| answer.into_inner().auth_token[HEADER].clone()),
        )
    }

    /// The endpoint of a microVM, with tokens.
    pub(crate) fn with(
        endpoint: &EndpointStatus,
        microvm: &Microvm,
        tokens: &BTreeMap<String, String>,
        shell: Result<String, Status>,
    ) -> Self {
        assert!(microvm.endpoint.ends_with(&format!(".{}", endpoint.domain)), "{microvm:?}");
        let mut tls = trusting(endpoint.certificate_authority_pem.as_bytes());
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let mut websocket = tls.clone();
        websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address: endpoint.address.parse().unwrap(),
            from: None,
            name: microvm.endpoint.clone(),
            token: tokens[HEADER].clone(),
            shell,
            tls: TlsConnector::from(Arc::new(tls)),
            websocket: TlsConnector::from(Arc::new(websocket)),
        }
    }

    async fn connect(&self, tls: &TlsConnector) -> TlsStream<TcpStream> {
        let stream = connect_from(self.from, self.address).await.unwrap();
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

    /// The beginning of a response, whose rest comes as it is read; none if it was refused.
    pub(crate) async fn begin(&self, path: &str) -> Option<impl Send + use<>> {
        let stream = connect_from(self.from, self.address).await.ok()?;
        let name = ServerName::try_from(self.name.clone()).unwrap();
        let stream = TokioIo::new(self.tls.connect(name, stream).await.ok()?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.ok()?;
        let mut serving = JoinSet::new();
        serving.spawn(connection);
        let request = self.request("GET", path, &self.token).body(Full::new(Bytes::new())).unwrap();
        let response = sender.send_request(request).await.ok()?;
        response.status().is_success().then_some((response, sender, serving))
    }

    fn request(&self, method: &str, path: &str, token: &str) -> Builder {
        let uri = format!("https://{}{path}", self.name);
        Request::builder().method(method).uri(uri).header(HEADER, token)
    }

    /// Status and text of a response.
    pub(crate) async fn send(&self, method: &str, path: &str, token: &str) -> (u16, String) {
        let (status, body) = self.exchange(self.request(method, path, token), Bytes::new()).await;
        (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// The counts that a gRPC call with several responses returns.
    pub(crate) async fn count_up(&self, times: u8) -> Vec<u8> {
        let request = self.request("POST", "/hearth.example.v1.Counter/CountUp", &self.token);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        // An uncompressed message of 2 bytes: field 1.
        let (status, body) = self.exchange(request, Bytes::from(vec![0, 0, 0, 0, 2, 8, times])).await;
        let trailers = body.trailers().cloned().unwrap_or_default();
        assert_eq!((status, trailers["grpc-status"].to_str().unwrap()), (200, "0"));
        body.to_bytes().chunks(7).map(|message| message[6]).collect()
    }

    /// The response to a message over a WebSocket.
    pub(crate) async fn message(&self) -> String {
        let mut request = format!("wss://{}/socket", self.name).into_client_request().unwrap();
        request.headers_mut().insert(HEADER, self.token.parse().unwrap());
        let stream = self.connect(&self.websocket).await;
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        socket.send(Message::text("count")).await.unwrap();
        let answer = socket.next().await.unwrap().unwrap().into_text().unwrap().to_string();
        socket.close(None).await.unwrap();
        answer
    }

    /// The output of a program on a terminal in the app's container, and its exit status.
    pub(crate) async fn run(&self, command: &[&str]) -> (String, i64) {
        let stream = self.connect(&self.websocket).await;
        let mut request = format!("wss://{}/?ext=1", self.name).into_client_request().unwrap();
        let token = self.shell.clone().unwrap().parse().unwrap();
        request.headers_mut().insert(HEADER, token);
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

    /// Starts a program with pipes.
    pub(crate) async fn pipes(&self, command: &[&str]) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.connect(&self.websocket).await;
        let mut request = format!("wss://{}/?ext=1&streams=pipes", self.name).into_client_request().unwrap();
        let token = self.shell.clone().unwrap().parse().unwrap();
        request.headers_mut().insert(HEADER, token);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let exec = serde_json::json!({ "type": "exec", "command": command });
        socket.send(Message::text(exec.to_string())).await.unwrap();
        socket
    }

    /// What a program with pipes makes of this input.
    pub(crate) async fn pipe(&self, command: &[&str], input: &[u8]) -> Piped {
        let (mut sink, mut frames) = self.pipes(command).await.split();
        let (taken, mut told) = tokio::sync::watch::channel(0);
        let feeding = async {
            let (mut sent, mut rest) = (0, input);
            while !rest.is_empty() {
                let window = usize::try_from(*told.wait_for(|told| *told > sent as u64).await.unwrap())
                    .unwrap()
                    - sent;
                let (piece, after) = rest.split_at(window.min(rest.len()).min(PIECE));
                // A program that has ended takes no more.
                if sink.send(Message::binary([&[0], piece].concat())).await.is_err() {
                    break;
                }
                (sent, rest) = (sent + piece.len(), after);
            }
            drop(sink.send(Message::text(r#"{"type":"end_of_input"}"#)).await);
            std::future::pending::<()>().await;
        };
        let receiving = async {
            let mut piped = Piped::default();
            let mut window = 0;
            while let Some(Ok(message)) = frames.next().await {
                match message {
                    Message::Binary(bytes) if bytes[0] == 1 => piped.stdout.extend_from_slice(&bytes[1..]),
                    Message::Binary(bytes) => piped.stderr += std::str::from_utf8(&bytes[1..]).unwrap(),
                    Message::Text(text) => {
                        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
                        window = said["window"].as_u64().unwrap_or(window);
                        taken.send_replace(said["bytes"].as_u64().unwrap_or(0) + window);
                        piped.code = said["code"].as_i64().or(piped.code);
                    }
                    _ => {}
                }
            }
            piped
        };
        tokio::select! {
            piped = receiving => piped,
            () = feeding => unreachable!(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, &self.token).await
    }

    pub(crate) async fn count(&self) -> u64 {
        let (status, text) = self.get("/").await;
        assert_eq!(status, 200, "{text}");
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }
}
