//! The broker for connections that the guest opens: outside the jail, it connects to host sockets for the device.
//!
//! The device and the broker use a `SOCK_SEQPACKET` Unix socket pair, with one message in each direction per
//! connection:
//!
//! ```text
//! device → broker   request number: u64 LE, port: u32 LE
//! broker → device   request number: u64 LE, result: u32 LE (0 accepted, else refused)
//!                   and, where accepted, one connected stream socket (SCM_RIGHTS)
//! ```
//!
//! Answers may arrive in any order and at any time; one that arrives too late is dropped. After a message in
//! any other format the device drops the broker, and has none until it is given another.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::socket;

const MESSAGE_LEN: usize = 12;
const ACCEPTED: u32 = 0;
const REFUSED: u32 = 1;

fn message(request: u64, value: u32) -> [u8; MESSAGE_LEN] {
    let [a, b, c, d, e, f, g, h] = request.to_le_bytes();
    let [i, j, k, l] = value.to_le_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

fn receive(socket: &impl AsFd, flags: libc::c_int) -> io::Result<Option<(u64, u32, Option<OwnedFd>)>> {
    // The buffer is one byte longer than a message, in order to detect a longer one.
    let mut data = [0; MESSAGE_LEN + 1];
    let (length, descriptor) = socket::receive_message(socket, &mut data, flags)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, _] = data;
    match length {
        0 => Ok(None),
        MESSAGE_LEN => {
            let request = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            Ok(Some((request, u32::from_le_bytes([i, j, k, l]), descriptor)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a vsock broker message of the wrong length")),
    }
}

/// The broker's answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// Number of the request.
    pub(super) request: u64,
    /// The connected socket; `None` when the request was refused.
    pub(super) stream: Option<OwnedFd>,
}

/// Requests a connection to `port` from the broker, without waiting.
///
/// # Errors
/// When the broker is gone or has too many requests waiting.
pub(super) fn send_request(broker: &OwnedFd, request: u64, port: u32) -> io::Result<()> {
    socket::send_message(broker, &message(request, port), None, libc::MSG_DONTWAIT)
}

/// Takes the broker's next answer, without waiting.
///
/// # Errors
/// `WouldBlock` when there is none; any other error means that the broker is gone or sent an invalid message.
pub(super) fn receive_answer(broker: &OwnedFd) -> io::Result<Answer> {
    let answer = receive(broker, libc::MSG_DONTWAIT)?;
    let (request, result, descriptor) = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Answer { request, stream: descriptor.filter(|_| result == ACCEPTED) })
}

/// The controller's end of the socket pair: receives the requests of one device and answers them.
#[derive(Debug)]
pub struct Broker {
    socket: Arc<OwnedFd>,
}

impl Broker {
    /// Makes a broker and the descriptor for its device (see [`hearth_vmm_api::config::VsockConfig::broker`]).
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socket::seqpacket_pair()?;
        Ok((Self { socket: Arc::new(ours) }, theirs))
    }

    /// Waits for the next request; `None` when the device is gone. A caller that waits for several events polls
    /// the broker's descriptor for readability first.
    ///
    /// # Errors
    /// The error of `recvmsg`, or `InvalidData` for a message in the wrong format.
    pub fn next(&self) -> io::Result<Option<Request>> {
        let Some((number, port, _)) = receive(&self.socket, 0)? else { return Ok(None) };
        Ok(Some(Request { socket: Arc::clone(&self.socket), number, port, answered: false }))
    }

    /// Connects each request for port `P` to the Unix socket `<prefix>_P` (the naming of Firecracker's
    /// `uds_path`) and refuses it where that fails. Blocks until the device is gone; meant for a thread.
    ///
    /// # Errors
    /// Those of [`Self::next`]. It is no error when the device closes its end while it is being answered.
    pub fn serve_path_prefix(&self, prefix: &Path) -> io::Result<()> {
        while let Some(request) = self.next()? {
            let answer = match UnixStream::connect(port_path(prefix, request.port())) {
                Ok(stream) => request.accept(&stream),
                Err(_) => request.refuse(),
            };
            match answer.map_err(|error| error.kind()) {
                Err(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return Ok(()),
                Err(kind) => return Err(kind.into()),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Broker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Path at which [`Broker::serve_path_prefix`] expects the listener of `port`.
#[must_use]
pub fn port_path(prefix: &Path, port: u32) -> PathBuf {
    let mut path = OsString::from(prefix);
    path.push(format!("_{port}"));
    path.into()
}

/// A guest's request to connect to a port of the host. Dropping the value refuses the request.
#[derive(Debug)]
pub struct Request {
    socket: Arc<OwnedFd>,
    number: u64,
    port: u32,
    answered: bool,
}

impl Request {
    /// The requested port.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends the device a duplicate of `stream`, a connected stream socket, as the host's end. The caller
    /// closes its own descriptor.
    ///
    /// # Errors
    /// `BrokenPipe` when the device is gone.
    pub fn accept(mut self, stream: &impl AsFd) -> io::Result<()> {
        self.answer(ACCEPTED, Some(stream.as_fd()))
    }

    /// Refuses the request: the device resets the guest's connection.
    ///
    /// # Errors
    /// `BrokenPipe` when the device is gone.
    pub fn refuse(mut self) -> io::Result<()> {
        self.answer(REFUSED, None)
    }

    fn answer(&mut self, result: u32, stream: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.answered = true;
        socket::send_message(&self.socket, &message(self.number, result), stream, 0)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            // If this fails, the device is gone and needs no answer.
            let _ = self.answer(REFUSED, None);
        }
    }
}
