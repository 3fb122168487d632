//! The host's side of the protocol.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use hearth_agent_protocol::frame::Framed;
use hearth_agent_protocol::version;
use hearth_proto::guest::v1::exec_input::Event as Input;
use hearth_proto::guest::v1::exec_output::Event as Output;
use hearth_proto::guest::v1::request::Operation;
use hearth_proto::guest::v1::response::Result as Answer;
use hearth_proto::guest::v1::{
    ExecInput, ExecOutput, Exited, Failure, LogAcknowledged, LogRecord, Open, Opened, Request, Response, open,
};
use hearth_vmm_client::Vmm;
use prost::Message;

use super::TEST_TIMEOUT;

/// A connection to the agent.
pub(crate) struct Connection(pub(crate) UnixStream);

impl Connection {
    /// Opens a connection.
    pub(crate) fn open(vmm: &Vmm, kind: open::Kind) -> Result<Self, Failure> {
        Self::greet(vmm, &version::open(kind, &[])).map(|(connection, _)| connection)
    }

    /// Opens a connection as a host of another release would.
    pub(crate) fn greet(vmm: &Vmm, open: &Open) -> Result<(Self, Opened), Failure> {
        let stream = vmm.client().vsock_connect(hearth_agent_protocol::PORT).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        let mut connection = Self(stream);
        connection.send(open);
        let opened = connection.receive::<Opened>().expect("no answer to Open");
        match opened.failure {
            Some(failure) => Err(failure),
            None => Ok((connection, opened)),
        }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &impl Framed) {
        let mut bytes = Vec::new();
        hearth_agent_protocol::frame::append(&mut bytes, message).unwrap();
        self.0.write_all(&bytes).unwrap();
    }

    /// The next message, unless the agent has closed the connection.
    pub(crate) fn receive<M: Message + Default>(&mut self) -> Option<M> {
        let mut length = [0; 4];
        if self.0.read(&mut length[..1]).unwrap() == 0 {
            return None;
        }
        self.0.read_exact(&mut length[1..]).unwrap();
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut bytes).unwrap();
        Some(M::decode(bytes.as_slice()).unwrap())
    }

    /// A request and its answer.
    pub(crate) fn ask(&mut self, operation: Operation) -> Answer {
        self.send(&Request { operation: Some(operation) });
        self.receive::<Response>().expect("no answer").result.unwrap()
    }
}

/// A process beside the app.
pub(crate) struct Exec(pub(crate) Connection);

/// Output and result of a process.
#[derive(Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) result: Result<Exited, Failure>,
}

impl Exec {
    /// Sends input.
    pub(crate) fn send(&mut self, event: Input) {
        self.0.send(&ExecInput { event: Some(event) });
    }

    /// Sends all of stdin.
    pub(crate) fn send_all(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(256 << 10) {
            self.send(Input::Stdin(chunk.to_vec()));
        }
        self.send(Input::StdinClosed(true));
    }

    /// The next output.
    pub(crate) fn next(&mut self) -> Output {
        self.0.receive::<ExecOutput>().expect("the process's connection ended").event.unwrap()
    }

    /// Waits until the stdout that the process writes from now on contains this text.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next() {
                Output::Stdout(bytes) => seen += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} after {seen:?}, not {text:?}"),
            }
        }
        seen
    }

    /// Waits until the process has terminated.
    pub(crate) fn finish(mut self) -> Finished {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let result = loop {
            match self.next() {
                Output::Stdout(bytes) => stdout.extend(bytes),
                Output::Stderr(bytes) => stderr.extend(bytes),
                Output::Exited(exited) => break Ok(exited),
                Output::Failed(failure) => break Err(failure),
            }
        };
        assert_eq!(self.0.receive::<ExecOutput>(), None, "nothing follows the last message");
        Finished { stdout, stderr, result }
    }
}

impl Finished {
    /// The process's stdout; panics unless the process has succeeded.
    pub(crate) fn success(self, what: &str) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr).into_owned();
        assert_eq!(self.result, Ok(Exited { code: 0, signal: 0 }), "{what}: {stderr}");
        String::from_utf8(self.stdout).unwrap()
    }
}

/// The stream of the app's log records.
pub(crate) struct Logs(pub(crate) Connection);

impl Logs {
    /// The next record.
    pub(crate) fn next(&mut self) -> LogRecord {
        self.0.receive().expect("the log's connection ended")
    }

    /// Acknowledges that all records up to this one are stored.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        self.0.send(&LogAcknowledged { sequence });
    }
}
