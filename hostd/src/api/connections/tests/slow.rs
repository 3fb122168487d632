//! Clients that take little or nothing of their responses, and clients with many connections.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use super::super::super::reply::whole;
use super::super::{CONNECTIONS_OF_ONE, END, IDLE, exchange, http};
use super::*;

/// Size of a response, in bytes.
const SIZE: usize = 1 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A connection whose requests are answered with [`SIZE`] bytes; the buffers between are small. The sender ends it.
fn large() -> (DuplexStream, JoinHandle<()>, watch::Sender<bool>) {
    let (client, stream) = duplex(1024);
    let (end, ended) = watch::channel(false);
    let answer = |_| async { whole(Response::new(Full::new(Bytes::from(vec![b'a'; SIZE])))) };
    let served = tokio::spawn(exchange(stream, ([192, 0, 2, 1], 1).into(), answer, http(), ended));
    (client, served, end)
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames of HTTP/2 and answers settings and pings, so that the client seems alive, until the connection ends.
/// Returns the number of bytes of data.
async fn attend(client: &mut DuplexStream) -> usize {
    let mut data = 0;
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).await.is_err() {
            return data;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if client.read_exact(&mut payload).await.is_err() {
            return data;
        }
        let answer = match (head[3], head[4]) {
            (0, _) => {
                data += length;
                continue;
            }
            (4, 0) => frame(4, 1, 0, &[]),
            (6, 0) => frame(6, 1, 0, &payload),
            _ => continue,
        };
        let _ = client.write_all(&answer).await; // the end is seen when it reads
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_window_is_not_kept() {
    let (mut client, served, _end) = large();
    let began = Instant::now();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0; the request is `:method: GET`, `:scheme: http`, `:path: /`.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let request = frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
    let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &request].concat();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(attend(&mut client).await, 0);
    served.await.unwrap();
    assert!(began.elapsed() >= IDLE && began.elapsed() <= IDLE + END + END, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_response_is_not_kept() {
    let (mut client, served, _end) = large();
    let began = Instant::now();
    client.write_all(GET).await.unwrap();
    served.await.unwrap();
    // A timer of HTTP may wake the connection once, which then takes what still fits into its buffers.
    assert!(began.elapsed() >= IDLE && began.elapsed() <= 2 * (IDLE + END), "{:?}", began.elapsed());
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await; // however it ends
    assert!(answer.len() < SIZE);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_its_response() {
    let (mut client, served, _end) = large();
    client.write_all(GET).await.unwrap();
    let (mut answer, mut part, began) = (0, vec![0; 32 << 10], Instant::now());
    while client.read_exact(&mut part).await.is_ok() {
        answer += part.len();
        sleep(IDLE / 4).await;
    }
    served.await.unwrap();
    assert_eq!(answer, SIZE, "the last part, which is not full, is as long as the head");
    assert!(began.elapsed() > 5 * IDLE);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_is_no_idleness() {
    let (mut client, stream) = duplex(1024);
    let (_end, ended) = watch::channel(false);
    let answer = |_| async {
        sleep(10 * IDLE).await;
        whole(Response::new(Full::new(Bytes::from_static(b"late"))))
    };
    let served = tokio::spawn(exchange(stream, ([192, 0, 2, 1], 1).into(), answer, http(), ended));
    client.write_all(GET).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("late"), "{text}");
    served.await.unwrap();
}

#[tokio::test]
async fn an_address_has_a_limited_number_of_connections() {
    let server = server().await;
    let mut kept = Vec::new();
    for _ in 0..CONNECTIONS_OF_ONE {
        kept.push(server.connect().await);
    }
    assert_eq!(server.exchange("").await, "", "one too many is closed without an answer");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0).into()).unwrap();
    let mut other = socket.connect(server.address).await.unwrap();
    for client in [&mut other, kept.last_mut().unwrap()] {
        client.write_all(GET).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}
