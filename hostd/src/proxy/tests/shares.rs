//! Tests of clients that take as much as they can get, beside others.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;
use crate::api::connections::tests::raw::{PREFACE, frame};
use crate::proxy::shares::bytes::CONNECTION;

const OTHERS: &str = "444455556666";
/// Greatest size of a piece of a response, in bytes.
const PIECE: usize = 64 << 10;

fn limits(connections: EndpointConnections) -> Wish {
    Wish { connections, ..Wish::default() }
}

impl Host {
    /// A request to another microVM.
    fn get_from(&self, id: &str, name: &str, path: &str) -> Request<Body> {
        let endpoint = format!("{name}.{DOMAIN}");
        let grant = Grant { microvm_id: id.to_owned(), endpoint: endpoint.clone(), ..Self::grant() };
        let token = self.tokens.mint(&grant).unwrap();
        let request = Request::builder().uri(format!("https://{endpoint}{path}")).header("host", endpoint);
        request.header("x-aws-proxy-auth", token).body(nothing()).unwrap()
    }

    fn refused(&self, limit: &str) -> usize {
        let line = format!("hearth_endpoint_refusals_total{{limit=\"{limit}\"}} ");
        let text = self.metrics.text().unwrap();
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Waits until the endpoint has closed a connection.
async fn closed(stream: &mut TcpStream) {
    let ended = tokio::time::timeout(LONG, stream.read(&mut [0])).await.expect("it stays open");
    assert!(ended.is_err() || ended.is_ok_and(|length| length == 0));
}

#[tokio::test]
async fn a_client_without_a_token_has_a_limited_number_of_connections() {
    let connections = EndpointConnections { per_client: 3, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    // Those with a token are not among them.
    let mut known = Vec::new();
    for _ in 0..5 {
        let mut client = host.http1().await;
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
        known.push(client);
    }
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(host.raw().await);
    }
    for number in 1..=3 {
        closed(&mut host.raw().await).await;
        assert_eq!(host.refused("client"), number);
    }
    for client in &mut known {
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
    }
    drop(strangers);
    host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 5\n")).await;
    assert_eq!(host.http2().await.send(host.get("/count")).await.status(), 200);
}

#[tokio::test]
async fn when_all_places_are_taken_the_oldest_connection_without_a_token_makes_room() {
    let connections = EndpointConnections {
        total: 4,
        per_account: Some(4),
        per_microvm: Some(4),
        handshake_seconds: 600, // no place becomes free by itself
        ..EndpointConnections::default()
    };
    let host = Host::with(limits(connections)).await;
    let (mut one, two) = (host.http1().await, host.http2().await);
    assert_eq!(one.send(host.get("/count")).await.status(), 200);
    assert_eq!(two.clone().send(host.get("/count")).await.status(), 200);
    let (mut oldest, mut younger) = (host.raw().await, host.raw().await);
    host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 4\n")).await;
    let mut newcomer = tokio::time::timeout(LONG, host.http1()).await.expect("there is no room");
    assert_eq!(newcomer.send(host.get("/count")).await.status(), 200);
    closed(&mut oldest).await;
    assert_eq!(host.refused("total"), 1);
    let mut another = host.http2().await;
    assert_eq!(another.send(host.get("/count")).await.status(), 200);
    closed(&mut younger).await;
    assert_eq!(one.send(host.get("/count")).await.status(), 200);
    assert_eq!(two.clone().send(host.get("/count")).await.status(), 200);
}

#[tokio::test]
async fn one_accounts_connections_leave_room_for_others() {
    let connections =
        EndpointConnections { per_account: Some(3), per_microvm: Some(2), ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    host.launch("microvm-2", "two", None).await;
    host.launch("microvm-3", "three", Some(OTHERS)).await;
    let mut flood = vec![host.http1().await, host.http1().await];
    for client in &mut flood {
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
    }
    let mut more = host.http2().await;
    for _ in 0..2 {
        let response = more.send(host.get("/count")).await;
        assert_eq!(response.headers()["retry-after"], "1");
        let (status, code, why) = refusal(response).await;
        assert_eq!((status, code.as_str()), (429, "TOO_MANY_REQUESTS"));
        assert!(why.contains("2 connections") && why.contains("endpoint.connections.per_microvm"), "{why}");
    }
    let two = || host.get_from("microvm-2", "two", "/count");
    let mut second = host.http1_to(&format!("two.{DOMAIN}")).await;
    assert_eq!(second.send(two()).await.status(), 200);
    let mut third = host.http1_to(&format!("two.{DOMAIN}")).await;
    let (status, _, why) = refusal(third.send(two()).await).await;
    assert!(status == 429 && why.contains("endpoint.connections.per_account"), "{status} {why}");
    assert_eq!((host.refused("microvm_connections"), host.refused("account_connections")), (2, 1));
    let mut other = host.http2_to(&format!("three.{DOMAIN}")).await;
    assert_eq!(other.send(host.get_from("microvm-3", "three", "/count")).await.status(), 200);
    // The same connection is served when another one has ended.
    flood.pop();
    host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 5\n")).await;
    assert_eq!(third.send(two()).await.status(), 200);
}

#[tokio::test]
async fn requests_websockets_and_shells_are_counted_together() {
    let connections = EndpointConnections { requests_per_microvm: 3, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    let socket = host.chat().await;
    let shell = host.shell("/").await;
    let client = host.http2().await;
    let (slow, request) = (client.clone(), host.get("/slow"));
    let slow = tokio::spawn(async move { slow.clone().send(request).await.status() });
    host.app.arrived.notified().await;
    let (status, _, why) = refusal(client.clone().send(host.get("/count")).await).await;
    assert!(status == 429 && why.contains("endpoint.connections.requests_per_microvm"), "{status} {why}");
    assert_eq!(host.refused("microvm_requests"), 1);
    host.app.go.add_permits(1);
    assert_eq!(slow.await.unwrap(), 200);
    assert_eq!(client.clone().send(host.get("/count")).await.status(), 200);
    // What has ended gives its place back.
    drop((socket, shell));
    host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 1\n")).await;
    let streams: Vec<_> = (0..3).map(|_| (client.clone(), host.get("/stream"))).collect();
    let mut open = Vec::new();
    for (mut client, request) in streams {
        open.push(client.send(request).await);
    }
    assert_eq!(refusal(client.clone().send(host.get("/count")).await).await.0, 429);
}

/// A header of HTTP/2 that is not compressed (RFC 7541, sections 5.1 and 6.2.2).
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = Vec::new();
        match u8::try_from(text.len()) {
            Ok(length @ 0..127) => bytes.push(length),
            _ => {
                let rest = text.len() - 127;
                bytes.extend([
                    127,
                    u8::try_from(rest % 128).unwrap() | 128,
                    u8::try_from(rest / 128).unwrap(),
                ]);
            }
        }
        bytes.extend(text.as_bytes());
        bytes
    };
    [vec![0], text(name), text(value)].concat()
}

/// A client that has opened all windows, asks for endless answers, and reads nothing.
async fn not_reading(host: &Host, streams: u32) -> TlsStream<TcpStream> {
    let mut stream = host.tls(&Host::name(), b"h2").await;
    let largest = i32::MAX.cast_unsigned();
    let settings = [&[0, 4][..], &largest.to_be_bytes()].concat();
    let mut bytes =
        [PREFACE, &frame(4, 0, 0, &settings), &frame(8, 0, 0, &(largest - 65_535).to_be_bytes())].concat();
    let head = [
        vec![0x82, 0x87], // `:method: GET`, `:scheme: https`
        header(":path", &format!("/zeros/{}", 1_u64 << 40)),
        header(":authority", &Host::name()),
        header("x-aws-proxy-auth", &host.token()),
    ]
    .concat();
    for number in 0..streams {
        bytes.extend(frame(1, 5, 2 * number + 1, &head));
    }
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn what_a_connection_does_not_read_is_bounded() {
    /// What may be counted at once beyond the limit: a piece that was on its way.
    const BEYOND: usize = PIECE;
    let connections =
        EndpointConnections { buffered_mib_per_account: 1024, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    let stalled = not_reading(&host, 100).await;
    host.when(|host| host.shares.buffered(ACCOUNT) >= CONNECTION / 2).await;
    let mut client = host.http2().await;
    for _ in 0..50 {
        assert_eq!(client.send(host.get("/count")).await.status(), 200);
        let buffered = host.shares.buffered(ACCOUNT);
        assert!(buffered <= CONNECTION + BEYOND, "{buffered}");
    }
    drop((stalled, client));
    host.when(|host| host.shares.buffered(ACCOUNT) == 0).await;
}

#[tokio::test]
async fn what_an_account_does_not_read_is_bounded_and_those_who_read_go_on() {
    const SLOW: usize = 6;
    const BUDGET: usize = 2 << 20;
    const SIZE: usize = 4 << 20;
    let connections = EndpointConnections { buffered_mib_per_account: 2, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    host.launch("microvm-3", "three", Some(OTHERS)).await;
    let mut stalled = Vec::new();
    for _ in 0..SLOW {
        stalled.push(not_reading(&host, 20).await);
    }
    host.when(|host| host.shares.buffered(ACCOUNT) >= BUDGET).await;
    let path = format!("/zeros/{SIZE}");
    for _ in 0..3 {
        let length = text(host.http2().await.send(host.get(&path)).await).await.len();
        assert_eq!(length, SIZE, "whoever reads gets all");
        let length = text(host.http1().await.send(host.get(&path)).await).await.len();
        assert_eq!(length, SIZE);
        let buffered = host.shares.buffered(ACCOUNT);
        assert!(buffered <= BUDGET + (SLOW + 2) * PIECE, "{buffered}");
    }
    let mut other = host.http2_to(&format!("three.{DOMAIN}")).await;
    let length = text(other.send(host.get_from("microvm-3", "three", &path)).await).await.len();
    assert_eq!((length, host.shares.buffered(OTHERS)), (SIZE, 0));
    let sent = host.app.sent.load(Ordering::SeqCst);
    assert!(sent > 0);
    drop(stalled);
    host.when(|host| host.shares.buffered(ACCOUNT) == 0).await;
}

#[tokio::test]
async fn uploads_that_no_app_reads_are_bounded() {
    let connections = EndpointConnections { buffered_mib_per_account: 8, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    let endless = || {
        let pieces = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[7; 1 << 14]))));
        BoxBody::new(StreamBody::new(pieces))
    };
    let mut uploading = Vec::new();
    for _ in 0..2 {
        let client = host.http2().await;
        // The windows of five streams are larger than the one of their connection.
        for _ in 0..5 {
            let (mut client, request) = (client.clone(), host.request("POST", "/slow", endless()));
            uploading.push(tokio::spawn(async move { client.send(request).await.status() }));
            host.app.arrived.notified().await;
        }
    }
    assert_eq!(host.shares.buffered(ACCOUNT), 8 << 20);
    let mut client = host.http2().await;
    let (status, _, why) = refusal(client.send(host.request("POST", "/echo", full("x"))).await).await;
    assert!(status == 429 && why.contains("8 MiB"), "{status} {why}");
    assert_eq!(host.refused("account_bytes"), 1);
    assert_eq!(client.send(host.get("/count")).await.status(), 200);
    host.app.go.add_permits(10);
    for upload in uploading {
        assert_eq!(upload.await.unwrap(), 200);
    }
    host.when(|host| host.shares.buffered(ACCOUNT) == 0).await;
    assert_eq!(text(client.send(host.request("POST", "/echo", full("x"))).await).await, "x");
}

#[tokio::test]
async fn shells_have_room_or_are_refused() {
    let connections = EndpointConnections { buffered_mib_per_account: 1, ..EndpointConnections::default() };
    let host = Host::with(limits(connections)).await;
    let mut shell = host.shell("/").await;
    let mut request = format!("wss://{}/", Host::name()).into_client_request().unwrap();
    request.headers_mut().insert("x-aws-proxy-auth", host.shell_token().parse().unwrap());
    let stream = host.tls(&Host::name(), b"http/1.1").await;
    let refused = tokio_tungstenite::client_async(request, stream).await.unwrap_err();
    assert!(refused.to_string().contains("429"), "{refused}");
    shell.close(None).await.unwrap();
    while shell.next().await.is_some() {}
    host.when(|host| host.shares.buffered(ACCOUNT) == 0).await;
    host.shell("/").await;
}
