//! The one double of the agent, for tests of all crates: the guest's side of the client's connections.
//!
//! A test has each connection served by a function ([`served`]), serves them itself ([`played`]), or makes the agent unreachable
//! ([`unreachable`]). The guest's side of a connection is a [`Line`], which greets and answers as an agent does, and sends any other
//! message that a test wants – also wrong ones. At any point, it can inject a [`Fault`] with [`strike`](Line::strike).
//!
//! Time is tokio's clock, which may be simulated.

use std::os::unix::net::UnixStream as StdStream;

use hearth_proto::guest::v1 as proto;
use hearth_vmm_client::ClientError;
use proto::request::Operation;
use proto::response::Result as Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use super::{Agent, Dial};
use hearth_agent_protocol::frame::{FrameError, Framed, receive, write};

/// The agent's behaviour on a connection from some point on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It refuses with the message [`REFUSAL`].
    Refuses,
    /// It closes the connection.
    Closes,
    /// It reads, and sends nothing.
    Silent,
    /// It neither reads nor sends.
    Deaf,
    /// It sends half of a message.
    Half,
    /// It sends one byte of a long message every second.
    Trickle,
    /// It sends bytes that are no messages.
    Garbage,
    /// It answers with the result of another request.
    Other,
}

/// Length of a message that is never whole, in bytes: every kind of message may be as long.
const NEVER_WHOLE: u32 = 64 << 10;

/// Message of an agent that [refuses](Fault::Refuses).
pub const REFUSAL: &str = "the double refuses";

impl Fault {
    /// All faults.
    pub const ALL: [Self; 8] = [
        Self::Refuses,
        Self::Closes,
        Self::Silent,
        Self::Deaf,
        Self::Half,
        Self::Trickle,
        Self::Garbage,
        Self::Other,
    ];
}

fn refusal(failure: proto::Failure) -> proto::Opened {
    proto::Opened { failure: Some(failure), ..proto::Opened::default() }
}

/// The guest's side of a connection.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    /// Whether the client's greeting was answered.
    opened: bool,
}

impl Line {
    fn new(stream: StdStream) -> Result<Self, FrameError> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, opened: false })
    }

    /// Receives a message.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn receive<M: Framed>(&mut self) -> Result<M, FrameError> {
        receive(&mut self.stream).await
    }

    /// Sends a message, whether or not it is a valid one at this point.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn send(&mut self, message: &impl Framed) -> Result<(), FrameError> {
        write(&mut self.stream, message).await
    }

    /// Accepts the opening of the connection, and returns what the client wants to open.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn accept(&mut self) -> Result<proto::Open, FrameError> {
        let open: proto::Open = self.receive().await?;
        let opened = proto::Opened { version: open.version, ..proto::Opened::default() };
        self.send(&opened).await?;
        self.opened = true;
        Ok(open)
    }

    /// Refuses the opening of the connection.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn refuse(&mut self, failure: proto::Failure) -> Result<proto::Open, FrameError> {
        let open = self.receive().await?;
        self.send(&refusal(failure)).await?;
        Ok(open)
    }

    /// The operation that the client requests; none if the request contains none.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn receive_request(&mut self) -> Result<Option<Operation>, FrameError> {
        Ok(self.receive::<proto::Request>().await?.operation)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn answer(&mut self, answer: Response) -> Result<(), FrameError> {
        self.send(&proto::Response { result: Some(answer) }).await
    }

    /// Sends an event of a process.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn output(&mut self, event: proto::exec_output::Event) -> Result<(), FrameError> {
        self.send(&proto::ExecOutput { event: Some(event) }).await
    }

    /// The directions of the connection, for a process whose input and output flow at the same time.
    #[must_use]
    pub fn split(self) -> (Reader, Writer) {
        let (reader, writer) = self.stream.into_split();
        (Reader(reader), Writer(writer))
    }

    /// Shows only this fault from now on. Returns when the agent is done with the connection.
    pub async fn strike(mut self, fault: Fault) {
        let prefix = NEVER_WHOLE.to_le_bytes();
        // A failed write below means that the client has closed the connection, so it is ignored.
        match fault {
            Fault::Refuses => {
                let code = proto::FailureCode::System.into();
                let failure = proto::Failure { code, message: REFUSAL.to_owned() };
                let _ = if self.opened {
                    self.answer(Response::Failure(failure)).await
                } else {
                    self.send(&refusal(failure)).await
                };
                self.drain().await;
            }
            Fault::Closes => {}
            Fault::Silent => self.drain().await,
            Fault::Deaf => std::future::pending().await,
            Fault::Half => {
                let _ = self.stream.write_all(&[&prefix[..], &[10; 100]].concat()).await;
                self.drain().await;
            }
            Fault::Trickle => {
                let (mut reader, mut writer) = self.stream.into_split();
                let read = async { drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await) };
                let write = async {
                    let _ = writer.write_all(&prefix).await;
                    for _ in 0..NEVER_WHOLE {
                        sleep(Duration::from_secs(1)).await;
                        if writer.write_all(&[10]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(read, write);
            }
            Fault::Garbage => drop(self.stream.write_all(&[255; 4096]).await),
            Fault::Other => {
                let _ = self.answer(Response::Exited(proto::Exited { code: 1, signal: 0 })).await;
                let _ = self.send(&refusal(proto::Failure::default())).await;
                let _ = self.stream.shutdown().await;
                let _ = self.stream.read_to_end(&mut Vec::new()).await;
            }
        }
    }

    /// Reads and discards until the client has closed its side.
    async fn drain(&mut self) {
        let _ = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
    }
}

/// The direction from the client.
#[derive(Debug)]
pub struct Reader(OwnedReadHalf);

/// The direction to the client.
#[derive(Debug)]
pub struct Writer(OwnedWriteHalf);

impl Reader {
    /// Receives a message.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn receive<M: Framed>(&mut self) -> Result<M, FrameError> {
        receive(&mut self.0).await
    }
}

impl Writer {
    /// Sends an event of a process.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn output(&mut self, event: proto::exec_output::Event) -> Result<(), FrameError> {
        write(&mut self.0, &proto::ExecOutput { event: Some(event) }).await
    }
}

/// Opens connections with a function.
struct Dialer<F>(F);

impl<F: Fn() -> Result<StdStream, ClientError> + Send + Sync> Dial for Dialer<F> {
    fn dial(&self) -> Result<StdStream, ClientError> {
        (self.0)()
    }
}

/// A connection: the client's side and the guest's.
fn pair() -> Result<(StdStream, StdStream), ClientError> {
    StdStream::pair().map_err(failed)
}

fn failed(source: std::io::Error) -> ClientError {
    ClientError::Host { what: "making a connection of the double", source }
}

/// An agent whose connections are each served by `serve`, on the runtime of the caller that opens them.
pub fn served<S, F>(serve: S) -> Agent
where
    S: Fn(Line) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Agent::new(Dialer(move || {
        let (ours, theirs) = pair()?;
        let runtime = tokio::runtime::Handle::current();
        let _entered = runtime.enter();
        let line = Line::new(theirs).map_err(|error| failed(std::io::Error::other(error)))?;
        runtime.spawn(serve(line));
        Ok(ours)
    }))
}

/// The guest's side of the connections that a client opens.
#[derive(Debug)]
pub struct Lines(mpsc::UnboundedReceiver<StdStream>);

impl Lines {
    /// The next connection. None when the client was dropped.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn next(&mut self) -> Option<Result<Line, FrameError>> {
        self.0.recv().await.map(Line::new)
    }
}

/// An agent that is played by a test. Its connections wait until the test takes them from [`Lines`]; once those are dropped, dialling
/// fails.
#[must_use]
pub fn played() -> (Agent, Lines) {
    let (give, lines) = mpsc::unbounded_channel();
    let dial = Dialer(move || {
        let (ours, theirs) = pair()?;
        give.send(theirs).map_err(|_| failed(std::io::Error::other("nobody plays the guest")))?;
        Ok(ours)
    });
    (Agent::new(dial), Lines(lines))
}

/// An agent that cannot be reached: `dial` makes the monitor's error.
pub fn unreachable(dial: impl Fn() -> ClientError + Send + Sync + 'static) -> Agent {
    Agent::new(Dialer(move || Err(dial())))
}
