//! A program whose stdin, stdout and stderr are pipes: bytes as they are, and the end of the input.
//!
//! | Frame | From | Meaning |
//! |---|---|---|
//! | text `{"type":"session_init","session_id":UUID,"streams":"pipes","window":W}` | server | first frame; without `streams`, the server knows terminals only |
//! | text `{"type":"exec","command":[…],"window":W}` | client | first frame: the command, or nothing for a login shell |
//! | binary that begins with byte 0 | client | stdin |
//! | text `{"type":"end_of_input"}` | client | stdin ends |
//! | binary that begins with byte 1, 2 | server | stdout, stderr |
//! | text `{"type":"taken","bytes":N}` | both | all bytes so far that the sender has passed on |
//! | text `{"type":"exit","code":N}`, then close 1000, `shell exited` | server | end of the session |
//!
//! A side that has sent `window` bytes more than the other one has taken waits. So each side always reads, and pings, the end and a
//! client's disconnection arrive however slow a program or the reader of its output is. Output flows without a limit to a client that
//! names no window.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hearth_host::agent::AgentError;
use hearth_host::agent::exec::{Event, Events, Stdin};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, SimplexStream, WriteHalf, simplex};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::message::{ClientMessage, Text, read};
use super::{Disconnected, Ended, Frames, Session, Sink, Times, Traffic, conclude, send_message, stream};
use crate::platform::{Guest, Streams};

/// Bytes of input that are kept for a program.
pub(super) const WINDOW: usize = 512 << 10;
/// Bytes of input that are passed on at once.
const PIECE: usize = 64 << 10;
/// What is taken is reported in steps of so many bytes.
const STEP: u64 = (WINDOW / 4) as u64;

/// The numbers that binary frames begin with.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// Why no input is received any more.
enum Stopped {
    Disconnected,
    /// The client has broken the protocol.
    Wrong(&'static str),
}

/// Runs a program from the first frame to its end.
pub(super) async fn run(
    (sink, frames): (&mut Sink, &mut Frames),
    traffic: &Traffic,
    guest: &Arc<dyn Guest>,
    session: &Session,
) -> Result<Ended, Disconnected> {
    let times = session.times;
    let init = json!({
        "type": "session_init", "session_id": session.id, "streams": "pipes", "window": WINDOW,
    });
    send_message(sink, Message::text(init.to_string())).await?;
    let Some((command, window)) = command(frames, times).await? else {
        return Ok(Ended::failed("the first message is not exec"));
    };
    let (stdin, events) = match guest.shell(&command, Streams::Pipes).await {
        Ok(program) => program,
        Err(error) => return Ok(Ended::failed(&error.to_string())),
    };
    let (client, client_took) = watch::channel(0);
    let (program, program_took) = watch::channel(0);
    let (kept, keep) = simplex(WINDOW);
    let input = async {
        tokio::select! {
            stopped = receive(frames, traffic, times, keep, (&client, &program)) => stopped,
            () = feed(stdin, kept, &program) => std::future::pending().await,
        }
    };
    let mut output = Output { sink: &mut *sink, window, sent: 0, client_took, program_took, reported: 0 };
    let ended = tokio::select! {
        stopped = input => match stopped {
            Stopped::Disconnected => return Err(Disconnected),
            Stopped::Wrong(why) => return Ok(Ended::failed(why)),
        },
        ended = output.forward(traffic, events, times) => ended?,
    };
    conclude(sink, ended, true, |error| frame(STDERR, format!("{error}\n").as_bytes())).await
}

/// The command, and the window of its output; none if the client sends something else.
async fn command(frames: &mut Frames, times: Times) -> Result<Option<(Vec<String>, u64)>, Disconnected> {
    loop {
        let Ok(Some(Ok(message))) = timeout(times.gone, frames.next()).await else {
            return Err(Disconnected);
        };
        match message {
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(text) => {
                return Ok(match read(&text) {
                    Text::Message(ClientMessage::Exec { command, window }) => {
                        Some((command, window.unwrap_or(u64::MAX)))
                    }
                    _ => None,
                });
            }
            Message::Close(_) => return Err(Disconnected),
            _ => return Ok(None),
        }
    }
}

/// Receives the client's messages, and keeps its input for [`feed`].
async fn receive(
    frames: &mut Frames,
    traffic: &Traffic,
    times: Times,
    keep: WriteHalf<SimplexStream>,
    (client, program): (&watch::Sender<u64>, &watch::Sender<u64>),
) -> Stopped {
    let mut keep = Some(keep);
    let mut received = 0_u64;
    // A client that is there answers pings, also while it has nothing to say.
    while let Ok(Some(Ok(message))) = timeout(times.gone, frames.next()).await {
        match message {
            Message::Binary(bytes) => {
                let Some((&STDIN, bytes)) = bytes.split_first() else {
                    return Stopped::Wrong("a binary message has no byte 0 of stdin");
                };
                traffic.touch();
                received = received.saturating_add(bytes.len() as u64);
                if received > program.borrow().saturating_add(WINDOW as u64) {
                    return Stopped::Wrong("more input than the window has room for");
                }
                // There is room. An error says that the program is gone.
                if let Some(keep) = &mut keep {
                    let _ = keep.write_all(bytes).await;
                }
            }
            Message::Text(text) => match read(&text) {
                Text::Message(ClientMessage::EndOfInput) => {
                    if let Some(mut keep) = keep.take() {
                        let _ = keep.shutdown().await;
                    }
                }
                Text::Message(ClientMessage::Taken { bytes }) => {
                    client.send_if_modified(|taken| std::mem::replace(taken, bytes.max(*taken)) < bytes);
                }
                Text::Message(_) => {}
                Text::Typed => return Stopped::Wrong("a text message is no JSON with a type"),
            },
            Message::Close(_) => return Stopped::Disconnected,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Stopped::Disconnected
}

/// Passes the input on to the program, and counts what it has taken.
async fn feed(mut stdin: Stdin, mut kept: ReadHalf<SimplexStream>, program: &watch::Sender<u64>) {
    let mut piece = vec![0; PIECE];
    loop {
        let read = kept.read(&mut piece).await.unwrap_or(0);
        let bytes = piece.get(..read).unwrap_or_default();
        // An error says that the program is gone, and so do its events.
        if bytes.is_empty() {
            let _ = stdin.close().await;
            // Kept, for its end would be the end of the program.
            return std::future::pending().await;
        }
        let _ = stdin.write(bytes).await;
        program.send_modify(|taken| *taken = taken.saturating_add(read as u64));
    }
}

/// The direction to the client.
struct Output<'a> {
    sink: &'a mut Sink,
    window: u64,
    sent: u64,
    client_took: watch::Receiver<u64>,
    program_took: watch::Receiver<u64>,
    reported: u64,
}

impl Output<'_> {
    /// Forwards output until the program has exited. Returns its exit status, or the error that prevented it.
    async fn forward(
        &mut self,
        traffic: &Traffic,
        events: Events,
        times: Times,
    ) -> Result<Result<u32, AgentError>, Disconnected> {
        let mut events = pin!(stream(events));
        let mut pings = times.pings();
        let mut waiting: Option<(u8, Vec<u8>)> = None;
        loop {
            if let Some((number, bytes)) = waiting.take() {
                waiting = self.send(number, bytes).await?;
            }
            let event = tokio::select! {
                event = events.next(), if waiting.is_none() => event,
                Ok(()) = self.client_took.changed() => continue,
                Ok(()) = self.program_took.changed() => {
                    self.report().await?;
                    continue;
                }
                _ = pings.tick() => {
                    send_message(self.sink, Message::Ping(Bytes::new())).await?;
                    continue;
                }
            };
            match event {
                Some(Ok(Event::Stdout(bytes))) => waiting = Some((STDOUT, bytes)),
                Some(Ok(Event::Stderr(bytes))) => waiting = Some((STDERR, bytes)),
                Some(Ok(Event::Exited(exit))) => return Ok(Ok(exit.code)),
                Some(Err(error)) => return Ok(Err(error)),
                None => return Err(Disconnected), // the events have ended without an exit status
            }
            traffic.touch();
        }
    }

    /// Sends as much as the window allows; returns the rest.
    async fn send(&mut self, number: u8, mut bytes: Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, Disconnected> {
        let taken = *self.client_took.borrow_and_update();
        let room = taken.saturating_add(self.window).saturating_sub(self.sent);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        if room > 0 {
            let rest = bytes.split_off(room);
            send_message(self.sink, frame(number, &bytes)).await?;
            self.sent = self.sent.saturating_add(room as u64);
            bytes = rest;
        }
        Ok((!bytes.is_empty()).then_some((number, bytes)))
    }

    /// Reports what the program has taken, in steps.
    async fn report(&mut self) -> Result<(), Disconnected> {
        let taken = *self.program_took.borrow_and_update();
        if taken.saturating_sub(self.reported) < STEP {
            return Ok(());
        }
        self.reported = taken;
        let report = json!({ "type": "taken", "bytes": taken });
        send_message(self.sink, Message::text(report.to_string())).await
    }
}

/// A binary frame of this stream.
fn frame(number: u8, bytes: &[u8]) -> Message {
    let mut frame = Vec::with_capacity(bytes.len().saturating_add(1));
    frame.push(number);
    frame.extend_from_slice(bytes);
    Message::binary(frame)
}
