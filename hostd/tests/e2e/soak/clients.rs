//! Hostile clients: one without a key and one with a key, at both listeners. What they do is bounded in what is under way, not in what they
//! get done.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_proto::host::v1::{
    ListArtifactsRequest, ListLogGroupsRequest, ReadLogsRequest, TailLogsRequest, WatchEventsRequest,
};
use hearth_proto::microvms::v1::{GetMicrovmRequest, ListMicrovmImagesRequest, ListMicrovmsRequest};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::GROUP;
use crate::support::api::request;
use crate::support::endpoint::{Endpoint, connect_from};
use crate::support::tenant::{Listener, Tenant};

/// Connections that a client without a key keeps at a listener.
const KEPT: usize = 400;
/// Tasks of the client with a key that call the API.
const CALLERS: usize = 16;
/// Bytes of an artifact that it sends over and over again.
const ARTIFACT: usize = 8 << 20;
/// Readers of endless responses that read nothing.
const READERS: usize = 32;
/// Time before another attempt when one has failed.
const PAUSE: Duration = Duration::from_millis(20);
/// The port of the endpoints.
const ENDPOINTS: u16 = 443;
/// The beginning of a TLS handshake: a record of 512 bytes, of which nothing comes.
const HANDSHAKE: [u8; 5] = [22, 3, 1, 2, 0];

/// The clients, until [`Self::end`].
pub(super) struct Clients {
    tasks: JoinSet<()>,
    count: Arc<Count>,
}

/// What they have done.
#[derive(Default)]
struct Count {
    connections: AtomicU64,
    calls: AtomicU64,
    refused: AtomicU64,
    responses: AtomicU64,
}

impl Clients {
    /// Starts them. `target` is the endpoint of a microVM of the account's own, whose app has endless responses.
    pub(super) fn start(listener: &Listener, tenant: &Tenant, target: Endpoint, from: Ipv4Addr) -> Self {
        let count = Arc::new(Count::default());
        let mut tasks = JoinSet::new();
        let endpoints = SocketAddr::from((Ipv4Addr::LOCALHOST, ENDPOINTS));
        for address in [listener.address, endpoints] {
            tasks.spawn(without_key(from, address, listener.tls(), count.clone()));
        }
        for caller in 0..CALLERS {
            tasks.spawn(with_key(tenant.clone(), caller, count.clone()));
        }
        let target = Arc::new(target);
        for _ in 0..READERS {
            tasks.spawn(slow_reader(target.clone(), count.clone()));
        }
        Self { tasks, count }
    }

    /// Ends them, and says what they have done.
    pub(super) async fn end(mut self) -> String {
        self.tasks.shutdown().await;
        let [connections, calls, refused, responses] =
            [&self.count.connections, &self.count.calls, &self.count.refused, &self.count.responses]
                .map(|count| count.load(Ordering::Relaxed));
        assert!(connections > 0 && calls > 0 && responses > 0, "hostile clients have done nothing");
        format!(
            "hostile clients: {connections} connections without a key; {calls} calls with one, of which {refused} were refused; \
             {responses} responses that nobody read\n"
        )
    }
}

/// Connections that end nowhere: silent ones, beginnings of handshakes, others than TLS, and whole ones whose requests have no key.
async fn without_key(from: Ipv4Addr, address: SocketAddr, tls: TlsConnector, count: Arc<Count>) {
    let mut kept: VecDeque<Box<dyn Send>> = VecDeque::new();
    let mut round = 0_u32;
    loop {
        round = round.wrapping_add(1);
        let Ok(stream) = connect_from(Some(from), address).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        count.connections.fetch_add(1, Ordering::Relaxed);
        match round % 4 {
            0 => kept.push_back(Box::new(stream)),
            1 => kept.push_back(Box::new(said(stream, &HANDSHAKE).await)),
            2 => kept.push_back(Box::new(said(stream, b"GET / HTTP/1.1\r\n\r\n").await)),
            _ => kept.push_back(Box::new(asked(stream, &tls).await)),
        }
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
}

/// A connection over which this was said.
async fn said(mut stream: TcpStream, words: &[u8]) -> TcpStream {
    // A server may have closed the connection already.
    let _ = stream.write_all(words).await;
    stream
}

/// A connection with TLS, where the server takes part in it, and a request of HTTP/2 without a key and without an end.
async fn asked(stream: TcpStream, tls: &TlsConnector) -> Option<impl Send + use<>> {
    let name = ServerName::try_from("localhost").ok()?;
    let handshake = tokio::time::timeout(Duration::from_secs(2), tls.connect(name, stream));
    let mut stream = handshake.await.ok()?.ok()?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = stream.write_all(preface).await;
    let _ = stream.write_all(&[0; 4096]).await;
    Some(stream)
}

/// Calls of all kinds, one after the other. What is refused is counted.
async fn with_key(tenant: Tenant, caller: usize, count: Arc<Count>) {
    let mut streams = Vec::new();
    let mut round = caller;
    loop {
        round = round.wrapping_add(1);
        let mut api = tenant.api();
        let mut host = tenant.host();
        let result = match round % 10 {
            0 => api.list_microvms(ListMicrovmsRequest::default()).await.map(drop),
            1 => api.list_microvm_images(ListMicrovmImagesRequest::default()).await.map(drop),
            2 => host.list_log_groups(ListLogGroupsRequest::default()).await.map(drop),
            3 => host.read_logs(logs()).await.map(drop),
            4 => host.list_artifacts(ListArtifactsRequest::default()).await.map(drop),
            5 => tenant.upload(&format!("{caller}"), vec![7; ARTIFACT]).await.map(drop),
            // A microVM more than the account's quota has.
            6 => api.run_microvm(request("attacker")).await.map(drop),
            7 => {
                let request = GetMicrovmRequest { microvm_identifier: Some("x".repeat(2048)) };
                api.get_microvm(request).await.map(drop)
            }
            // Followers that read nothing.
            8 => {
                let request = TailLogsRequest { log_group: Some(GROUP.into()), ..Default::default() };
                host.tail_logs(request).await.map(|stream| streams.push(Follower::Logs(stream.into_inner())))
            }
            _ => {
                let watch = host.watch_events(WatchEventsRequest::default()).await;
                watch.map(|stream| streams.push(Follower::Events(stream.into_inner())))
            }
        };
        if streams.len() > 4 {
            streams.clear();
        }
        count.calls.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            count.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn logs() -> ReadLogsRequest {
    ReadLogsRequest {
        log_group: Some(GROUP.into()),
        contains: Some("what is in no line".into()),
        ..Default::default()
    }
}

/// A stream that is kept and not read.
#[expect(dead_code, reason = "what they keep is a place at the daemon")]
enum Follower {
    Logs(tonic::Streaming<hearth_proto::host::v1::LogEvent>),
    Events(tonic::Streaming<hearth_proto::host::v1::Event>),
}

/// Asks for an endless response, reads a little, and keeps the connection for a while.
async fn slow_reader(target: Arc<Endpoint>, count: Arc<Count>) {
    loop {
        if let Some(unread) = target.begin("/endless").await {
            count.responses.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(unread);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
