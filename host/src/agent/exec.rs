//! Processes in the app's container beside the app, and files into and out of the container.

use hearth_proto::guest::v1 as proto;
use proto::exec_input::Event as Input;
use proto::exec_output::Event as Output;
use proto::open::Kind;
use proto::open_exec::What;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::control::Exit;
use super::{Agent, AgentError};
use hearth_agent_protocol::frame::{FrameError, receive, write};

/// Bytes of input per message.
const CHUNK: usize = 256 << 10;
/// Bytes of an error message that are kept.
const COMPLAINT: usize = 4096;

/// An event of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process wrote this to its stdout, or to its terminal.
    Stdout(Vec<u8>),
    /// The process wrote this to its stderr.
    Stderr(Vec<u8>),
    /// The process has terminated; the last event.
    Exited(Exit),
}

/// The stream of a process's events.
#[derive(Debug)]
pub struct Events {
    stream: OwnedReadHalf,
}

/// The input of a process. When both this and its [`Events`] are dropped, the process is killed.
#[derive(Debug)]
pub struct Stdin {
    stream: OwnedWriteHalf,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// [`AgentError::Refused`] when the process could not be started; errors of the connection.
    pub async fn next(&mut self) -> Result<Event, AgentError> {
        let output: proto::ExecOutput = receive(&mut self.stream)
            .await
            .map_err(|source| AgentError::Connection { what: "following a process in the guest", source })?;
        match output.event {
            Some(Output::Stdout(bytes)) => Ok(Event::Stdout(bytes)),
            Some(Output::Stderr(bytes)) => Ok(Event::Stderr(bytes)),
            Some(Output::Exited(exited)) => Ok(Event::Exited(exited.into())),
            Some(Output::Failed(failure)) => Err(failure.into()),
            None => Err(AgentError::Confused),
        }
    }
}

impl Stdin {
    async fn send(&mut self, event: Input) -> Result<(), AgentError> {
        write(&mut self.stream, &proto::ExecInput { event: Some(event) })
            .await
            .map_err(|source| AgentError::Connection { what: "writing to a process in the guest", source })
    }

    /// Sends input to the process.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        for chunk in bytes.chunks(CHUNK) {
            self.send(Input::Stdin(chunk.to_vec())).await?;
        }
        Ok(())
    }

    /// Closes the process's stdin.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn close(&mut self) -> Result<(), AgentError> {
        self.send(Input::StdinClosed(true)).await
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn resize(&mut self, rows: u32, columns: u32) -> Result<(), AgentError> {
        self.send(Input::Resize(proto::WindowSize { rows, columns })).await
    }

    /// Sends a signal to the process and its group.
    ///
    /// # Errors
    /// Errors of the connection.
    pub async fn signal(&mut self, signal: u32) -> Result<(), AgentError> {
        self.send(Input::Signal(signal)).await
    }
}

impl Agent {
    /// Starts a process.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn exec(&self, exec: proto::OpenExec) -> Result<(Stdin, Events), AgentError> {
        let (reader, writer) = self.open(Kind::Exec(exec)).await?.into_split();
        Ok((Stdin { stream: writer }, Events { stream: reader }))
    }

    /// Runs a process without input until it has terminated; `output` receives what it writes.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn run(
        &self,
        process: proto::Process,
        privileged: bool,
        mut output: impl FnMut(proto::LogSource, &[u8]),
    ) -> Result<Exit, AgentError> {
        let exec =
            proto::OpenExec { what: Some(What::Process(process)), privileged, ..proto::OpenExec::default() };
        let (mut stdin, mut events) = self.exec(exec).await?;
        match stdin.close().await {
            // The process may have terminated already without reading its input.
            Ok(()) | Err(AgentError::Connection { source: FrameError::Connection(_), .. }) => {}
            Err(error) => return Err(error),
        }
        loop {
            match events.next().await? {
                Event::Stdout(bytes) => output(proto::LogSource::Stdout, &bytes),
                Event::Stderr(bytes) => output(proto::LogSource::Stderr, &bytes),
                Event::Exited(exit) => return Ok(exit),
            }
        }
    }

    /// Unpacks the tar archive `archive` into the folder `into` of the container.
    ///
    /// # Errors
    /// [`AgentError`]; with the guest's message when it cannot unpack the archive.
    pub async fn unpack(&self, into: &str, mut archive: impl AsyncRead + Unpin) -> Result<(), AgentError> {
        let what = Some(What::UnpackInto(into.to_owned()));
        let (mut stdin, mut events) =
            self.exec(proto::OpenExec { what, privileged: true, ..proto::OpenExec::default() }).await?;
        let feed = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                let count = archive.read(&mut chunk).await.map_err(|source| AgentError::Host {
                    what: "reading what goes into the guest",
                    source,
                })?;
                match chunk.get(..count) {
                    Some([]) | None => return stdin.close().await,
                    Some(bytes) => stdin.write(bytes).await?,
                }
            }
        };
        let mut discard = tokio::io::sink();
        let follow = finish(&mut events, "unpacking files in the guest", &mut discard);
        tokio::pin!(feed, follow);
        // When the guest gives up half-way, sending fails first; the error to return is the guest's reason.
        tokio::select! {
            fed = &mut feed => match fed {
                Ok(()) | Err(AgentError::Connection { .. }) => follow.await,
                Err(error) => Err(error),
            },
            followed = &mut follow => followed,
        }
    }

    /// Packs the file or folder `path` of the container as a tar archive into `archive`.
    ///
    /// # Errors
    /// [`AgentError`]; with the guest's message when it cannot pack the file or folder.
    pub async fn pack(&self, path: &str, archive: &mut (impl AsyncWrite + Unpin)) -> Result<(), AgentError> {
        let what = Some(What::Pack(path.to_owned()));
        let (_stdin, mut events) =
            self.exec(proto::OpenExec { what, privileged: true, ..proto::OpenExec::default() }).await?;
        finish(&mut events, "packing files in the guest", archive).await
    }
}

/// Follows a process until it has terminated, and writes its stdout to `stdout`.
async fn finish(
    events: &mut Events,
    what: &'static str,
    stdout: &mut (impl AsyncWrite + Unpin),
) -> Result<(), AgentError> {
    let mut complaint = Vec::new();
    loop {
        match events.next().await? {
            Event::Stdout(bytes) => {
                let written = stdout.write_all(&bytes).await;
                written.map_err(|source| AgentError::Host {
                    what: "writing what comes from the guest",
                    source,
                })?;
            }
            Event::Stderr(bytes) => {
                let room = COMPLAINT.saturating_sub(complaint.len());
                complaint.extend(bytes.into_iter().take(room));
            }
            Event::Exited(Exit { code: 0, .. }) => {
                let flushed = stdout.flush().await;
                return flushed.map_err(|source| AgentError::Host {
                    what: "writing what comes from the guest",
                    source,
                });
            }
            Event::Exited(Exit { code, .. }) => {
                let complaint = String::from_utf8_lossy(&complaint);
                let message = format!("{what} failed (exit status {code}): {}", complaint.trim());
                return Err(AgentError::Refused { code: proto::FailureCode::System, message });
            }
        }
    }
}
