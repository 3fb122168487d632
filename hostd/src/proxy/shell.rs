//! Shells (docs/behaviour.md, "Shells"): a terminal in the app's container over a WebSocket.
//!
//! | Frame | From | Meaning |
//! |---|---|---|
//! | text `{"type":"session_init","session_id":UUID}` | server | first frame |
//! | binary | both | bytes of the terminal |
//! | text `{"type":"resize","cols":C,"rows":R}` | client | new size of the terminal |
//! | text that is JSON with another `type` | client | ignored |
//! | other text | client | typed input |
//! | close 1000, `shell exited` | server | end of the session |
//!
//! `?ext=1` enables extensions: text `{"type":"exec","command":[…]}` as the client's first frame runs this command
//! instead of a shell, and text `{"type":"exit","code":N}` precedes the close frame. A command that cannot be executed is told as a
//! shell tells it: why, on the terminal, and the status 127 where there is none, else 126.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_host::agent::AgentError;
use hearth_host::agent::exec::{Event, Events, Stdin};
use hearth_proto::guest::v1::FailureCode;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::body::ResponseBody;
use super::error::ProxyError;
use super::idle::Idle;
use super::peer::Peer;
use super::shares::Underway;
use super::{credentials, websocket};
use crate::audit::shells::{Shell, ShellAudit};
use crate::driver::gate::{Gate, Pass};
use crate::panics;
use crate::platform::Guest;

/// Longest interval of pings to a client.
const PING: Duration = Duration::from_secs(30);
/// Number of pings that a client may leave unanswered.
const PINGS: u32 = 3;
/// How long a client with extensions has to send the command, and how long to answer a close frame.
const FIRST: Duration = Duration::from_secs(2);
/// Greatest size of a client's message, in bytes.
const MESSAGE: usize = 1 << 20;

/// How long a shell is kept.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Nothing is typed or shown for so long.
    pub idle: Duration,
    /// The client answers no ping for so long.
    pub gone: Duration,
}

impl Times {
    fn ping(self) -> Duration {
        PING.min(self.gone.checked_div(PINGS).unwrap_or(PING))
    }
}

/// A JSON message of the client.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientMessage {
    Resize {
        cols: u16,
        rows: u16,
    },
    Exec {
        command: Vec<String>,
    },
    #[serde(other)]
    Other,
}

/// The meaning of a text frame.
#[derive(Debug, PartialEq, Eq)]
enum Text {
    Message(ClientMessage),
    Typed,
}

fn read(text: &str) -> Text {
    match serde_json::from_str::<ClientMessage>(text) {
        Ok(message) => Text::Message(message),
        // A JSON object with a `type` that cannot be parsed is not typed into the shell.
        Err(_)
            if serde_json::from_str::<serde_json::Value>(text)
                .is_ok_and(|value| value.get("type").is_some()) =>
        {
            Text::Message(ClientMessage::Other)
        }
        Err(_) => Text::Typed,
    }
}

/// A shell's session.
pub(super) struct Session {
    /// The client and its share: both count as long as the shell is open.
    pub(super) place: (Arc<Peer>, Underway),
    /// Id of the session.
    pub(super) id: String,
    /// Who has made the token.
    pub(super) maker: Option<String>,
    /// Where shells are audited.
    pub(super) audit: Option<ShellAudit>,
    /// How long the shell is kept.
    pub(super) times: Times,
}

impl Session {
    /// Records that the shell opens, and on drop that it has closed.
    async fn audited<'a>(&'a self, gate: &'a Gate) -> Option<Opened<'a>> {
        let audit = self.audit.as_ref()?;
        let shell = Shell {
            account: gate.account(),
            microvm: gate.id(),
            maker: self.maker.as_deref(),
            source: self.place.0.address.ip(),
            session: &self.id,
        };
        audit.opened(&shell).done().await;
        Some(Opened { audit, shell, begun: Instant::now(), exit: None })
    }
}

/// A shell that is open.
struct Opened<'a> {
    audit: &'a ShellAudit,
    shell: Shell<'a>,
    begun: Instant,
    /// The status of the program, once it has exited.
    exit: Option<u32>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        drop(self.audit.closed(&self.shell, self.begun.elapsed(), self.exit)); // nobody waits for the line
    }
}

/// Accepts the handshake; the shell starts when the client has received the response.
///
/// # Errors
/// [`ProxyError::Bad`] if the handshake is invalid, [`ProxyError::Share`] if the account holds as many bytes as it may.
pub(super) fn accept<B>(
    request: &mut Request<B>,
    pass: Pass,
    session: Session,
) -> Result<Response<ResponseBody>, ProxyError> {
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(ProxyError::Bad("Missing Sec-WebSocket-Key"))?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ProxyError::Bad("Unsupported Sec-WebSocket-Version"));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| ProxyError::Bad("Invalid Sec-WebSocket-Key"))?;
    let offered = credentials::protocols(headers).any(|protocol| protocol == credentials::PROTOCOL);
    let query = request.uri().query().unwrap_or_default();
    let extended = query.split('&').any(|pair| pair == "ext=1");
    let room = session.place.1.seat().room(MESSAGE)?;
    let client = hyper::upgrade::on(request);
    tokio::spawn(panics::request(async move {
        let _kept = room; // as long as the shell is open
        serve(client, pass, session, extended).await;
    }));
    let mut response = Response::new(ResponseBody::text(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    websocket::set_upgrade(response.headers_mut());
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    websocket::answer_protocol(response.headers_mut(), offered);
    Ok(response)
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Frames = SplitStream<Socket>;
type Sink = SplitSink<Socket, Message>;

/// The client has disconnected, so that no close frame can be sent.
struct Disconnected;

async fn serve(client: OnUpgrade, pass: Pass, session: Session, extended: bool) {
    let Ok(upgraded) = client.await else { return };
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut frames) = socket.split();
    let guest = Arc::clone(pass.guest());
    let traffic = Traffic { gate: Arc::clone(pass.gate()), idle: Idle::new() };
    // From here on, bytes keep the microVM busy, but an open terminal alone does not.
    drop(pass);
    let mut opened = session.audited(&traffic.gate).await;
    let running = run((&mut sink, &mut frames), &traffic, &guest, &session, extended);
    let ended = tokio::select! {
        ended = running => ended,
        () = traffic.idle.over(session.times.idle) => Ok(Ended { reason: IDLE.to_owned(), exit: None }),
    };
    let Ok(Ended { reason, exit }) = ended else { return };
    if let Some(opened) = &mut opened {
        opened.exit = exit;
    }
    drop(opened);
    let code = if reason == EXITED { CloseCode::Normal } else { CloseCode::Error };
    // The client's own close frame ends the connection; it is awaited for a moment.
    let _ = timeout(FIRST, async {
        let _ = sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        while frames.next().await.is_some_and(|frame| frame.is_ok()) {}
    })
    .await;
}

/// The reason of the close frame after a shell that has exited by itself.
const EXITED: &str = "shell exited";

/// The reason after a shell in which nothing has been typed or shown for too long.
const IDLE: &str = "nothing typed or shown for endpoint.idle_connection_seconds";

/// What is typed and shown.
struct Traffic {
    gate: Arc<Gate>,
    idle: Idle,
}

impl Traffic {
    fn touch(&self) {
        self.gate.touch();
        self.idle.touch();
    }
}

/// How a shell has ended.
struct Ended {
    /// The reason for the close frame.
    reason: String,
    /// The status of the program, if it has exited.
    exit: Option<u32>,
}

/// Runs a shell from its first frame to its end.
async fn run(
    (sink, frames): (&mut Sink, &mut Frames),
    traffic: &Traffic,
    guest: &Arc<dyn Guest>,
    session: &Session,
    extended: bool,
) -> Result<Ended, Disconnected> {
    let times = session.times;
    let failed = |why: String| Ended { reason: short(&why), exit: None };
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
        && let Text::Message(ClientMessage::Exec { command: requested }) = read(text)
    {
        (first, command) = (None, requested);
    }
    let (mut stdin, events) = match guest.shell(&command).await {
        Ok(shell) => shell,
        Err(error) => return Ok(failed(error.to_string())),
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
    match ended {
        Ok(code) => {
            if extended {
                let exit = json!({ "type": "exit", "code": code });
                send_message(sink, Message::text(exit.to_string())).await?;
            }
            Ok(Ended { reason: EXITED.to_owned(), exit: Some(code) })
        }
        Err(error) => match status_of(&error).filter(|_| extended) {
            // A close frame has no room for why.
            Some(code) => {
                send_message(sink, Message::binary(format!("{error}\r\n"))).await?;
                let exit = json!({ "type": "exit", "code": code });
                send_message(sink, Message::text(exit.to_string())).await?;
                Ok(Ended { reason: EXITED.to_owned(), exit: Some(code) })
            }
            None => Ok(failed(error.to_string())),
        },
    }
}

/// The status with which a shell reports that a command could not be executed; none if that is not the command's fault.
fn status_of(error: &AgentError) -> Option<u32> {
    match error {
        AgentError::Refused { code: FailureCode::NotFound, .. } => Some(127),
        AgentError::Refused { code: FailureCode::Invalid, .. } => Some(126),
        _ => None,
    }
}

async fn send_message(sink: &mut Sink, message: Message) -> Result<(), Disconnected> {
    sink.send(message).await.map_err(|_| Disconnected)
}

/// Forwards the terminal's output to the client. Returns the exit status of the command, or the error that prevented
/// it.
async fn forward_output(
    sink: &mut Sink,
    traffic: &Traffic,
    events: Events,
    times: Times,
) -> Result<Result<u32, AgentError>, Disconnected> {
    // The stream keeps an event that has been read in part when it is time for a ping.
    let events = futures_util::stream::unfold(events, async |mut events| Some((events.next().await, events)));
    let mut events = pin!(events);
    let mut pings = interval(times.ping());
    pings.reset(); // the first one is not at once
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
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

/// Truncates a reason to the size of a close frame: 123 bytes (RFC 6455, section 5.5).
fn short(reason: &str) -> String {
    reason.get(..reason.floor_char_boundary(123)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_typed_unless_it_is_a_message() {
        assert_eq!(read("ls\n"), Text::Typed);
        assert_eq!(read("{\"a\":1}"), Text::Typed);
        assert_eq!(read("\"type\""), Text::Typed);
        let resize = read("{\"type\":\"resize\",\"cols\":120,\"rows\":40}");
        assert_eq!(resize, Text::Message(ClientMessage::Resize { cols: 120, rows: 40 }));
        for other in [
            "{\"type\":\"unknown\",\"x\":1}",
            "{\"type\":\"resize\",\"cols\":-1,\"rows\":40}",
            "{\"type\":\"resize\"}",
            "{\"type\":7}",
        ] {
            assert_eq!(read(other), Text::Message(ClientMessage::Other), "{other}");
        }
    }

    #[test]
    fn a_reason_fits_into_a_close_frame() {
        assert_eq!(short("a"), "a");
        assert_eq!(short(&"ü".repeat(100)).len(), 122);
    }
}
