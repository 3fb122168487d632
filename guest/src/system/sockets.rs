//! Operations on sockets and pipes that the standard library lacks.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::check;

/// Whether the peer of a connection has closed it, at least for sending.
#[must_use]
pub fn peer_is_gone(socket: impl AsFd) -> bool {
    let wanted = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
    let mut request = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: wanted, revents: 0 };
    // SAFETY: the pointer is to one request, which lives until the call returns.
    unsafe { libc::poll(&raw mut request, 1, 0) > 0 && request.revents & wanted != 0 }
}

/// Gives a socket room for so many bytes of received datagrams, beyond what the kernel gives by default. The kernel counts several hundred
/// bytes for each. Without the privilege, the room stays as it is.
pub fn receive_room(socket: impl AsFd, bytes: libc::c_int) {
    let (socket, value) = (socket.as_fd().as_raw_fd(), &raw const bytes);
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).unwrap_or_default();
    // SAFETY: the pointer is to a number of this length, which lives until the call returns.
    unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value.cast(), length) };
}

/// Shuts a connection down when it has an error; never returns.
///
/// After a restore, the kernel reports connections that were lost as an error and as nothing else (Linux,
/// net/vmw_vsock/virtio_transport.c, `virtio_vsock_reset_sock`). A task that waits to read, as tokio's streams do, is woken only by
/// bytes to read or by the end of the stream.
pub async fn shut_down_on_error(connection: OwnedFd) {
    // SAFETY: the descriptor is open, and the same one, as long as it lives.
    let watched = unsafe { AsyncFd::register_with_interest(connection, Interest::ERROR) };
    if let Ok(watched) = watched
        && watched.ready(Interest::ERROR).await.is_ok()
    {
        // SAFETY: takes no pointer.
        unsafe { libc::shutdown(watched.get_ref().as_raw_fd(), libc::SHUT_RDWR) };
    }
    std::future::pending().await
}

/// A pipe or a terminal that is read and written without blocking.
#[derive(Debug)]
pub struct Stream(AsyncFd<File>);

impl Stream {
    /// Takes over a descriptor.
    ///
    /// # Errors
    /// A system call failed.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let flags = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
        // SAFETY: a file is open, and the same one, as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(File::from(descriptor)) }?))
    }

    /// Waits for bytes, and reads some. Returns 0 at the end.
    ///
    /// # Errors
    /// A system call failed. A terminal that no process has open any more is at its end, which is no error.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        end_of_terminal(self.0.async_io(Interest::READABLE, |mut file| file.read(buffer)).await)
    }

    /// Reads bytes that are there already; [`io::ErrorKind::WouldBlock`] where there are none.
    ///
    /// # Errors
    /// The same as of [`read`](Self::read).
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        end_of_terminal(self.0.get_ref().read(buffer))
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// A system call failed.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |mut file| file.write(bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn end_of_terminal(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        result => result,
    }
}
