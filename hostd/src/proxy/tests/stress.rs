//! Endpoints under load, and malicious clients. Bounded in number and time, on the loopback device.

use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use proptest::prelude::{Strategy as _, any, prop};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::*;
use crate::api::connections::tests::raw::{PREFACE, frame};

impl Host {
    /// Checks that the endpoint responds, and that nothing is left of earlier clients.
    async fn is_well(&self) {
        let mut client = self.http2().await;
        assert_eq!(client.send(self.get("/count")).await.status(), 200);
        drop(client);
        let gate = self.microvms.gate("microvm-1").unwrap();
        self.when(|_| gate.counts() == (0, 0, 0)).await;
        self.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 0\n")).await;
    }

    /// Sends bytes, and reads until the endpoint closes the connection or a timeout expires.
    async fn provoke(
        &self,
        mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        bytes: &[u8],
    ) {
        let _ = stream.write_all(bytes).await; // the endpoint may have closed the connection already
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
    }
}

#[tokio::test]
async fn two_thousand_connections_to_twenty_microvms_are_served_and_kept() {
    const MICROVMS: usize = 20;
    const CONNECTIONS: usize = 2000;
    let host = Arc::new(Host::new().await);
    for number in 2..=MICROVMS {
        host.launch(&format!("microvm-{number}"), &format!("vm-{number}"), None).await;
    }
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for number in 0..CONNECTIONS {
        let (host, microvm) = (Arc::clone(&host), number % MICROVMS + 1);
        opening.spawn(async move {
            let grant =
                Grant { microvm_id: format!("microvm-{microvm}"), endpoint: name(microvm), ..Host::grant() };
            let token = host.tokens.mint(&grant).unwrap();
            let mut client = Some(if number % 2 == 0 {
                Client::Http1(host.http1_to(&name(microvm)).await)
            } else {
                Client::Http2(host.http2_to(&name(microvm)).await)
            });
            client.as_mut().unwrap().count(&token, microvm).await;
            (client.take().unwrap(), token, microvm)
        });
        // As many at a time as fit into a listener's queue.
        if opening.len() >= 64 {
            open.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened.unwrap());
    }
    let all = format!("hearth_endpoint_connections {CONNECTIONS}\n");
    let counted = async {
        while !host.metrics.text().unwrap().contains(&all) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // A connection that was aborted while it was opened is counted until its thread notices.
    let counted = tokio::time::timeout(LONG, counted).await;
    assert!(counted.is_ok(), "as many as are open are counted: {}", host.metrics.text().unwrap());
    for (client, token, microvm) in &mut open {
        client.count(token, *microvm).await;
    }
    assert_eq!(host.app.count.load(Ordering::SeqCst), 2 * CONNECTIONS);
    drop(open);
    host.is_well().await;
}

/// Host name of a microVM's endpoint.
fn name(number: usize) -> String {
    if number == 1 { Host::name() } else { format!("vm-{number}.{DOMAIN}") }
}

enum Client {
    Http1(Http1),
    Http2(Http2),
}

impl Client {
    async fn count(&mut self, token: &str, microvm: usize) {
        let request = Request::builder()
            .uri(format!("https://{}/count", name(microvm)))
            .header("host", name(microvm))
            .header("x-aws-proxy-auth", token)
            .body(nothing())
            .unwrap();
        let response = match self {
            Self::Http1(client) => client.send(request).await,
            Self::Http2(client) => client.send(request).await,
        };
        assert_eq!(response.status(), 200, "{response:?}");
        text(response).await;
    }
}

#[tokio::test]
async fn a_reader_that_is_slow_holds_up_its_own_answer_only() {
    const ENDLESS: usize = 1 << 40;
    /// Bytes that may be on the way between the app and the client: in buffers of sockets, windows, and pieces in
    /// transit.
    const BETWEEN: usize = 96 << 20;
    let host = Host::new().await;
    let path = format!("/zeros/{ENDLESS}");
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(host.http2().await.send(host.get(&path)).await);
        stalled.push(host.http1().await.send(host.get(&path)).await);
    }
    let mut client = host.http2().await;
    for _ in 0..200 {
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
    }
    let sent = host.app.sent.load(Ordering::SeqCst);
    assert!(sent < BETWEEN, "{sent} bytes were taken from the app that nobody reads");
    drop((stalled, client));
    host.is_well().await;
}

#[tokio::test]
async fn a_writer_that_is_slow_gets_its_answer() {
    let host = Host::new().await;
    let mut writers = JoinSet::new();
    for number in 0..20 {
        let mut client = host.http1().await;
        let pieces = futures_util::stream::unfold(0, move |piece| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (piece < 40).then(|| (Ok(hyper::body::Frame::data(Bytes::from(vec![number; 10]))), piece + 1))
        });
        let request = host.request("POST", "/echo", BoxBody::new(http_body_util::StreamBody::new(pieces)));
        writers.spawn(async move { text(client.send(request).await).await.len() });
    }
    while let Some(length) = writers.join_next().await {
        assert_eq!(length.unwrap(), 400);
    }
    host.is_well().await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_cost_the_client_its_connection() {
    let host = Host::new().await;
    let mut stream = host.tls(&Host::name(), b"h2").await;
    let mut flood = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for number in 0..2000_u32 {
        // HEADERS with `:method: GET`, `:scheme: https`, `:path: /` from the static table, then RST_STREAM.
        flood.extend(frame(1, 5, 2 * number + 1, &[0x82, 0x87, 0x84]));
        flood.extend(frame(3, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&flood).await; // the connection may be closed meanwhile
    let mut answer = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it stays open").ok();
    // The last frame is GOAWAY with ENHANCE_YOUR_CALM.
    let goaway = answer.windows(4).any(|bytes| bytes == 11_u32.to_be_bytes());
    assert!(goaway, "{} bytes", answer.len());
    host.is_well().await;
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let host = Host::new().await;
    let line = format!("x-{}: {}\r\n", "a".repeat(20), "b".repeat(1000));
    let flood = format!("GET / HTTP/1.1\r\nhost: {}\r\n{}\r\n", Host::name(), line.repeat(1000));
    let mut stream = host.tls(&Host::name(), b"http/1.1").await;
    let _ = stream.write_all(flood.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it stays open");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    // HEADERS without END_HEADERS, and CONTINUATION frames without end.
    let mut flood = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0, 1, &[0x82, 0x87, 0x84])].concat();
    for _ in 0..2000 {
        // A literal that is not indexed: name "a", value of 1,000 bytes.
        let literal = [&[0x00, 0x01, b'a', 0x7f, 0xe9, 0x06], &[b'b'; 1000][..]].concat();
        flood.extend(frame(9, 0, 1, &literal));
    }
    let mut stream = host.tls(&Host::name(), b"h2").await;
    let _ = stream.write_all(&flood).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("it stays open");
    drop(stream);
    host.is_well().await;
}

#[tokio::test]
async fn whatever_is_sent_the_endpoint_goes_on() {
    let host = Arc::new(Host::new().await);
    let bytes = || prop::collection::vec(any::<u8>(), 0..600);
    let frames = prop::collection::vec((0..12_u8, any::<u8>(), 0..8_u32, bytes()), 0..12);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for _ in 0..60 {
        let random = bytes().new_tree(&mut runner).unwrap().current();
        let frames = frames.new_tree(&mut runner).unwrap().current().into_iter();
        let frames = frames.flat_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload));
        let http2: Vec<u8> = PREFACE.iter().copied().chain(frame(4, 0, 0, &[])).chain(frames).collect();
        let start = format!(
            "POST /echo HTTP/1.1\r\nhost: {}\r\nx-aws-proxy-auth: {}\r\n",
            Host::name(),
            host.token()
        );
        let chunked = [start.as_bytes(), b"transfer-encoding: chunked\r\n\r\n", &random].concat();
        let broken = [start.as_bytes(), &random].concat();
        let raw = TcpStream::connect(host.address).await.unwrap();
        host.provoke(raw, &random).await;
        host.provoke(host.tls(&Host::name(), b"http/1.1").await, &chunked).await;
        host.provoke(host.tls(&Host::name(), b"http/1.1").await, &broken).await;
        host.provoke(host.tls(&Host::name(), b"h2").await, &http2).await;
        host.provoke(host.tls(&Host::name(), b"h2").await, &random).await;
        // A WebSocket, and a shell, whose client sends no frames.
        for (path, token) in [("/chat", host.token()), ("/", host.shell_token())] {
            let mut request = format!("wss://{}{path}", Host::name()).into_client_request().unwrap();
            request.headers_mut().insert("x-aws-proxy-auth", token.parse().unwrap());
            let stream = host.tls(&Host::name(), b"http/1.1").await;
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
            socket.send(Message::text("a")).await.unwrap();
            let _ = socket.next().await;
            host.provoke(socket.into_inner(), &random).await;
        }
    }
    host.is_well().await;
}
