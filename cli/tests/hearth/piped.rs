//! The server's side of shells with pipes (docs/endpoints.md, "Shells"): runs programs of this machine, and insists on the windows.

use std::process::Stdio;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::endpoint::{Socket, exit};

/// Bytes of input that are kept: few, so that clients have to wait for the program.
const WINDOW: usize = 10_000;

/// Passes input on, and reports the number of bytes that the program has taken.
async fn feed(
    mut stdin: ChildStdin,
    mut input: mpsc::UnboundedReceiver<Vec<u8>>,
    took: mpsc::UnboundedSender<usize>,
) {
    let mut taken = 0;
    while let Some(bytes) = input.recv().await {
        drop(stdin.write_all(&bytes).await); // a program may read no more
        taken += bytes.len();
        let _ = took.send(taken); // the session may be over
    }
}

/// Runs the program of the first message until it has exited.
pub(crate) async fn serve(mut socket: Socket) {
    let init = format!(r#"{{"type":"session_init","session_id":"s","streams":"pipes","window":{WINDOW}}}"#);
    socket.send(Message::text(init)).await.unwrap();
    let Some(Ok(first)) = socket.next().await else { return };
    let first: serde_json::Value = serde_json::from_str(first.to_text().unwrap()).unwrap();
    assert_eq!(first["type"], "exec");
    let window = usize::try_from(first["window"].as_u64().unwrap()).unwrap();
    let words: Vec<String> = serde_json::from_value(first["command"].clone()).unwrap();
    let (program, arguments) =
        words.split_first().map_or(("sh", &[][..]), |(program, rest)| (program.as_str(), rest));
    if program == "away" {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Error,
            reason: "the guest is gone".into(),
        };
        return drop(socket.close(Some(frame)).await);
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let ((input, fed), (took, mut taken)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    tokio::spawn(feed(child.stdin.take().unwrap(), fed, took));
    let mut input = Some(input);
    let (mut received, mut passed, mut sent, mut client_took) = (0, 0, 0, 0);
    let (mut out, mut err) = (vec![0; 5000], vec![0; 5000]);
    let (mut has_out, mut has_err) = (true, true);
    while has_out || has_err {
        let room = sent + 5000 <= client_took + window;
        let (number, bytes) = tokio::select! {
            read = stdout.read(&mut out), if room && has_out => (1, out[..read.unwrap()].to_vec()),
            read = stderr.read(&mut err), if room && has_err => (2, err[..read.unwrap()].to_vec()),
            Some(taken) = taken.recv() => {
                passed = taken;
                let text = format!(r#"{{"type":"taken","bytes":{taken}}}"#);
                if socket.send(Message::text(text)).await.is_err() {
                    return;
                }
                continue;
            }
            message = socket.next() => {
                match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        assert_eq!(bytes[0], 0, "stdin");
                        received += bytes.len() - 1;
                        assert!(received <= passed + WINDOW, "more than the window has room for");
                        input.as_ref().unwrap().send(bytes[1..].to_vec()).unwrap();
                    }
                    Some(Ok(Message::Text(text))) => {
                        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
                        match message["type"].as_str().unwrap() {
                            "end_of_input" => drop(input.take()),
                            "taken" => client_took = usize::try_from(message["bytes"].as_u64().unwrap()).unwrap(),
                            other => panic!("{other}"),
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    _ => return, // the client has gone; the program is killed
                }
                continue;
            }
        };
        match (bytes.is_empty(), number) {
            (true, 1) => has_out = false,
            (true, _) => has_err = false,
            _ => {
                sent += bytes.len();
                if socket.send(Message::binary([&[number], &bytes[..]].concat())).await.is_err() {
                    return;
                }
            }
        }
    }
    let status = child.wait().await.unwrap();
    exit(&mut socket, usize::try_from(status.code().unwrap_or(137)).unwrap()).await;
}
