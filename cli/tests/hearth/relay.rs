//! The relay for browsers.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::endpoint::Endpoint;
use crate::support::Host;

/// A running relay, and the cookie of a browser that was let in.
struct Relay {
    child: Child,
    /// Name and port that the URL has.
    host: String,
    port: u16,
    /// Path of the URL, with its secret.
    first: String,
    cookie: String,
}

impl Relay {
    async fn start(host: &Host, target: &str) -> Self {
        let mut command = host.command(&format!("open --no-browser --quiet {target}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().unwrap();
        let mut relay = Self::at(child, &url);
        let response = relay.get(&relay.first, &[("host", &relay.host())]).await;
        assert_eq!(response.status(), 200);
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        relay.cookie = cookie.split(';').next().unwrap().to_owned();
        relay
    }

    /// The relay of a URL.
    fn at(child: Child, url: &str) -> Self {
        let (host, first) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let (name, port) = host.split_once(':').unwrap();
        assert!(name.starts_with("hearth-") && name.ends_with(".localhost"), "{name}");
        let (first, port) = (format!("/{first}"), port.parse().unwrap());
        Self { child, host: host.to_owned(), port, first, cookie: String::new() }
    }

    fn host(&self) -> String {
        self.host.clone()
    }

    async fn send<B>(&self, request: Request<B>) -> Response<Incoming>
    where
        B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
    {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        let request = Request::get(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(request.body(Full::<Bytes>::default()).unwrap()).await
    }

    /// Sends a request as the browser that was let in.
    async fn browse(&self, path: &str) -> Response<Incoming> {
        self.get(path, &[("host", &self.host()), ("cookie", &self.cookie)]).await
    }
}

async fn body(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_browser_is_let_in_by_the_printed_url_and_reaches_the_app() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let relay = Relay::start(&host, "a1:81/start?x=1").await;
    let response = relay.get(&relay.first, &[("host", &relay.host())]).await;
    assert_eq!(response.headers()["refresh"], "0; url=/start?x=1");
    assert_eq!(response.headers()["referrer-policy"], "no-referrer");
    assert_eq!(endpoint.count(), 0, "the secret stays here");
    let cookies = format!("a=b; {}", relay.cookie);
    let origin = format!("http://{}", relay.host());
    let headers = [("host", relay.host()), ("cookie", cookies), ("origin", origin)];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(body(relay.get("/start?x=1", &headers).await).await, "GET /start?x=1 ");
    let request = endpoint.last();
    assert_eq!(request.header("host"), Some(endpoint.host().as_str()));
    assert_eq!(request.header("origin"), Some(format!("https://{}", endpoint.host()).as_str()));
    assert_eq!(request.header("x-aws-proxy-port"), Some("81"));
    assert_eq!(request.header("cookie"), Some("a=b"));
    let response = relay.browse("/moved").await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], format!("http://{}/there", relay.host()).as_str());
    assert_eq!(response.headers()["set-cookie"], "a=b; Path=/");
    assert_eq!(host.daemon.seen.lock().unwrap().minutes.len(), 1, "a token is good for many requests");
}

#[tokio::test]
async fn whoever_has_no_cookie_or_comes_by_another_name_is_refused() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let relay = Relay::start(&host, "a1").await;
    let (own, cookie) = (relay.host(), relay.cookie.as_str());
    assert_eq!(relay.get("/", &[("host", &own), ("cookie", cookie)]).await.status(), 200);
    let (localhost, address) = (format!("localhost:{}", relay.port), format!("127.0.0.1:{}", relay.port));
    let count = endpoint.count();
    let rebound = format!("evil.example:{}", relay.port);
    for headers in [
        vec![("host", own.as_str())],
        vec![("host", own.as_str()), ("cookie", "hearth-relay=x")],
        vec![("host", rebound.as_str()), ("cookie", cookie)],
        vec![("host", localhost.as_str()), ("cookie", cookie)],
        vec![("host", address.as_str()), ("cookie", cookie)],
        vec![("host", own.as_str()), ("cookie", cookie), ("origin", "https://evil.example")],
        vec![("host", own.as_str()), ("cookie", cookie), ("sec-fetch-site", "same-site")],
    ] {
        let response = relay.get("/", &headers).await;
        assert_eq!(response.status(), 403, "{headers:?}");
        assert!(body(response).await.starts_with("hearth open: this "), "{headers:?}");
    }
    let wrong = relay.get("/.hearth/00000000000000000000000000000000/", &[("host", &own)]).await;
    assert_eq!((wrong.status().as_u16(), wrong.headers().get("set-cookie")), (403, None));
    assert_eq!(endpoint.count(), count, "nothing of it has reached the app");
}

#[tokio::test]
async fn bodies_are_passed_on_as_they_come_both_ways() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let relay = Relay::start(&host, "a1").await;
    let (pieces, stream) = tokio::sync::mpsc::channel(1);
    let stream =
        StreamBody::new(ReceiverStream::new(stream).map(|piece| Ok(Frame::data(Bytes::from(piece)))));
    let request = Request::post("/echo").header("host", relay.host()).header("cookie", &relay.cookie);
    let mut response = relay.send(request.body(stream).unwrap()).await;
    for piece in ["one", "two"] {
        pieces.send(piece).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(pieces);
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn websockets_go_through() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let relay = Relay::start(&host, "a1").await;
    let stream = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
    let mut request = format!("ws://{}/ws", relay.host()).into_client_request().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("cookie", relay.cookie.parse().unwrap());
    headers.insert("origin", format!("http://{}", relay.host()).parse().unwrap());
    request.headers_mut().extend(headers);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![0_u8; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    assert_eq!(endpoint.last().header("x-aws-proxy-auth"), Some("t0"));
    assert_eq!(endpoint.last().header("cookie"), None);
}

#[tokio::test]
async fn a_token_that_is_refused_is_made_anew() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let relay = Relay::start(&host, "a1").await;
    endpoint.refuse_next();
    assert_eq!(relay.browse("/x").await.status(), 200);
    assert_eq!(endpoint.count(), 2);
    assert_eq!(host.daemon.seen.lock().unwrap().minutes.len(), 2);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_told_to_the_browser() {
    let host = Host::start();
    let endpoint = Endpoint::start(&host).await;
    let stranger = Endpoint::start(&Host::start()).await;
    host.daemon.endpoint.lock().unwrap().as_mut().unwrap().certificate_authority_pem = stranger.authority_pem;
    let relay = Relay::start(&host, "a1").await;
    let response = relay.browse("/").await;
    assert_eq!(response.status(), 502);
    let text = body(response).await;
    assert!(text.starts_with("hearth open: cannot speak TLS with e.lambda-microvm."), "{text}");
    assert_eq!(endpoint.count(), 0);
}

#[tokio::test]
async fn the_browser_gets_a_url_of_its_own_and_ctrl_c_ends_the_relay() {
    let host = Host::start();
    let _endpoint = Endpoint::start(&host).await;
    let programs = host.folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    let opened = host.folder.path().join("opened");
    let made = tokio::process::Command::new("mkfifo").arg(&opened).status().await.unwrap();
    assert!(made.success());
    let program = programs.join("xdg-open");
    std::fs::write(&program, format!("#!/bin/sh\necho \"$1\" > {}\n", opened.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = host.command("open a1/start");
    command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let printed = lines.next_line().await.unwrap().unwrap();
    let url = tokio::fs::read_to_string(&opened).await.unwrap().trim().to_owned();
    assert_ne!(url, printed);
    let relay = Relay::at(child, &url);
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(relay.get(&relay.first, &[("host", &relay.host)]).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 403], "it is good once");
    let id = relay.child.id().unwrap().to_string();
    let killed = tokio::process::Command::new("kill").args(["-INT", &id]).status().await.unwrap();
    assert!(killed.success());
    let done = relay.child.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(0));
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(text.starts_with("relays to port 8080 of https://e.lambda-microvm."), "{text}");
}
