//! Clients that want to cost much: what the server does about them, and that others are served beside them.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::api::connections::config::ConnectionLimits;
use crate::api::connections::tests::raw::{
    self, CONTINUATION, END_HEADERS, GO_AWAY, HEADERS, PREFACE, RESET, SETTINGS, frame,
};

const GET: &str = "/hearth.microvms.v1.MicrovmService/GetMicrovm";
const PUT: &str = "/hearth.host.v1.HostService/PutArtifact";
/// The reason of a connection's end: the client costs too much (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u8 = 11;
/// The reason of a stream's end: it was not handled.
const REFUSED_STREAM: u8 = 7;

/// A server that listens at a port, too.
async fn listening(connections: ConnectionLimits) -> (Server, SocketAddr) {
    let address = Some((Ipv4Addr::LOCALHOST, 0).into());
    let server = serve(ListenConfig { address, connections, ..ListenConfig::default() }).await;
    let address = server.address.unwrap();
    (server, address)
}

async fn greet(stream: &mut (impl AsyncWrite + Unpin)) {
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
}

/// Whether a server answers on a connection: it sends its settings.
async fn is_answered(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let _ = stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await; // it may be closed
    raw::read(stream).await.is_some()
}

/// The status of a call whose body never ends, and how many bytes of the body the client could send.
async fn endless(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    authorization: Option<&str>,
) -> (Option<String>, usize) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let parts = std::iter::repeat_with(move || {
        // The head of a message of 1 GiB, and zeros.
        let first = counted.fetch_add(4096, Ordering::Relaxed) == 0;
        let mut part = vec![0; 4096];
        if first {
            part[1] = 0x40;
        }
        Ok::<_, Infallible>(Frame::data(Bytes::from(part)))
    });
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::post(format!("http://x{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let body = StreamBody::new(tokio_stream::iter(parts));
    let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    drop((response, sender));
    let _ = connection.await.unwrap(); // it ends with the last stream: nothing is sent any more
    (status, sent.load(Ordering::Relaxed))
}

#[tokio::test]
async fn an_unknown_caller_has_no_body_received() {
    let (server, address) = listening(ConnectionLimits::default()).await;
    let wrong = format!("Basic {}", STANDARD.encode("reader:wrong-wrong-wrong"));
    for path in [
        GET,
        PUT,
        "/hearth.microvms.v1.MicrovmService/Nothing",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Watch",
    ] {
        for authorization in [None, Some(wrong.as_str())] {
            let stream = TcpStream::connect(address).await.unwrap();
            let (status, sent) = endless(stream, path, authorization).await;
            assert_eq!(status.as_deref(), Some("16"), "UNAUTHENTICATED of {path}");
            // What HTTP/2 takes of a stream and the client keeps by itself, since nobody has read a byte.
            assert!(sent < 2 << 20, "{path}: {sent}");
        }
    }
    let seen = server.host.outside.observed.calls.lock().unwrap().clone();
    let operations: Vec<_> = seen.iter().map(|call| (call.operation, call.exception)).collect();
    let expected = [Operation::GetMicrovm, Operation::PutArtifact]
        .map(|operation| [(operation, Some("AccessDeniedException")); 2]);
    assert_eq!(operations, expected.as_flattened(), "calls of unknown callers are audited");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_when_it_is_announced() {
    let (server, address) = listening(ConnectionLimits::default()).await;
    let known = format!("Basic {}", STANDARD.encode("reader:0123456789abcdef"));
    // OUT_OF_RANGE; of health, which unknown callers may ask, too.
    for (path, authorization) in [(GET, Some(known.as_str())), ("/grpc.health.v1.Health/Check", None)] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (status, sent) = endless(stream, path, authorization).await;
        assert_eq!(status.as_deref(), Some("11"), "{path}");
        assert!(sent < 2 << 20, "{path}: {sent}");
    }
    // An operation of the service that takes uploads is bounded as the others are.
    let mut client = HostServiceClient::new(server.channel.clone());
    let list = |size: usize| ListArtifactsRequest { prefix: Some("a".repeat(size)), ..Default::default() };
    let status = client.list_artifacts(list(256 << 10)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let status = client.list_artifacts(list(200 << 10)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn whoever_has_no_key_may_ask_for_health_only() {
    let (server, address) = listening(ConnectionLimits::default()).await;
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let status = health.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    drop(server);
}

#[tokio::test]
async fn a_client_has_a_limited_number_of_connections() {
    let limits = ConnectionLimits { per_client: 3, ..ConnectionLimits::default() };
    let (server, address) = listening(limits).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(TcpStream::connect(address).await.unwrap());
    }
    let mut more = TcpStream::connect(address).await.unwrap();
    assert!(!is_answered(&mut more).await, "one too many is closed");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let mut other = socket.connect(address).await.unwrap();
    assert!(is_answered(&mut other).await, "another address has its own");
    assert!(is_answered(&mut kept[2]).await);
    // The socket counts for itself, by user; the channel of the test is one connection.
    let mut local = Vec::new();
    for _ in 0..2 {
        local.push(UnixStream::connect(server.socket()).await.unwrap());
    }
    let mut more = UnixStream::connect(server.socket()).await.unwrap();
    assert!(!is_answered(&mut more).await);
    assert!(is_answered(&mut local[1]).await);
}

/// Makes a call with a key, so that the server knows who is at the other end of this connection.
async fn become_known(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let authorization = format!("Basic {}", STANDARD.encode("reader:0123456789abcdef"));
    let headers = [raw::call(GET), raw::header("authorization", &authorization)].concat();
    stream.write_all(&frame(HEADERS, END_HEADERS | 1, 1, &headers)).await.unwrap();
    while raw::read(stream).await.expect("the call is answered").0 != HEADERS {}
}

/// Whether a server answers a ping on a connection that it has answered before.
async fn answers_pings(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let _ = stream.write_all(&frame(6, 0, 0, &[0; 8])).await; // it may be closed
    loop {
        match raw::read(stream).await {
            Some((6, ..)) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

#[tokio::test]
async fn all_clients_together_have_a_limited_number_of_connections() {
    let (_server, address) = listening(ConnectionLimits { total: 1, ..ConnectionLimits::default() }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut first).await);
    become_known(&mut first).await;
    let mut second = TcpStream::connect(address).await.unwrap();
    greet(&mut second).await;
    // While the first one is served, the second one is not.
    for _ in 0..10 {
        assert!(answers_pings(&mut first).await);
    }
    let mut byte = [0];
    let read = second.try_read(&mut byte);
    assert!(read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    drop(first);
    assert!(raw::read(&mut second).await.is_some(), "then it has its turn");
}

#[tokio::test]
async fn when_all_places_are_taken_the_oldest_unknown_client_makes_room() {
    let (_server, address) = listening(ConnectionLimits { total: 3, ..ConnectionLimits::default() }).await;
    let mut known = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut known).await);
    become_known(&mut known).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut greeted = TcpStream::connect(address).await.unwrap();
    assert!(is_answered(&mut greeted).await);
    for _ in 0..3 {
        let mut other = TcpStream::connect(address).await.unwrap();
        assert!(is_answered(&mut other).await, "there is always a place for another");
        become_known(&mut other).await;
    }
    // The oldest has made room: what the server has sent before it has an end.
    let _ = silent.read_to_end(&mut Vec::new()).await;
    assert!(answers_pings(&mut known).await, "who is known stays");
}

#[tokio::test]
async fn a_connection_has_a_limited_number_of_streams() {
    let limits = ConnectionLimits { streams: 5, ..ConnectionLimits::default() };
    let (server, _) = listening(limits).await;
    let mut stream = UnixStream::connect(server.socket()).await.unwrap();
    greet(&mut stream).await;
    let settings = raw::read(&mut stream).await.unwrap();
    assert_eq!(settings.0, SETTINGS);
    assert!(settings.3.as_chunks::<6>().0.contains(&[0, 3, 0, 0, 0, 5]), "SETTINGS_MAX_CONCURRENT_STREAMS");
    for number in 0..6 {
        let begin = frame(HEADERS, END_HEADERS, 2 * number + 1, &raw::call(PUT));
        stream.write_all(&begin).await.unwrap();
    }
    loop {
        let (kind, _, id, payload) = raw::read(&mut stream).await.expect("the connection goes on");
        assert_ne!(kind, HEADERS, "no upload is answered before it has begun");
        if kind == RESET {
            assert_eq!((id, payload), (11, vec![0, 0, 0, REFUSED_STREAM]));
            break;
        }
    }
}

/// Reads until the connection ends, and returns the reason that the server gave, if it gave one.
async fn end(stream: &mut (impl AsyncRead + Unpin)) -> Option<u8> {
    let mut reason = None;
    while let Some((kind, _, _, payload)) = raw::read(stream).await {
        if kind == GO_AWAY {
            reason = payload.get(7).copied();
        }
    }
    reason
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_their_connection() {
    let (server, address) = listening(ConnectionLimits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    greet(&mut stream).await;
    let mut many = Vec::new();
    for number in 0..2000 {
        many.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &raw::call(GET)));
        many.extend(frame(RESET, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    let (mut read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move { write.write_all(&many).await });
    assert_eq!(end(&mut read).await, Some(ENHANCE_YOUR_CALM));
    let _ = writing.await.unwrap(); // the server may have closed in the middle
    assert!(is_answered(&mut TcpStream::connect(address).await.unwrap()).await);
    drop(server);
}

#[tokio::test]
async fn headers_without_an_end_end_their_connection() {
    /// Far more than sockets keep.
    const MOST: usize = 256 << 20;
    let (server, address) = listening(ConnectionLimits::default()).await;
    // Frames with a header each, frames without anything, and a single header of any length.
    let long = [&[0, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 0x7f][..], &[b'a'; 8000]].concat();
    for more in [raw::header("name", &"v".repeat(100)), vec![], vec![b'a'; 8000]] {
        let first = if more.len() == 8000 { long.clone() } else { raw::call(GET) };
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        greet(&mut write).await;
        write.write_all(&frame(HEADERS, 0, 1, &first)).await.unwrap();
        let writing = tokio::spawn(async move {
            let frames = frame(CONTINUATION, 0, 1, &more).repeat(100);
            let mut sent = 0;
            while sent < MOST && write.write_all(&frames).await.is_ok() {
                sent += frames.len();
            }
            sent
        });
        end(&mut read).await;
        let sent = writing.await.unwrap();
        assert!(sent < MOST, "the server has taken all of it");
        assert!(is_answered(&mut TcpStream::connect(address).await.unwrap()).await);
    }
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_not_kept_at_either_listener() {
    let (server, address) = listening(ConnectionLimits::default()).await;
    for sent in [&b""[..], b"PRI * HTTP/2.0", b"GET / HTTP/1.1\r\n\r\n", PREFACE] {
        let mut network = TcpStream::connect(address).await.unwrap();
        let mut local = UnixStream::connect(server.socket()).await.unwrap();
        network.write_all(sent).await.unwrap();
        local.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        // They end by themselves. What HTTP says at the end is HTTP's.
        let _ = network.read_to_end(&mut answer).await;
        let _ = local.read_to_end(&mut answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_listeners_end_with_the_daemon_whatever_their_clients_do() {
    let host = host(Profile::Default).await;
    let folder = host.outside.folder.path();
    let address = Some((Ipv4Addr::LOCALHOST, 0).into());
    let config = ListenConfig { address, ..ListenConfig::default() };
    let listeners = Listeners::bind(&config, folder, true, host.clock).await.unwrap();
    let address = listeners.address().unwrap();
    let (shutdown, receiver) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(listeners.serve(Routes::default(), receiver));
    let mut local = UnixStream::connect(folder.join("hearthd.sock")).await.unwrap();
    let mut network = TcpStream::connect(address).await.unwrap();
    // The clients open HTTP/2 connections, and then neither send nor read anything.
    greet(&mut local).await;
    greet(&mut network).await;
    local.read_u8().await.unwrap();
    network.read_u8().await.unwrap();
    let start = tokio::time::Instant::now();
    shutdown.send(true).unwrap();
    serving.await.unwrap();
    assert!(start.elapsed() < 3 * crate::api::connections::END, "{:?}", start.elapsed());
    assert!(!folder.join("hearthd.sock").exists());
    assert!(TcpStream::connect(address).await.is_err());
}
