//! The one double of the agent, for tests of all crates: what is at the other end of the client's connections.
//!
//! A test has each connection served by a function ([`served`]), plays them itself ([`played`]), or has nobody reach the agent
//! ([`unreachable`]). What is at the guest's end is a [`Line`], which greets and answers as an agent does, and says
//! whatever else a test wants – also what is not true. At any point it can [strike](Line::strike) a [`Fault`].
//!
//! Time is tokio's, which may be simulated.

use std::os::unix::net::UnixStream as StdStream;

use hearth_proto::guest::v1 as proto;
use hearth_vmm::client::ClientError;
use proto::request::Operation;
use proto::response::Result as Answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use super::{Agent, Dial};
use hearth_agent_protocol::frame::{FrameError, LIMIT, receive, write};

/// What the agent does with a connection from some point on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It refuses, with these [words](REFUSAL).
    Refuses,
    /// It hangs up.
    Closes,
    /// It reads, and says nothing.
    Silent,
    /// It does not even read.
    Deaf,
    /// It says half of a message.
    Half,
    /// It says a byte of a long message every second.
    Trickle,
    /// It says things that are no messages.
    Garbage,
    /// It answers something that was not asked.
    Other,
}

/// What an agent says that [refuses](Fault::Refuses).
pub const REFUSAL: &str = "the double refuses";

impl Fault {
    /// All of them.
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

/// The guest's end of a connection.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    /// Whether the client was greeted.
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
    pub async fn receive<M: prost::Message + Default>(&mut self) -> Result<M, FrameError> {
        receive(&mut self.stream).await
    }

    /// Says something, whether or not it belongs here.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn send(&mut self, message: &impl prost::Message) -> Result<(), FrameError> {
        write(&mut self.stream, message).await
    }

    /// Opens the connection, for what the client wants.
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

    /// Does not open the connection.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn refuse(&mut self, failure: proto::Failure) -> Result<proto::Open, FrameError> {
        let open = self.receive().await?;
        self.send(&refusal(failure)).await?;
        Ok(open)
    }

    /// What the client asks for; nothing where the message names nothing.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn asked(&mut self) -> Result<Option<Operation>, FrameError> {
        Ok(self.receive::<proto::Request>().await?.operation)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn answer(&mut self, answer: Answer) -> Result<(), FrameError> {
        self.send(&proto::Response { result: Some(answer) }).await
    }

    /// Says what a process does.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn output(&mut self, event: proto::exec_output::Event) -> Result<(), FrameError> {
        self.send(&proto::ExecOutput { event: Some(event) }).await
    }

    /// Does nothing but this from now on. Comes back when the agent has nothing more to do with the connection.
    pub async fn strike(mut self, fault: Fault) {
        let prefix = u32::try_from(LIMIT).unwrap_or(u32::MAX).to_le_bytes();
        // What fails from here on fails since the client has gone.
        match fault {
            Fault::Refuses => {
                let code = proto::FailureCode::System.into();
                let failure = proto::Failure { code, message: REFUSAL.to_owned() };
                let _ = if self.opened {
                    self.answer(Answer::Failure(failure)).await
                } else {
                    self.send(&refusal(failure)).await
                };
                self.hear().await;
            }
            Fault::Closes => {}
            Fault::Silent => self.hear().await,
            Fault::Deaf => std::future::pending().await,
            Fault::Half => {
                let _ = self.stream.write_all(&[&prefix[..], &[10; 100]].concat()).await;
                self.hear().await;
            }
            Fault::Trickle => {
                let (mut reader, mut writer) = self.stream.into_split();
                let read = async { drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await) };
                let write = async {
                    let _ = writer.write_all(&prefix).await;
                    for _ in 0..LIMIT {
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
                let _ = self.answer(Answer::Exited(proto::Exited { code: 1, signal: 0 })).await;
                let _ = self.send(&refusal(proto::Failure::default())).await;
                let _ = self.stream.shutdown().await;
                let _ = self.stream.read_to_end(&mut Vec::new()).await;
            }
        }
    }

    /// Reads and forgets until the client has nothing more to say.
    async fn hear(&mut self) {
        let _ = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
    }
}

/// Gives out connections as a function says.
struct Dialer<F>(F);

impl<F: Fn() -> Result<StdStream, ClientError> + Send + Sync> Dial for Dialer<F> {
    fn dial(&self) -> Result<StdStream, ClientError> {
        (self.0)()
    }
}

/// A connection: the client's end and the guest's.
fn pair() -> Result<(StdStream, StdStream), ClientError> {
    StdStream::pair().map_err(failed)
}

fn failed(source: std::io::Error) -> ClientError {
    ClientError::Host { what: "making a connection of the double", source }
}

/// An agent whose connections are each served by `serve`, on the runtime of whoever opens them.
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

/// The guest's ends of the connections that a client opens.
#[derive(Debug)]
pub struct Lines(mpsc::UnboundedReceiver<StdStream>);

impl Lines {
    /// The next connection. None when the client is gone.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn next(&mut self) -> Option<Result<Line, FrameError>> {
        self.0.recv().await.map(Line::new)
    }
}

/// An agent that is played by a test. Its connections wait until the test takes them; without [`Lines`] there are none.
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

/// An agent that nobody reaches: this is what the monitor says, when `dial` comes back.
pub fn unreachable(dial: impl Fn() -> ClientError + Send + Sync + 'static) -> Agent {
    Agent::new(Dialer(move || Err(dial())))
}
