//! A shell in a microVM: a WebSocket of its endpoint that is a terminal, or pipes (docs/endpoints.md, "Shells").
//!
//! * [`session`] – a terminal: copies bytes in both directions until one side ends
//! * [`pipes`] – stdin, stdout and stderr, as they are; [`queue`] – output that waits to be written
//! * [`frames`] – messages in addition to the bytes: size, command, exit status
//! * [`keys`] – `~.`, which ends a session that hangs
//! * [`terminal`] – the local terminal: raw mode and size

mod frames;
mod keys;
mod pipes;
mod queue;
mod session;
mod terminal;

use std::io::{self, IsTerminal as _};

use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

pub(crate) use self::session::SessionEnd;
use crate::endpoint::{Dialer, refusal};
use crate::error::{Failure, chain};

/// The subprotocol that every WebSocket with a token in its subprotocols has to name.
const MARKER: &str = "lambda-microvms";

/// What stdin, stdout and stderr of the program in the microVM are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// One terminal.
    Terminal,
    /// Three pipes.
    Pipes,
}

impl Streams {
    /// A terminal, if stdin and stdout are one here.
    pub(crate) fn as_here() -> Self {
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        if terminal { Self::Terminal } else { Self::Pipes }
    }

    /// Path of the extended protocol, in which the server reports the exit status and accepts a command.
    fn path(self) -> &'static str {
        match self {
            Self::Terminal => "/?ext=1",
            Self::Pipes => "/?ext=1&streams=pipes",
        }
    }
}

/// A shell's connection.
pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Runs a session, with a command instead of a shell if there is one.
pub(crate) async fn run(socket: Socket, command: &[String], streams: Streams) -> Result<SessionEnd, Failure> {
    match streams {
        Streams::Terminal => session::run(socket, command).await,
        Streams::Pipes => pipes::run(socket, command).await,
    }
}

/// Opens a shell of the microVM `id`.
pub(crate) async fn connect(
    dialer: &Dialer,
    id: &str,
    token: &str,
    streams: Streams,
) -> Result<Socket, Failure> {
    let stream = dialer.connect().await?;
    let unusable = |why: String| Failure::failed(format!("the endpoint cannot be asked for a shell: {why}"));
    let url = dialer.address.url(streams.path()).replacen("https", "wss", 1);
    let mut request = url.into_client_request().map_err(|error| unusable(error.to_string()))?;
    let protocols = format!("{MARKER}, {MARKER}.authentication.{token}");
    let mut protocols = HeaderValue::from_str(&protocols).map_err(|error| unusable(error.to_string()))?;
    protocols.set_sensitive(true);
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocols);
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            Err(Failure::failed(refusal(id, answer.status(), answer.headers(), body)))
        }
        Err(error) => Err(Failure::NoConnection(format!(
            "the connection to the endpoint {} broke: {}; try again",
            dialer.address.host(),
            chain(&error)
        ))),
    }
}
