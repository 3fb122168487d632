//! Tests of shells with pipes. The programs are real ones of this machine.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::shells::Socket;
use super::*;

/// The address of shells with pipes.
const PIPES: &str = "/?ext=1&streams=pipes";

/// What has come of a program.
#[derive(Debug, Default, PartialEq)]
struct Came {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The number in the last `taken`.
    taken: u64,
    exit: Option<u64>,
    closed: Option<(CloseCode, String)>,
}

impl Came {
    /// Reads one frame.
    async fn next(&mut self, socket: &mut Socket) {
        match tokio::time::timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Binary(bytes) => match bytes[0] {
                1 => self.stdout.extend(&bytes[1..]),
                2 => self.stderr.extend(&bytes[1..]),
                other => panic!("stream {other}"),
            },
            Message::Text(text) => {
                let message: serde_json::Value = serde_json::from_str(&text).unwrap();
                match message["type"].as_str().unwrap() {
                    "taken" => self.taken = message["bytes"].as_u64().unwrap(),
                    "exit" => self.exit = message["code"].as_u64(),
                    other => panic!("{other}"),
                }
            }
            Message::Close(frame) => {
                self.closed = frame.map(|frame| (frame.code, frame.reason.to_string()));
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }

    /// Reads to the end.
    async fn rest(mut self, socket: &mut Socket) -> Self {
        while self.closed.is_none() {
            self.next(socket).await;
        }
        self
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::text(value.to_string())
}

fn stdin(bytes: &[u8]) -> Message {
    Message::binary([&[0], bytes].concat())
}

fn end_of_input() -> Message {
    text(&serde_json::json!({ "type": "end_of_input" }))
}

impl Host {
    /// Runs a script with pipes, with this window of output.
    async fn piped(&self, script: &str, window: Option<u64>) -> Socket {
        let mut socket = self.shell(PIPES).await;
        let mut exec = serde_json::json!({ "type": "exec", "command": ["sh", "-c", script] });
        if let Some(window) = window {
            exec["window"] = window.into();
        }
        socket.send(text(&exec)).await.unwrap();
        socket
    }
}

#[tokio::test]
async fn bytes_pass_as_they_are_stderr_apart_with_end_and_status() {
    let host = Host::new().await;
    let mut socket = host.piped("cat; echo apart >&2; exit 7", None).await;
    let sent: Vec<u8> = (0..=255).cycle().take(400_000).collect();
    for piece in sent.chunks(100_000) {
        socket.send(stdin(piece)).await.unwrap();
    }
    socket.send(end_of_input()).await.unwrap();
    let came = Came::default().rest(&mut socket).await;
    assert!(came.stdout == sent, "{} bytes", came.stdout.len());
    assert_eq!((came.stderr.as_slice(), came.exit), (&b"apart\n"[..], Some(7)));
    assert_eq!(came.closed, Some((CloseCode::Normal, "shell exited".to_owned())));
}

#[tokio::test]
async fn output_waits_for_the_client_and_everything_else_does_not() {
    let host = Host::new().await;
    let mut socket = host.piped("head -c 300000 /dev/zero; exit 2", Some(100_000)).await;
    let mut came = Came::default();
    while came.stdout.len() < 100_000 {
        came.next(&mut socket).await;
    }
    // The window is used up: what comes next is the answer to a ping, and no output.
    socket.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("x".into()));
    assert_eq!(came.stdout.len(), 100_000);
    socket.send(text(&serde_json::json!({ "type": "taken", "bytes": 50_000 }))).await.unwrap();
    while came.stdout.len() < 150_000 {
        came.next(&mut socket).await;
    }
    assert_eq!(came.stdout.len(), 150_000);
    socket.send(text(&serde_json::json!({ "type": "taken", "bytes": u64::MAX }))).await.unwrap();
    let came = came.rest(&mut socket).await;
    assert_eq!((came.stdout.len(), came.exit), (300_000, Some(2)));
}

#[tokio::test]
async fn input_is_taken_as_the_program_reads_it() {
    let host = Host::new().await;
    let mut socket = host.piped("read go; wc -c", None).await;
    // The window, which the program does not read to its end yet.
    let window = vec![b'\n'; 512 << 10];
    for piece in window.chunks(128 << 10) {
        socket.send(stdin(piece)).await.unwrap();
    }
    // "read" has read the first line alone.
    let mut came = Came::default();
    while came.taken < 400_000 {
        came.next(&mut socket).await;
    }
    socket.send(stdin(&[b'x'; 1000])).await.unwrap();
    socket.send(end_of_input()).await.unwrap();
    let came = came.rest(&mut socket).await;
    let counted: usize = String::from_utf8(came.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(counted, (512 << 10) + 1000 - 1);
}

#[tokio::test]
async fn a_program_ends_while_input_still_comes() {
    let host = Host::new().await;
    let mut socket = host.piped("head -c 3; exit 5", None).await;
    for _ in 0..4 {
        socket.send(stdin(&[b'x'; 128 << 10])).await.unwrap();
    }
    let came = Came::default().rest(&mut socket).await;
    assert_eq!((came.stdout.as_slice(), came.exit), (&b"xxx"[..], Some(5)));
}

#[tokio::test]
async fn a_program_is_killed_when_its_client_goes_also_while_its_input_waits() {
    let host = Host::new().await;
    let mut socket = host.piped("echo $$; exec sleep 1000", None).await;
    let mut came = Came::default();
    while !came.stdout.ends_with(b"\n") {
        came.next(&mut socket).await;
    }
    for _ in 0..4 {
        socket.send(stdin(&[0; 128 << 10])).await.unwrap();
    }
    socket.close(None).await.unwrap();
    drop(socket);
    let process = format!("/proc/{}/stat", String::from_utf8(came.stdout).unwrap().trim());
    let gone = async {
        // It may be a zombie for a while.
        while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_session_with_a_reason() {
    let host = Host::new().await;
    let exec = |command: &[&str]| text(&serde_json::json!({ "type": "exec", "command": command }));
    for (first, then, reason) in [
        (stdin(b"ls\n"), None, "the first message is not exec"),
        (Message::text("ls\n"), None, "the first message is not exec"),
        (exec(&["cat"]), Some(Message::binary("ls\n")), "a binary message has no byte 0 of stdin"),
        (exec(&["cat"]), Some(Message::text("ls\n")), "a text message is no JSON with a type"),
        (exec(&["sleep", "1000"]), Some(stdin(&[0; 800_000])), "more input than the window has room for"),
    ] {
        let mut socket = host.shell(PIPES).await;
        socket.send(first).await.unwrap();
        if let Some(then) = then {
            socket.send(then).await.unwrap();
        }
        let came = Came::default().rest(&mut socket).await;
        assert_eq!(came.closed, Some((CloseCode::Error, reason.to_owned())));
        assert_eq!(came.exit, None);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_says_why_on_stderr() {
    let host = Host::new().await;
    let mut socket = host.shell(PIPES).await;
    let exec = serde_json::json!({ "type": "exec", "command": ["/absent"] });
    socket.send(text(&exec)).await.unwrap();
    let came = Came::default().rest(&mut socket).await;
    assert_eq!((came.stderr.as_slice(), came.exit), (&b"no such file: /absent\n"[..], Some(127)));
}

#[tokio::test]
async fn pipes_are_an_extension_and_a_shell_has_them_too() {
    let host = Host::new().await;
    let mut socket = host.shell("/?streams=pipes").await;
    socket.send(Message::binary("typed")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary("TYPED"), "a terminal");
    let mut socket = host.shell(PIPES).await;
    socket.send(text(&serde_json::json!({ "type": "exec", "command": [] }))).await.unwrap();
    socket.send(stdin(b"echo $((1 + 1))\n")).await.unwrap();
    socket.send(end_of_input()).await.unwrap();
    assert_eq!(Came::default().rest(&mut socket).await.stdout, b"2\n");
}
