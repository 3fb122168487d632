//! The client of the agent inside a guest (`hearth-guest`); the protocol is `agent.proto`.
//!
//! * [`control`] – requests and responses: configure, start, hooks, identity
//! * [`exec`] – processes in the app's container, and files into and out of it
//! * [`logs`] – the app's log
//! * [`names`] – queries of the guest's DNS stub
//!
//! The guest's kernel and its agent are not trusted: they may be silent at any point, send half of a message, or one byte a second.
//! So every exchange has one deadline – to connect, to greet, to send the request and to receive the response – which no received byte
//! extends. Streams that may be long (an app's traffic, a process, lines, names) have a deadline for their opening, and are closed with
//! the microVM.

pub mod control;
#[cfg(any(test, feature = "double"))]
pub mod double;
pub mod exec;
pub mod logs;
pub mod names;

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_model::hooks::HookOutcome;
use hearth_proto::guest::v1 as proto;
use hearth_vmm_client::{Client, ClientError};
use proto::open::Kind;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

pub use control::Control;
use control::HookCall;
pub use hearth_agent_protocol::frame::FrameError;
use hearth_agent_protocol::frame::{receive, write};
use hearth_agent_protocol::{PORT, version};

/// Deadline for opening a connection: to connect, to send the greeting, to receive the answer.
pub const OPENING: Duration = Duration::from_secs(30);

/// Pause between attempts to reach the agent of a guest that boots.
const BOOT_POLL: Duration = Duration::from_millis(5);

/// Why a request could not be sent to the agent, or failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The monitor opened no stream.
    #[error("connecting to the guest's agent: {0}")]
    Monitor(#[from] ClientError),
    /// The connection failed.
    #[error("{what}: {source}; the guest may have ended")]
    Connection {
        /// The operation, for the message.
        what: &'static str,
        /// The error of the connection.
        source: FrameError,
    },
    /// The agent refused.
    #[error("{message}")]
    Refused {
        /// The kind of failure.
        code: proto::FailureCode,
        /// Why, and what to do.
        message: String,
    },
    /// The agent's answer does not belong to the request.
    #[error(
        "the guest's agent gave an answer that does not belong to the request; are guest and host of one release?"
    )]
    Confused,
    /// The agent did not answer in time.
    #[error("the guest's agent did not answer within {} s while {what}", limit.as_secs())]
    TimedOut {
        /// The operation, for the message.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// Data that was to be passed on could not be read or written on the host's side.
    #[error("{what}: {source}")]
    Host {
        /// The operation, for the message.
        what: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl From<proto::Failure> for AgentError {
    fn from(failure: proto::Failure) -> Self {
        Self::Refused { code: failure.code(), message: bounded(failure.message) }
    }
}

/// Bytes of a guest's text that are kept: it becomes part of errors, records and logs.
const TEXT: usize = 4096;

/// A text of a guest without what is beyond [`TEXT`].
fn bounded(mut text: String) -> String {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

/// Opens streams to the agent's port of a guest.
pub trait Dial: Send + Sync {
    /// Opens a stream to the agent. Whether the agent listens may become known only later.
    ///
    /// # Errors
    /// [`ClientError`].
    fn dial(&self) -> Result<StdStream, ClientError>;
}

impl Dial for Client {
    fn dial(&self) -> Result<StdStream, ClientError> {
        self.vsock_connect(PORT)
    }
}

/// The agent of one guest. Clones are cheap and reach the same agent.
#[derive(Clone)]
pub struct Agent {
    dial: Arc<dyn Dial>,
    /// Limits dialling to one at a time, so that a monitor that does not answer blocks one thread and not the whole pool.
    turn: Arc<Semaphore>,
}

/// Runs `work` with an agent within `limit`; `what` is named in the error.
async fn within<T>(
    what: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, AgentError>>,
) -> Result<T, AgentError> {
    timeout(limit, work).await.unwrap_or(Err(AgentError::TimedOut { what, limit }))
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Agent {
    /// The agent that `dial` reaches.
    pub fn new(dial: impl Dial + 'static) -> Self {
        Self { dial: Arc::new(dial), turn: Arc::new(Semaphore::new(1)) }
    }

    /// The agent in the guest of the monitor whose control socket is at `path`, on a separate connection: a monitor that is busy with
    /// another request (a snapshot, say) on another connection still answers on this one.
    ///
    /// # Errors
    /// [`AgentError::Monitor`].
    pub fn of_monitor(path: &Path) -> Result<Self, AgentError> {
        Ok(Self::new(Client::connect(path)?))
    }

    /// Opens a connection of this kind within [`OPENING`].
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn open(&self, kind: Kind) -> Result<UnixStream, AgentError> {
        within("opening a connection to it", OPENING, self.greet(kind)).await
    }

    async fn dial(&self) -> Result<StdStream, AgentError> {
        let failed = |source| AgentError::Host {
            what: "connecting to the guest's agent",
            source: io::Error::other(source),
        };
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        let dial = Arc::clone(&self.dial);
        // The monitor answers at once, but a thread that waits for it must not be one of the runtime's. The thread may wait longer than the
        // caller does.
        let dialed = tokio::task::spawn_blocking(move || {
            let dialed = dial.dial();
            drop(turn);
            dialed
        });
        Ok(dialed.await.map_err(|error| failed(error.to_string()))??)
    }

    async fn greet(&self, kind: Kind) -> Result<UnixStream, AgentError> {
        let stream = self.dial().await?;
        let converted = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        let mut stream =
            converted.map_err(|source| AgentError::Host { what: "using the stream to the guest", source })?;
        let connection = |what| move |source| AgentError::Connection { what, source };
        let open = version::open(kind, &[]);
        write(&mut stream, &open).await.map_err(connection("greeting the guest's agent"))?;
        let opened: proto::Opened =
            receive(&mut stream).await.map_err(connection("waiting for the guest's agent"))?;
        match (&opened.failure, version::agreed(&open, &opened)) {
            (Some(failure), _) => Err(failure.clone().into()),
            (None, Some(_)) => Ok(stream),
            (None, None) => Err(AgentError::Confused),
        }
    }

    /// A connection for requests.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn control(&self) -> Result<Control, AgentError> {
        Ok(Control::new(self.open(Kind::Control(proto::OpenControl {})).await?))
    }

    /// Waits until the agent of a guest that boots, or was restored, accepts requests.
    ///
    /// # Errors
    /// [`AgentError::TimedOut`] after `limit`; [`AgentError::Monitor`] when the monitor has exited.
    pub async fn wait_ready(&self, limit: Duration) -> Result<Control, AgentError> {
        // The monitor refuses the connection while the agent does not listen or the guest's driver is not up. A greeting that is sent too
        // early may be lost.
        let too_early = |error: &AgentError| {
            use AgentError::{Connection, Monitor, TimedOut};
            matches!(error, Connection { .. } | TimedOut { .. } | Monitor(ClientError::Refused { .. }))
        };
        let ready = async {
            loop {
                match self.control().await {
                    Err(error) if too_early(&error) => sleep(BOOT_POLL).await,
                    result => return result,
                }
            }
        };
        within("the guest booted", limit, ready).await
    }

    /// Calls a hook of the app over a new connection, with [`HookCall::limit`] as the deadline of the whole exchange.
    ///
    /// # Errors
    /// The same as of [`Control::call_hook`].
    pub async fn call_hook(&self, call: &HookCall) -> Result<HookOutcome, AgentError> {
        let called = async {
            let control = self.greet(Kind::Control(proto::OpenControl {})).await?;
            Control::new(control).call_hook(call).await
        };
        within("calling a hook of the app", call.limit(), called).await
    }

    /// Freezes the app like [`Control::freeze`], with `limit` as the deadline of the whole exchange. Also returns the connection.
    ///
    /// # Errors
    /// The same as of [`Control::freeze`].
    pub async fn freeze(
        &self,
        forget: bool,
        limit: Duration,
    ) -> Result<(Control, proto::Status), AgentError> {
        let frozen = async {
            let mut control = Control::new(self.greet(Kind::Control(proto::OpenControl {})).await?);
            let status = control.freeze(forget).await?;
            Ok((control, status))
        };
        within("freezing the app", limit, frozen).await
    }

    /// Thaws the app like [`Control::thaw`], over a new connection, with `limit` as the deadline of the whole exchange.
    ///
    /// # Errors
    /// The same as of [`Control::thaw`].
    pub async fn thaw(&self, limit: Duration) -> Result<(), AgentError> {
        let thawed = async {
            let control = self.greet(Kind::Control(proto::OpenControl {})).await?;
            Control::new(control).thaw().await
        };
        within("thawing the app", limit, thawed).await
    }

    /// A TCP connection to a port of the app. The app has `timeout` to accept it; the agent has [`OPENING`] in addition.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when nothing listens there.
    pub async fn stream(&self, port: u16, timeout: Duration) -> Result<UnixStream, AgentError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let opened = self.greet(Kind::Stream(proto::OpenStream { port: port.into(), timeout_ms }));
        within("connecting to the app", timeout.saturating_add(OPENING), opened).await
    }
}

#[cfg(test)]
mod tests;
