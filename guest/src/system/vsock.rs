//! Listens on AF_VSOCK, which neither the standard library nor tokio support.
//!
//! Accepted streams are [`UnixStream`]s: that type reads, writes, polls and shuts down a stream socket of any family, and tests
//! can use real Unix sockets instead.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::{check, descriptor};

/// Connections that may wait to be accepted.
const BACKLOG: libc::c_int = 128;

/// A listening socket.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Listens on `port` of every context id of this machine.
    ///
    /// # Errors
    /// A system call failed.
    pub fn bind(port: u32) -> io::Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no pointer.
        let socket = descriptor(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
        let mut address = no_address();
        address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
        address.svm_cid = libc::VMADDR_CID_ANY;
        address.svm_port = port;
        // SAFETY: the pointer and the length are those of an address that lives until the call returns.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length_of_address()) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        // SAFETY: the socket is open, and the same one, as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?))
    }

    /// Waits for a connection of the host. Connections of other peers are closed.
    ///
    /// # Errors
    /// A system call failed; the listener stays usable.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (socket, peer) = self.0.async_io(Interest::READABLE, accept).await?;
            if peer == libc::VMADDR_CID_HOST {
                return UnixStream::from_std(StdUnixStream::from(socket));
            }
        }
    }
}

/// Accepts a connection, and returns it with its peer's context id.
fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    let mut address = no_address();
    let mut length = length_of_address();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let (pointer, room) = ((&raw mut address).cast(), &raw mut length);
    // SAFETY: the pointers are to an address and the length of its room, which live until the call returns.
    let socket = descriptor(unsafe { libc::accept4(listener.as_raw_fd(), pointer, room, flags) })?;
    Ok((socket, address.svm_cid))
}

fn no_address() -> libc::sockaddr_vm {
    // SAFETY: all zeros are a valid value of this plain structure.
    unsafe { std::mem::zeroed() }
}

fn length_of_address() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).unwrap_or_default()
}
