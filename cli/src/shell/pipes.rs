//! Stdin, stdout and stderr of a program in the microVM, as they are (docs/endpoints.md, "Shells").
//!
//! Each side says how much it has taken, and sends no more than the other one's window beyond that. So frames are always read: pings are
//! answered and the exit arrives also while the reader of the output, or the program, is slow.

use std::io;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Socket;
use super::frames::{ClientMessage, ServerMessage};
use super::queue::{Queue, Target};
use super::session::{SessionEnd, close, closed};
use crate::error::{Failure, chain};
use crate::interrupt::TerminationSignals;

/// Bytes of output that are kept here.
const WINDOW: u64 = 1 << 20;
/// What is taken is reported in steps of so many bytes.
const STEP: u64 = WINDOW / 4;
/// Bytes of input that are read at once.
const PIECE: usize = 64 << 10;

/// The numbers that binary frames begin with.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

type Sink = SplitSink<Socket, Message>;

/// Runs a session, with a command instead of a shell if there is one.
pub(super) async fn run(socket: Socket, command: &[String]) -> Result<SessionEnd, Failure> {
    let mut signals = TerminationSignals::listen()?;
    let (mut sink, stream) = socket.split();
    let end = tokio::select! {
        end = session(&mut sink, stream, command) => end,
        signal = signals.wait() => SessionEnd::Signal(signal),
    };
    if !matches!(end, SessionEnd::Broken(_)) {
        close(&mut sink).await;
    }
    Ok(end)
}

async fn session(sink: &mut Sink, mut stream: SplitStream<Socket>, command: &[String]) -> SessionEnd {
    let window = match greeting(&mut stream).await {
        Ok(window) => window,
        Err(end) => return end,
    };
    let exec = ClientMessage::Exec { command, window: Some(WINDOW) };
    if let Err(error) = sink.send(Message::text(exec.text())).await {
        return SessionEnd::Broken(chain(&error));
    }
    let queue = Queue::default();
    let (written, write) = watch::channel(0);
    let (taken, take) = watch::channel(0);
    let input = Input { sink, window, sent: 0, taken: take, written: write, reported: 0 };
    tokio::select! {
        end = output(stream, &queue, &written, &taken) => end,
        error = input.send() => SessionEnd::Input(error),
    }
}

/// Waits for the server's first frame. Returns the window of the input.
async fn greeting(stream: &mut SplitStream<Socket>) -> Result<u64, SessionEnd> {
    loop {
        if let ServerMessage::SessionInit { streams, window } = text(stream.next().await)? {
            return match streams.as_deref() {
                Some("pipes") => Ok(window.unwrap_or(u64::MAX)),
                _ => Err(SessionEnd::NoPipes),
            };
        }
    }
}

/// The message in a frame, or the end of the session.
fn text(frame: Option<Result<Message, Error>>) -> Result<ServerMessage, SessionEnd> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(ServerMessage::parse(&text)),
        Some(Ok(Message::Close(frame))) => Err(match closed(frame) {
            SessionEnd::Closed => SessionEnd::Broken("it ended without an exit status".to_owned()),
            end => end,
        }),
        Some(Ok(_)) => Ok(ServerMessage::Other),
        Some(Err(error)) => Err(SessionEnd::Broken(chain(&error))),
        None => Err(SessionEnd::Broken("it ended in the middle".to_owned())),
    }
}

/// Receives and writes output until the session ends, and everything is written that came before.
async fn output(
    stream: SplitStream<Socket>,
    queue: &Queue,
    written: &watch::Sender<u64>,
    taken: &watch::Sender<u64>,
) -> SessionEnd {
    let receiving = async {
        let end = receive(stream, queue, written, taken).await;
        queue.end();
        Ok(end)
    };
    tokio::try_join!(receiving, write(queue, written)).map_or_else(SessionEnd::Output, |(end, ())| end)
}

/// Receives frames until the session ends.
async fn receive(
    mut stream: SplitStream<Socket>,
    queue: &Queue,
    written: &watch::Sender<u64>,
    taken: &watch::Sender<u64>,
) -> SessionEnd {
    let mut received = 0;
    loop {
        match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                let (target, bytes) = match bytes.split_first() {
                    Some((&STDOUT, bytes)) => (Target::Stdout, bytes),
                    Some((&STDERR, bytes)) => (Target::Stderr, bytes),
                    _ => return SessionEnd::Broken("the server sent bytes of an unknown stream".to_owned()),
                };
                received += bytes.len() as u64;
                if received > *written.borrow() + WINDOW {
                    return SessionEnd::Broken("the server sent more than it was allowed to".to_owned());
                }
                queue.push(target, bytes);
            }
            frame => match text(frame) {
                Ok(ServerMessage::Exit { code }) => return SessionEnd::Exit(code),
                Ok(ServerMessage::Taken { bytes }) => {
                    taken.send_if_modified(|taken| std::mem::replace(taken, bytes.max(*taken)) < bytes);
                }
                Ok(_) => {}
                Err(end) => return end,
            },
        }
    }
}

/// Writes output until the end of the queue, and counts it.
async fn write(queue: &Queue, written: &watch::Sender<u64>) -> io::Result<()> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some((target, bytes)) = queue.next().await {
        match target {
            Target::Stdout => {
                stdout.write_all(&bytes).await?;
                stdout.flush().await?;
            }
            Target::Stderr => {
                stderr.write_all(&bytes).await?;
                stderr.flush().await?;
            }
        }
        written.send_modify(|written| *written += bytes.len() as u64);
    }
    Ok(())
}

/// The direction to the server: input, and what was taken of the output.
struct Input<'a> {
    sink: &'a mut Sink,
    window: u64,
    sent: u64,
    taken: watch::Receiver<u64>,
    written: watch::Receiver<u64>,
    reported: u64,
}

impl Input<'_> {
    /// Sends until the session ends. Returns only the error that ends the input.
    async fn send(mut self) -> io::Error {
        match self.try_send().await {
            Ok(error) => error,
            // The direction of the output reports the reason.
            Err(_) => std::future::pending().await,
        }
    }

    async fn try_send(&mut self) -> Result<io::Error, Error> {
        let mut stdin = tokio::io::stdin();
        let mut piece = vec![0; PIECE];
        let mut waiting = Vec::new();
        let mut ended = false;
        loop {
            self.send_waiting(&mut waiting).await?;
            tokio::select! {
                read = stdin.read(&mut piece), if waiting.is_empty() && !ended => match read {
                    Ok(0) => {
                        ended = true;
                        self.sink.send(Message::text(ClientMessage::EndOfInput.text())).await?;
                    }
                    Ok(read) => waiting.extend_from_slice(piece.get(..read).unwrap_or_default()),
                    Err(error) => return Ok(error),
                },
                Ok(()) = self.taken.changed(), if !waiting.is_empty() => {}
                Ok(()) = self.written.changed() => self.report().await?,
                // Nobody counts any more: the session ends.
                else => std::future::pending().await,
            }
        }
    }

    /// Sends as much as the window allows.
    async fn send_waiting(&mut self, waiting: &mut Vec<u8>) -> Result<(), Error> {
        let room = self.taken.borrow_and_update().saturating_add(self.window).saturating_sub(self.sent);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(waiting.len());
        if room > 0 {
            let mut frame = vec![STDIN];
            frame.extend(waiting.drain(..room));
            self.sink.send(Message::binary(frame)).await?;
            self.sent += room as u64;
        }
        Ok(())
    }

    /// Reports what was written, in steps.
    async fn report(&mut self) -> Result<(), Error> {
        let written = *self.written.borrow_and_update();
        if written - self.reported >= STEP {
            self.reported = written;
            self.sink.send(Message::text(ClientMessage::Taken { bytes: written }.text())).await?;
        }
        Ok(())
    }
}
