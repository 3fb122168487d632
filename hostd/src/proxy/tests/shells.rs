//! Tests of shells.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;

pub(super) type Socket = WebSocketStream<TlsStream<TcpStream>>;

impl Host {
    pub(super) fn shell_token(&self) -> String {
        let maker = Some("HKmaker".to_owned());
        self.tokens.mint(&Grant { kind: Kind::Shell, ports: Vec::new(), maker, ..Self::grant() }).unwrap()
    }

    pub(super) async fn shell(&self, path: &str) -> Socket {
        let protocols = format!("lambda-microvms.authentication.{}, lambda-microvms", self.shell_token());
        let mut request = format!("wss://{}{path}", Self::name()).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        let stream = self.tls(&Self::name(), b"http/1.1").await;
        let (mut socket, response) = client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "lambda-microvms");
        let first: serde_json::Value =
            serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
        assert_eq!(first["type"], "session_init");
        assert_eq!(first["session_id"].as_str().unwrap().len(), 36);
        socket
    }
}

async fn shown(socket: &mut Socket) -> String {
    match socket.next().await.unwrap().unwrap() {
        Message::Binary(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn closed(socket: &mut Socket) -> (CloseCode, String) {
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => (frame.code, frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_shell_is_a_terminal_over_a_websocket() {
    let host = Host::new().await;
    for path in ["/", "/shell", "/aws/lambda-microvms/runtime/v1/shell"] {
        let mut socket = host.shell(path).await;
        socket.send(Message::binary("ls")).await.unwrap();
        assert_eq!(shown(&mut socket).await, "LS");
        socket.send(Message::text("typed")).await.unwrap();
        assert_eq!(shown(&mut socket).await, "TYPED");
        socket.send(Message::text("{\"type\":\"resize\",\"cols\":120,\"rows\":40}")).await.unwrap();
        assert_eq!(shown(&mut socket).await, "120x40");
        socket.send(Message::text("{\"type\":\"unknown\"}")).await.unwrap();
        socket.send(Message::binary("exit 0")).await.unwrap();
        assert_eq!(closed(&mut socket).await, (CloseCode::Normal, "shell exited".to_owned()));
    }
}

#[tokio::test]
async fn with_extensions_a_program_runs_and_its_exit_status_is_told() {
    let host = Host::new().await;
    let mut socket = host.shell("/?ext=1").await;
    socket.send(Message::text("{\"type\":\"exec\",\"command\":[\"ls\",\"-l\"]}")).await.unwrap();
    assert_eq!(shown(&mut socket).await, "ls|-l");
    let exit = socket.next().await.unwrap().unwrap();
    assert_eq!(exit.to_text().unwrap(), "{\"code\":3,\"type\":\"exit\"}");
    assert_eq!(closed(&mut socket).await, (CloseCode::Normal, "shell exited".to_owned()));

    let mut socket = host.shell("/?ext=1").await;
    socket.send(Message::text("{\"type\":\"resize\",\"cols\":1,\"rows\":2}")).await.unwrap();
    assert_eq!(shown(&mut socket).await, "1x2", "the first frame is not lost");
    socket.send(Message::binary("exit 7")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "{\"code\":7,\"type\":\"exit\"}");
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_says_why_and_has_a_shells_status() {
    let host = Host::new().await;
    let mut socket = host.shell("/?ext=1").await;
    socket.send(Message::text("{\"type\":\"exec\",\"command\":[\"/absent\"]}")).await.unwrap();
    assert_eq!(shown(&mut socket).await, "no such file: /absent\r\n");
    let exit = socket.next().await.unwrap().unwrap();
    assert_eq!(exit.to_text().unwrap(), "{\"code\":127,\"type\":\"exit\"}");
    assert_eq!(closed(&mut socket).await, (CloseCode::Normal, "shell exited".into()));
}

#[tokio::test]
async fn a_shells_token_is_for_shells_and_the_others_are_not() {
    let host = Host::new().await;
    let mut client = host.http1().await;
    let mut request = host.get("/count");
    request.headers_mut().insert("x-aws-proxy-auth", host.shell_token().parse().unwrap());
    assert_eq!(
        refusal(client.send(request).await).await,
        (502, "APP_CONNECT_FAILED".to_owned(), String::new())
    );
    // A WebSocket with a token for ports is forwarded to the app.
    let mut request = format!("wss://{}/chat", Host::name()).into_client_request().unwrap();
    request.headers_mut().insert("x-aws-proxy-auth", host.token().parse().unwrap());
    let stream = host.tls(&Host::name(), b"http/1.1").await;
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    socket.send(Message::text("a")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
}

#[tokio::test]
async fn a_shell_wakes_a_microvm_and_several_are_open_at_once() {
    let host = Host::new().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    let (mut one, mut two) = (host.shell("/").await, host.shell("/").await);
    assert_eq!(host.state(), MicrovmState::Running);
    for (socket, typed) in [(&mut two, "two"), (&mut one, "one")] {
        socket.send(Message::text(typed)).await.unwrap();
        assert_eq!(shown(socket).await, typed.to_uppercase());
    }
}

#[tokio::test]
async fn a_shell_that_does_not_start_says_why_and_ends() {
    let host = Host::new().await;
    host.platform.once(Point::Shell, Deviation::Fails("the agent is silent"));
    let mut socket = host.shell("/").await;
    assert_eq!(closed(&mut socket).await, (CloseCode::Error, "the agent is silent".to_owned()));
    let mut socket = host.shell("/").await;
    socket.send(Message::text("typed")).await.unwrap();
    assert_eq!(shown(&mut socket).await, "TYPED");
}

#[tokio::test]
async fn a_shell_is_audited_when_it_opens_and_when_it_ends() {
    let host = Host::new().await;
    let read = || std::fs::read_to_string(host.audit.1.path().join("audit.jsonl")).unwrap();
    let mut socket = host.shell("/?ext=1").await;
    socket.send(Message::text("{\"type\":\"resize\",\"cols\":1,\"rows\":2}")).await.unwrap();
    assert_eq!(shown(&mut socket).await, "1x2");
    // The event is in the file before anything happens in the shell.
    let opened: serde_json::Value = serde_json::from_str(read().trim()).unwrap();
    assert_eq!(
        (&opened["eventName"], &opened["eventCategory"], &opened["sourceIPAddress"]),
        (&"OpenMicrovmShell".into(), &"Data".into(), &"127.0.0.1".into())
    );
    let who = &opened["userIdentity"];
    assert_eq!((&who["accountId"], &who["accessKeyId"]), (&ACCOUNT.into(), &"HKmaker".into()));
    assert_eq!(opened["requestParameters"]["microvmIdentifier"], "microvm-1");
    socket.send(Message::binary("exit 7")).await.unwrap();
    drop(socket.next().await);
    closed(&mut socket).await;
    // A client that just goes is audited, too.
    drop(host.shell("/").await);
    let closed = async || loop {
        host.audit.0.flush().await;
        let lines: Vec<serde_json::Value> =
            read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let closed = lines.iter().filter(|line| line["eventName"] == "CloseMicrovmShell");
        if closed.clone().count() == 2 {
            break closed.cloned().collect::<Vec<_>>();
        }
        tokio::task::yield_now().await;
    };
    let closed = tokio::time::timeout(LONG, closed()).await.unwrap();
    assert_eq!(closed[0]["additionalEventData"]["exitCode"], 7);
    assert_eq!(closed[0]["requestID"], opened["requestID"]);
    assert_eq!(closed[1]["additionalEventData"]["exitCode"], serde_json::Value::Null);
}
