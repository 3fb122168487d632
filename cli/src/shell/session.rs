//! A terminal: copies input to the microVM and output back, until one side ends.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;
use super::frames::{ClientMessage, ServerMessage};
use super::keys::{Keys, Typed};
use super::terminal::{Raw, columns_and_rows};
use crate::error::{Failure, chain};
use crate::interrupt::TerminationSignals;

/// Character that ends the input of a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;
/// Bytes that are read at once.
const PIECE: usize = 16 << 10;
/// How long the server may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The shell, or the command, exited with this status.
    Exit(i64),
    /// The shell exited with an unknown status: the server was not requested to report it.
    Closed,
    /// The user typed `~.`.
    Disconnected,
    /// This program received a signal.
    Signal(SignalKind),
    /// The connection broke, or the server closed it for another reason.
    Broken(String),
    /// The output cannot be written.
    Output(io::Error),
    /// The input cannot be read.
    Input(io::Error),
    /// The server knows terminals only.
    NoPipes,
}

/// Runs a session, with a command instead of a shell if there is one. The terminal is restored when it returns.
pub(crate) async fn run(socket: Socket, command: &[String]) -> Result<SessionEnd, Failure> {
    let mut signals = TerminationSignals::listen()?;
    let (mut sink, stream) = socket.split();
    let raw = Raw::enter()?;
    let end = tokio::select! {
        end = print_output(stream) => end,
        end = forward_input(&mut sink, command, raw.is_some()) => end,
        signal = signals.wait() => SessionEnd::Signal(signal),
    };
    if matches!(end, SessionEnd::Exit(_) | SessionEnd::Disconnected | SessionEnd::Signal(_)) {
        close(&mut sink).await;
    }
    drop(raw);
    Ok(end)
}

/// Prints output until the session ends.
async fn print_output(mut stream: SplitStream<Socket>) -> SessionEnd {
    let mut stdout = tokio::io::stdout();
    loop {
        let bytes = match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => match ServerMessage::parse(&text) {
                ServerMessage::Exit { code } => return SessionEnd::Exit(code),
                _ => continue,
            },
            Some(Ok(Message::Close(frame))) => {
                return closed(frame);
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return SessionEnd::Broken(chain(&error)),
            None => return SessionEnd::Broken("it ended in the middle".to_owned()),
        };
        let written = async {
            stdout.write_all(&bytes).await?;
            stdout.flush().await
        };
        if let Err(error) = written.await {
            return SessionEnd::Output(error);
        }
    }
}

/// How a session ends that the server has closed with this frame.
pub(super) fn closed(frame: Option<CloseFrame>) -> SessionEnd {
    match frame {
        Some(frame) if frame.code != CloseCode::Normal => {
            SessionEnd::Broken(format!("closed by the server with {}: {}", frame.code, frame.reason))
        }
        _ => SessionEnd::Closed,
    }
}

/// Ends the WebSocket. The session is over whether or not the server answers.
pub(super) async fn close(sink: &mut SplitSink<Socket, Message>) {
    drop(timeout(CLOSE_TIMEOUT, sink.close()).await);
}

/// Sends input. Returns only if that ends the session: after the end of any other input, there may still be output.
async fn forward_input(
    sink: &mut SplitSink<Socket, Message>,
    command: &[String],
    terminal: bool,
) -> SessionEnd {
    match send_input(sink, command, terminal).await {
        Ok(true) => SessionEnd::Disconnected,
        // The direction of the output reports the reason.
        Ok(false) | Err(_) => std::future::pending().await,
    }
}

/// Sends input until its end. Returns whether the user has typed `~.`.
async fn send_input(
    sink: &mut SplitSink<Socket, Message>,
    command: &[String],
    terminal: bool,
) -> Result<bool, Error> {
    let mut resized = signal(SignalKind::window_change())?;
    if !command.is_empty() {
        sink.send(Message::text(ClientMessage::Exec { command, window: None }.text())).await?;
    }
    send_size(sink).await?;
    let mut stdin = tokio::io::stdin();
    let mut keys = terminal.then(Keys::new);
    let mut piece = vec![0; PIECE];
    let mut last = b'\n';
    loop {
        let read = tokio::select! {
            // A terminal that fails was closed.
            read = stdin.read(&mut piece) => read.unwrap_or(0),
            _ = resized.recv() => {
                send_size(sink).await?;
                continue;
            }
        };
        let bytes = piece.get(..read).unwrap_or_default();
        let Some(end) = bytes.last() else { break };
        last = *end;
        let (bytes, disconnect) = match keys.as_mut().map(|keys| keys.read(bytes)) {
            None => (bytes.to_vec(), false),
            Some(Typed::Bytes(bytes)) => (bytes, false),
            Some(Typed::Disconnect(bytes)) => (bytes, true),
        };
        if !bytes.is_empty() {
            sink.send(Message::Binary(Bytes::from(bytes))).await?;
        }
        if disconnect {
            return Ok(true);
        }
    }
    sink.send(Message::Binary(Bytes::from(end_of_input(last, !command.is_empty())))).await?;
    Ok(false)
}

/// The bytes that end the input after the byte `last`. In the middle of a line, the first of two Ctrl-D passes on the line so far; a
/// shell, which edits lines itself, needs a newline first.
fn end_of_input(last: u8, command: bool) -> Vec<u8> {
    match (last, command) {
        (b'\n' | b'\r', _) => vec![END_OF_INPUT],
        (_, true) => vec![END_OF_INPUT, END_OF_INPUT],
        (_, false) => vec![b'\n', END_OF_INPUT],
    }
}

/// Sends the terminal's size, if there is a terminal.
async fn send_size(sink: &mut SplitSink<Socket, Message>) -> Result<(), Error> {
    match columns_and_rows() {
        Some((cols, rows)) => sink.send(Message::text(ClientMessage::Resize { cols, rows }.text())).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_ends_in_the_middle_of_a_line_too() {
        assert_eq!(end_of_input(b'\n', true), [4]);
        assert_eq!(end_of_input(b'\r', false), [4]);
        assert_eq!(end_of_input(b'x', true), [4, 4]);
        assert_eq!(end_of_input(b'x', false), [b'\n', 4]);
    }
}
