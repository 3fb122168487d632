//! The client of a monitor: the daemon, the command line and the tests use it to control microVMs.
//!
//! [`Launch`] starts a monitor process in its jail; [`Client`] connects to a monitor, no matter which process started
//! it.
//!
//! * [`launch`] – starting a process and cleaning up after it
//! * `requests` – a method of [`Client`] for each request
//! * `timeout` – the timeout of each request
//! * [`snapshot`] – snapshots as folders that appear completely or not at all
//! * [`tap`] – opens a tap interface for a network card

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests cast small numbers that they chose themselves"
    )
)]

pub mod launch;
mod requests;
pub mod snapshot;
pub mod tap;
mod timeout;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::Versions;
use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::protocol::VERSIONS;
use hearth_vmm_api::socket::PacketSocket;
use prost::Message as _;
use proto::request::Operation;
use proto::response::Result as Response;
pub use proto::{SaveKind, SaveStage};

pub use launch::{Launch, LaunchError, Vmm};
pub use requests::{Limited, SaveConfig};

/// Name of the control socket in a microVM's run directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The reason for which an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The monitor refused the request.
    #[error("{message}")]
    Refused {
        /// The kind of refusal.
        code: proto::ErrorCode,
        /// What is wrong, and what to do about it.
        message: String,
    },
    /// The monitor cannot be reached, or has closed the connection.
    #[error("{what} {path}: {source}")]
    Unreachable {
        /// The step that failed.
        what: &'static str,
        /// Path of the control socket.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The monitor did not receive the request, or did not answer it, within the timeout. The outcome is unknown.
    #[error("the monitor at {path} did not answer within {} s", limit.as_secs())]
    Silent {
        /// Path of the control socket.
        path: PathBuf,
        /// The timeout.
        limit: Duration,
    },
    /// The response is not one that belongs to the request.
    #[error(
        "the monitor at {0} gave an answer that does not belong to the request; are both of one release?"
    )]
    Confused(PathBuf),
    /// The monitor is of another release, and there is no version of the protocol that both it and this program speak.
    #[error(
        "the monitor at {path} speaks {monitor} of the control protocol and this program {own}: they have none in common; end its microVM with the \
         release that started it"
    )]
    NoCommonVersion {
        /// Path of the control socket.
        path: PathBuf,
        /// The versions that the monitor speaks.
        monitor: Versions,
        /// The versions that this program speaks.
        own: Versions,
    },
    /// `/dev/kvm` cannot be opened.
    #[error("opening /dev/kvm: {0}; is this an ARM64 host with KVM, and may this user open it?")]
    Kvm(io::Error),
    /// A system call on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// The error that the system returned.
        source: io::Error,
    },
}

/// A connection to a monitor. Requests are answered one after another, each with its own timeout. Threads may share a
/// client.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// Upper limit for the timeout of every request.
    max_timeout: Duration,
    /// The versions of the protocol that this program speaks.
    own: Versions,
    /// The version in which requests are sent: the newest one, until the monitor refuses it.
    version: AtomicU32,
    connection: Mutex<Connection>,
}

/// The connection over which requests are sent.
#[derive(Debug)]
struct Connection {
    /// `None` after a request that was not answered, because a late response must not be taken for that of the next
    /// request. The next request opens a new connection.
    socket: Option<PacketSocket>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to the monitor whose control socket is at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], or [`ClientError::Silent`] when the monitor's backlog of connections is full.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let connection = Mutex::new(Connection { socket: None, buffer: Vec::new() });
        let version = AtomicU32::new(VERSIONS.newest());
        let client =
            Self { path: path.into(), max_timeout: Duration::MAX, own: VERSIONS, version, connection };
        let socket = client.socket()?;
        client.connection.lock().unwrap_or_else(PoisonError::into_inner).socket = Some(socket);
        Ok(client)
    }

    /// Limits the timeout of every request to `max_timeout`, including that of the wait for the machine's exit.
    #[must_use]
    pub fn with_timeout(self, max_timeout: Duration) -> Self {
        Self { max_timeout, ..self }
    }

    /// Returns the timeout of a request; `None` for a request that the monitor may answer at any time.
    fn limit(&self, operation: Option<&Operation>) -> Option<Duration> {
        let most = Some(self.max_timeout).filter(|most| *most != Duration::MAX);
        timeout::of(operation).map_or(most, |limit| Some(limit.min(self.max_timeout)))
    }

    fn socket(&self) -> Result<PacketSocket, ClientError> {
        let limit = self.limit(None).unwrap_or(self.max_timeout);
        PacketSocket::connect_within(&self.path, limit)
            .map_err(|source| self.failed("connecting to the monitor at", Some(limit), source))
    }

    fn failed(&self, what: &'static str, limit: Option<Duration>, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match limit.filter(|_| source.kind() == io::ErrorKind::WouldBlock) {
            Some(limit) => ClientError::Silent { path, limit },
            None => ClientError::Unreachable { what, path, source },
        }
    }

    /// Sends a request unchanged and waits for its response.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the monitor's reason, [`ClientError::Unreachable`], or [`ClientError::Silent`]
    /// when there is no response within the timeout.
    pub fn request(&self, request: &proto::Request, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Connection { socket, buffer } = &mut *connection;
        let limit = self.limit(request.operation.as_ref());
        let open = socket.take().map_or_else(|| self.socket(), Ok)?;
        let exchanged = open.set_timeout(limit).and_then(|()| open.send(&request.encode_to_vec(), fds));
        exchanged.map_err(|source| self.failed("asking the monitor at", limit, source))?;
        let reading = |source| self.failed("waiting for the monitor at", limit, source);
        if open.receive(buffer).map_err(reading)?.is_none() {
            return Err(reading(io::ErrorKind::ConnectionReset.into()));
        }
        *socket = Some(open);
        match proto::Response::decode(buffer.as_slice()) {
            Ok(proto::Response { result: Some(Response::Error(error)) }) => {
                Err(ClientError::Refused { code: error.code(), message: error.message })
            }
            Ok(proto::Response { result: Some(response) }) => Ok(response),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }

    fn send_request(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<Response, ClientError> {
        let version = self.version.load(Ordering::Relaxed);
        let request = proto::Request { version, operation: Some(operation) };
        match self.request(&request, fds) {
            Err(refused @ ClientError::Refused { code: proto::ErrorCode::Protocol, .. }) => {
                match self.agree()? {
                    // The monitor speaks this version, so it refused the request for another reason.
                    agreed if agreed == version => Err(refused),
                    agreed => self.request(&proto::Request { version: agreed, ..request }, fds),
                }
            }
            response => response,
        }
    }

    /// Determines the highest version that both sides speak, and sends requests in that version from now on.
    fn agree(&self) -> Result<u32, ClientError> {
        let operation = Some(Operation::Hello(proto::Hello {}));
        let hello = proto::Request { version: self.own.newest(), operation };
        let Response::Status(status) = self.request(&hello, &[])? else {
            return Err(ClientError::Confused(self.path.clone()));
        };
        let monitor = Versions::new(status.oldest_version, status.version);
        let agreed = self.own.highest_common(monitor).ok_or_else(|| ClientError::NoCommonVersion {
            path: self.path.clone(),
            monitor,
            own: self.own,
        })?;
        self.version.store(agreed, Ordering::Relaxed);
        Ok(agreed)
    }

    fn command(&self, operation: Operation, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.send_request(operation, fds)? {
            Response::Done(_) => Ok(()),
            _ => Err(ClientError::Confused(self.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
