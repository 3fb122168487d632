//! Tests of clients that have gone without a word, and of connections on which nothing passes.

use futures_util::{SinkExt as _, StreamExt as _};
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

impl Host {
    /// A WebSocket of the app.
    pub(super) async fn chat(&self) -> tokio_tungstenite::WebSocketStream<TlsStream<TcpStream>> {
        let mut request = format!("wss://{}/chat", Self::name()).into_client_request().unwrap();
        request.headers_mut().insert("x-aws-proxy-auth", self.token().parse().unwrap());
        let stream = self.tls(&Self::name(), b"http/1.1").await;
        tokio_tungstenite::client_async(request, stream).await.unwrap().0
    }

    /// Waits until as many connections are left.
    async fn connections(&self, count: usize) {
        let line = format!("hearth_endpoint_connections {count}\n");
        self.when(|host| host.metrics.text().unwrap().contains(&line)).await;
    }
}

/// Cuts a client off from its network: whatever comes for it is dropped, before TCP sees it, and nothing is answered.
fn cut_off(stream: &TlsStream<TcpStream>) {
    let drop_all = SockFilter::new(0x06, 0, 0, 0); // BPF_RET with 0 bytes
    SockRef::from(stream.get_ref().0).attach_filter(&[drop_all]).unwrap();
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_not_kept() {
    let connections = EndpointConnections { keep_alive_seconds: 2, ..EndpointConnections::default() };
    let host = Host::with(Wish { connections, ..Wish::default() }).await;
    let mut socket = host.chat().await;
    socket.send(Message::text("a")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    let shell = host.shell("/").await;
    // An answer that is silent, and one that flows.
    let mut answers = Vec::new();
    for path in ["/stream", "/zeros/1099511627776"] {
        let mut stream = host.tls(&Host::name(), b"http/1.1").await;
        let token = host.token();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {}\r\nx-aws-proxy-auth: {token}\r\n\r\n", Host::name());
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        answers.push(stream);
    }
    let mut alive = host.http1().await;
    assert_eq!(alive.send(host.get("/count")).await.status(), 200);
    host.connections(5).await;
    for stream in [socket.get_ref(), shell.get_ref()].into_iter().chain(&answers) {
        cut_off(stream);
    }
    host.connections(1).await;
    assert_eq!(alive.send(host.get("/count")).await.status(), 200);
    let gate = host.microvms.gate("microvm-1").unwrap();
    host.when(|_| gate.counts() == (0, 0, 0)).await;
}

#[tokio::test]
async fn a_shell_whose_client_answers_no_pings_ends() {
    let connections = EndpointConnections { keep_alive_seconds: 1, ..EndpointConnections::default() };
    let host = Host::with(Wish { connections, ..Wish::default() }).await;
    let (silent, mut there) = (host.shell("/").await, host.shell("/").await);
    host.connections(2).await;
    // Reading answers the pings. More of them come than a client may leave unanswered.
    for _ in 0..6 {
        assert!(there.next().await.unwrap().unwrap().is_ping());
    }
    host.connections(1).await;
    there.send(Message::text("typed")).await.unwrap();
    let shown = loop {
        match there.next().await.unwrap().unwrap() {
            Message::Ping(_) => {}
            other => break other,
        }
    };
    assert_eq!(shown, Message::binary("TYPED"));
    drop(silent);
}

#[tokio::test]
async fn a_websocket_on_which_nothing_passes_ends() {
    let host = Host::with(Wish { idle: Duration::from_millis(200), ..Wish::default() }).await;
    let mut socket = host.chat().await;
    // Nothing of the endpoint's own comes on the app's WebSocket, not even at its end.
    let end = tokio::time::timeout(LONG, socket.next()).await.expect("it stays open");
    assert!(end.is_none_or(|end| end.is_err()));
    host.connections(0).await;
}

#[tokio::test]
async fn a_shell_in_which_nothing_is_typed_or_shown_ends_though_its_client_answers_pings() {
    let connections = EndpointConnections { keep_alive_seconds: 1, ..EndpointConnections::default() };
    let host = Host::with(Wish { connections, idle: Duration::from_secs(1), ..Wish::default() }).await;
    let mut shell = host.shell("/").await;
    let mut pings = 0;
    let ending = async {
        loop {
            match shell.next().await.unwrap().unwrap() {
                Message::Ping(_) => pings += 1,
                Message::Close(Some(end)) => break end,
                other => panic!("{other:?}"),
            }
        }
    };
    let end = tokio::time::timeout(LONG, ending).await.expect("it stays open");
    assert!(pings > 0);
    assert_eq!(end.code, CloseCode::Error);
    assert!(end.reason.contains("endpoint.idle_connection_seconds"), "{}", end.reason);
}
