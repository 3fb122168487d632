//! A terminal.
//!
//! | Frame | From | Meaning |
//! |---|---|---|
//! | text `{"type":"session_init","session_id":UUID}` | server | first frame |
//! | binary | both | bytes of the terminal |
//! | text `{"type":"resize","cols":C,"rows":R}` | client | new size of the terminal |
//! | text that is JSON with another `type` | client | ignored |
//! | other text | client | typed input |
//! | close 1000, `shell exited` | server | end of the session |

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hearth_host::agent::AgentError;
use hearth_host::agent::exec::{Event, Events, Stdin};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::message::{ClientMessage, Text, read};
use super::{
    Disconnected, Ended, FIRST, Frames, Session, Sink, Times, Traffic, conclude, send_message, stream,
};
use crate::platform::{Guest, Streams};

/// Runs a shell from its first frame to its end.
pub(super) async fn run(
    (sink, frames): (&mut Sink, &mut Frames),
    traffic: &Traffic,
    guest: &Arc<dyn Guest>,
    session: &Session,
    extended: bool,
) -> Result<Ended, Disconnected> {
    let times = session.times;
    let init = json!({ "type": "session_init", "session_id": session.id });
    send_message(sink, Message::text(init.to_string())).await?;
    // The command may only come in the first frame. If that frame is something else, it is input of the shell and is
    // not lost.
    let mut first = None;
    if extended && let Ok(frame) = timeout(FIRST, frames.next()).await {
        first = Some(frame.and_then(Result::ok).ok_or(Disconnected)?);
    }
    let mut command = Vec::new();
    if let Some(Message::Text(text)) = &first
        && let Text::Message(ClientMessage::Exec { command: requested, .. }) = read(text)
    {
        (first, command) = (None, requested);
    }
    let (mut stdin, events) = match guest.shell(&command, Streams::Terminal).await {
        Ok(shell) => shell,
        Err(error) => return Ok(Ended::failed(&error.to_string())),
    };
    let input = async {
        if let Some(message) = first {
            forward_input(message, &mut stdin).await?;
        }
        // A client that is there answers pings, also while it has nothing to say.
        while let Ok(Some(Ok(message))) = timeout(times.gone, frames.next()).await {
            if !matches!(message, Message::Pong(_)) {
                traffic.touch();
            }
            forward_input(message, &mut stdin).await?;
        }
        Err::<(), Disconnected>(Disconnected)
    };
    let ended = tokio::select! {
        Err(gone) = input => return Err(gone),
        ended = forward_output(sink, traffic, events, times) => ended?,
    };
    conclude(sink, ended, extended, |error| Message::binary(format!("{error}\r\n"))).await
}

/// Forwards the terminal's output to the client. Returns the exit status of the command, or the error that prevented
/// it.
async fn forward_output(
    sink: &mut Sink,
    traffic: &Traffic,
    events: Events,
    times: Times,
) -> Result<Result<u32, AgentError>, Disconnected> {
    let mut events = pin!(stream(events));
    let mut pings = times.pings();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = pings.tick() => {
                send_message(sink, Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match event {
            Some(Ok(Event::Stdout(bytes) | Event::Stderr(bytes))) => {
                traffic.touch();
                send_message(sink, Message::binary(bytes)).await?;
            }
            Some(Ok(Event::Exited(exit))) => return Ok(Ok(exit.code)),
            Some(Err(error)) => return Ok(Err(error)),
            None => return Err(Disconnected), // the events have ended without an exit status
        }
    }
}

/// Forwards a client's message to the terminal.
async fn forward_input(message: Message, stdin: &mut Stdin) -> Result<(), Disconnected> {
    // An error says that the command has closed its input. It may still produce output.
    let _ = match message {
        Message::Binary(bytes) => stdin.write(&bytes).await,
        Message::Text(text) => match read(&text) {
            Text::Message(ClientMessage::Resize { cols, rows }) => {
                stdin.resize(rows.into(), cols.into()).await
            }
            Text::Message(_) => Ok(()),
            Text::Typed => stdin.write(text.as_bytes()).await,
        },
        Message::Close(_) => return Err(Disconnected),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
    };
    Ok(())
}
