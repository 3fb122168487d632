//! Shells (docs/behaviour.md, "Shells"): a terminal, or a program with pipes, in the app's container over a WebSocket.
//!
//! * [`message`] – text frames
//! * [`terminal`] – a terminal, as at AWS, with the extensions of `?ext=1`
//! * [`pipes`] – a program whose streams are pipes (`?ext=1&streams=pipes`)
//!
//! With the extensions, text `{"type":"exec","command":[…]}` as the client's first frame runs this command instead of a shell, and text
//! `{"type":"exit","code":N}` precedes the close frame. A command that cannot be executed is told as a shell tells it: why, on the
//! terminal or stderr, and the status 127 where there is none, else 126.

mod message;
mod pipes;
mod terminal;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use hearth_host::agent::AgentError;
use hearth_host::agent::exec::{Event, Events};
use hearth_proto::guest::v1::FailureCode;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
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
use crate::platform::Streams;

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
    /// Ticks when it is time for a ping.
    fn pings(self) -> Interval {
        let mut pings = interval(PING.min(self.gone.checked_div(PINGS).unwrap_or(PING)));
        pings.reset(); // the first one is not at once
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings
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
    let asks = |wanted: &str| query.split('&').any(|pair| pair == wanted);
    let extended = asks("ext=1");
    let streams = if extended && asks("streams=pipes") { Streams::Pipes } else { Streams::Terminal };
    let size = match streams {
        Streams::Terminal => MESSAGE,
        Streams::Pipes => MESSAGE.saturating_add(pipes::WINDOW),
    };
    let room = session.place.1.seat().room(size)?;
    let client = hyper::upgrade::on(request);
    tokio::spawn(panics::request(async move {
        let _kept = room; // as long as the shell is open
        serve(client, pass, session, (streams, extended)).await;
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

async fn serve(client: OnUpgrade, pass: Pass, session: Session, (streams, extended): (Streams, bool)) {
    let Ok(upgraded) = client.await else { return };
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut frames) = socket.split();
    let guest = Arc::clone(pass.guest());
    let traffic = Traffic { gate: Arc::clone(pass.gate()), idle: Idle::new() };
    // From here on, bytes keep the microVM busy, but an open terminal alone does not.
    drop(pass);
    let mut opened = session.audited(&traffic.gate).await;
    let client = (&mut sink, &mut frames);
    let running = async {
        match streams {
            Streams::Terminal => terminal::run(client, &traffic, &guest, &session, extended).await,
            Streams::Pipes => pipes::run(client, &traffic, &guest, &session).await,
        }
    };
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

impl Ended {
    /// A shell that has ended for another reason than its program's exit.
    fn failed(why: &str) -> Self {
        Self { reason: short(why), exit: None }
    }
}

/// The events of a program as a stream: it keeps an event that has been read in part when something else happens first.
fn stream(events: Events) -> impl Stream<Item = Result<Event, AgentError>> {
    futures_util::stream::unfold(events, async |mut events| Some((events.next().await, events)))
}

/// Ends a session whose program has ended, or could not be executed: then `shown` tells the client why, where it gets an exit status. A
/// close frame has no room for it.
async fn conclude(
    sink: &mut Sink,
    program: Result<u32, AgentError>,
    extended: bool,
    shown: impl FnOnce(&AgentError) -> Message,
) -> Result<Ended, Disconnected> {
    let error = match program {
        Ok(code) => return end(sink, code, extended).await,
        Err(error) => error,
    };
    let Some(code) = status_of(&error).filter(|_| extended) else {
        return Ok(Ended::failed(&error.to_string()));
    };
    send_message(sink, shown(&error)).await?;
    end(sink, code, extended).await
}

/// Sends the exit status, where the client has requested it.
async fn end(sink: &mut Sink, code: u32, extended: bool) -> Result<Ended, Disconnected> {
    if extended {
        let exit = json!({ "type": "exit", "code": code });
        send_message(sink, Message::text(exit.to_string())).await?;
    }
    Ok(Ended { reason: EXITED.to_owned(), exit: Some(code) })
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

/// Truncates a reason to the size of a close frame: 123 bytes (RFC 6455, section 5.5).
fn short(reason: &str) -> String {
    reason.get(..reason.floor_char_boundary(123)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_into_a_close_frame() {
        assert_eq!(short("a"), "a");
        assert_eq!(short(&"ü".repeat(100)).len(), 122);
    }
}
