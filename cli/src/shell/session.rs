//! A session: copies input to the microVM and output back, until one side ends.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;
use super::frames::{Say, Told};
use super::keys::{Keys, Typed};
use super::terminal::{Raw, columns_and_rows};
use crate::error::{Failure, chain};
use crate::interrupt::Ending;

/// Character that ends the input of a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;
/// Bytes that are read at once.
const PIECE: usize = 16 << 10;
/// How long the server may take to answer a close frame.
const LEAVE: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
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
}

/// Runs a session, with a command instead of a shell if there is one. The terminal is restored when it returns.
pub(crate) async fn run(socket: Socket, command: &[String]) -> Result<End, Failure> {
    let mut ending = Ending::listen()?;
    let (mut there, back) = socket.split();
    let raw = Raw::enter()?;
    let end = tokio::select! {
        end = show(back) => end,
        end = type_in(&mut there, command, raw.is_some()) => end,
        signal = ending.wait() => End::Signal(signal),
    };
    if matches!(end, End::Exit(_) | End::Disconnected | End::Signal(_)) {
        // The session is over whether or not the server answers.
        drop(timeout(LEAVE, there.close()).await);
    }
    drop(raw);
    Ok(end)
}

/// Prints output until the session ends.
async fn show(mut back: SplitStream<Socket>) -> End {
    let mut stdout = tokio::io::stdout();
    loop {
        let bytes = match back.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => match Told::parse(&text) {
                Told::Exit { code } => return End::Exit(code),
                Told::Other => continue,
            },
            Some(Ok(Message::Close(frame))) => {
                return match frame {
                    Some(frame) if frame.code != CloseCode::Normal => {
                        End::Broken(format!("closed by the server with {}: {}", frame.code, frame.reason))
                    }
                    _ => End::Closed,
                };
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return End::Broken(chain(&error)),
            None => return End::Broken("it ended in the middle".to_owned()),
        };
        let written = async {
            stdout.write_all(&bytes).await?;
            stdout.flush().await
        };
        if let Err(error) = written.await {
            return End::Output(error);
        }
    }
}

/// Sends input. Returns only if that ends the session: after the end of any other input, there may still be output.
async fn type_in(there: &mut SplitSink<Socket, Message>, command: &[String], terminal: bool) -> End {
    match send_input(there, command, terminal).await {
        Ok(true) => End::Disconnected,
        // The direction of the output reports the reason.
        Ok(false) | Err(_) => std::future::pending().await,
    }
}

/// Sends input until its end. Returns whether the user has typed `~.`.
async fn send_input(
    there: &mut SplitSink<Socket, Message>,
    command: &[String],
    terminal: bool,
) -> Result<bool, Error> {
    let mut resized = signal(SignalKind::window_change())?;
    if !command.is_empty() {
        there.send(Message::text(Say::Exec { command }.text())).await?;
    }
    send_size(there).await?;
    let mut stdin = tokio::io::stdin();
    let mut keys = terminal.then(Keys::new);
    let mut piece = vec![0; PIECE];
    let mut last = b'\n';
    loop {
        let read = tokio::select! {
            // A terminal that fails was closed.
            read = stdin.read(&mut piece) => read.unwrap_or(0),
            _ = resized.recv() => {
                send_size(there).await?;
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
            there.send(Message::Binary(Bytes::from(bytes))).await?;
        }
        if disconnect {
            return Ok(true);
        }
    }
    there.send(Message::Binary(Bytes::from(end_of_input(last, !command.is_empty())))).await?;
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
async fn send_size(there: &mut SplitSink<Socket, Message>) -> Result<(), Error> {
    match columns_and_rows() {
        Some((cols, rows)) => there.send(Message::text(Say::Resize { cols, rows }.text())).await,
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
