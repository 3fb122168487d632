//! Unix sockets that keep packet boundaries and carry descriptors (`SOCK_SEQPACKET`, unix(7)).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// Maximum size of a packet in either direction, in bytes. Control messages are far smaller.
pub const PACKET_MAX: usize = 128 << 10;
/// Maximum number of descriptors in one packet (`SCM_MAX_FD`, unix(7)).
pub const DESCRIPTORS_MAX: usize = 253;

/// A connected socket.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// A listening socket.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = checked(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the socket address for a path, and the length of that address.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = OsStr::as_bytes(path.as_os_str());
    let most = address.sun_path.len() - 1;
    if bytes.is_empty() || bytes.len() > most || bytes.contains(&0) {
        let message = format!("socket path {} must have 1 to {most} bytes and no NUL", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(length).unwrap_or(libc::socklen_t::MAX)))
}

impl PacketListener {
    /// Listens at `path`, which must not exist.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` for a path that cannot be a socket's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let (address, length) = address(path)?;
        let socket = new_socket()?;
        // SAFETY: `address` is valid for `length` bytes.
        checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        // SAFETY: no pointers.
        checked(unsafe { libc::listen(socket.as_raw_fd(), 16) })?;
        Ok(Self(socket))
    }

    /// Takes over a descriptor that is a listening packet socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Accepts a connection; `WouldBlock` when the socket is non-blocking and there is none.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn accept(&self) -> io::Result<PacketSocket> {
        let none = std::ptr::null_mut();
        // SAFETY: null pointers are allowed: they mean that the peer's address is not requested.
        let fd = checked(unsafe {
            libc::accept4(self.0.as_raw_fd(), none, std::ptr::null_mut(), libc::SOCK_CLOEXEC)
        })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(PacketSocket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl From<PacketListener> for OwnedFd {
    fn from(listener: PacketListener) -> Self {
        listener.0
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for the ancillary data of [`DESCRIPTORS_MAX`] descriptors, aligned as its headers require.
#[repr(align(8))]
struct Ancillary([u8; 1056]);

impl PacketSocket {
    /// Takes over a descriptor that is a connected packet socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Connects to a listener at `path`.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` for a path that cannot be a socket's.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self(new_socket()?).connected(path)
    }

    /// Connects as [`Self::connect`] does, and waits at most `limit` for a listener whose backlog is full.
    ///
    /// # Errors
    /// The same as [`Self::connect`]; `WouldBlock` when connecting takes longer than `limit`.
    pub fn connect_within(path: &Path, limit: Duration) -> io::Result<Self> {
        let socket = Self(new_socket()?);
        socket.set_timeout(Some(limit))?;
        socket.connected(path)
    }

    fn connected(self, path: &Path) -> io::Result<Self> {
        let (address, length) = address(path)?;
        // SAFETY: `address` is valid for `length` bytes.
        checked(unsafe { libc::connect(self.0.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(self)
    }

    /// Sets the timeout for each packet that is sent or received from now on; `None` means no timeout. A call that
    /// exceeds the timeout fails with `WouldBlock` (`SO_SNDTIMEO`, `SO_RCVTIMEO`, socket(7)).
    ///
    /// # Errors
    /// The error of the system call.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let time = match limit {
            // A value of zero would mean no timeout.
            Some(limit) => {
                let limit = limit.max(Duration::from_micros(1));
                libc::timeval {
                    tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
                    tv_usec: limit.subsec_micros().into(),
                }
            }
            None => libc::timeval { tv_sec: 0, tv_usec: 0 },
        };
        let length = libc::socklen_t::try_from(size_of_val(&time)).unwrap_or_default();
        for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
            let value = (&raw const time).cast();
            // SAFETY: `time` is valid for `length` bytes.
            checked(unsafe {
                libc::setsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, option, value, length)
            })?;
        }
        Ok(())
    }

    /// Creates a connected pair of sockets.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut fds = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: `fds` has room for two descriptors.
        checked(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
        // SAFETY: two fresh descriptors that nothing else owns.
        Ok(unsafe { (Self(OwnedFd::from_raw_fd(fds[0])), Self(OwnedFd::from_raw_fd(fds[1]))) })
    }

    /// Sends one packet with descriptors, which the caller keeps.
    ///
    /// # Errors
    /// The error of the system call; `InvalidInput` for a packet that is too large or has too many descriptors.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if packet.len() > PACKET_MAX || descriptors.len() > DESCRIPTORS_MAX {
            let message =
                format!("{} bytes and {} descriptors do not fit a packet", packet.len(), descriptors.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let mut ancillary = Ancillary([0; 1056]);
        if !descriptors.is_empty() {
            let bytes = u32::try_from(size_of_val(descriptors)).unwrap_or(u32::MAX);
            message.msg_control = ancillary.0.as_mut_ptr().cast();
            // SAFETY: plain arithmetic.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
            // SAFETY: `msg_control` is aligned and `Ancillary` has room for CMSG_SPACE of DESCRIPTORS_MAX
            // descriptors, so the first header and its data lie inside it.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for (index, fd) in descriptors.iter().enumerate() {
                    data.add(index).write_unaligned(fd.as_raw_fd());
                }
            }
        }
        // SAFETY: `message` points to live buffers of the lengths it names.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one packet into `buffer`; `None` when the peer has closed.
    ///
    /// # Errors
    /// The error of the system call; `InvalidData` for a packet larger than [`PACKET_MAX`] or with more descriptors
    /// than fit (the received ones are closed).
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<OwnedFd>>> {
        buffer.resize(PACKET_MAX, 0);
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut ancillary = Ancillary([0; 1056]);
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = ancillary.0.len() as _;
        // SAFETY: `message` points to live buffers of the lengths it names.
        let received = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        let mut descriptors = Vec::new();
        // SAFETY: the kernel has filled `msg_control` with well-formed headers within `msg_controllen`, and each
        // descriptor in SCM_RIGHTS data is new and owned by nothing else.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                    let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                    let data = libc::CMSG_DATA(header).cast::<RawFd>();
                    for index in 0..bytes / size_of::<RawFd>() {
                        descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                    }
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            let what =
                format!("a control packet exceeds {PACKET_MAX} bytes or {DESCRIPTORS_MAX} descriptors");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        buffer.truncate(received);
        // A closed connection reads as an empty packet without descriptors.
        Ok((received > 0 || !descriptors.is_empty()).then_some(descriptors))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn packets_keep_their_boundaries_and_carry_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = PacketListener::bind(&path).unwrap();
        let client = PacketSocket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        client.send(b"first", &[file.as_fd()]).unwrap();
        client.send(b"second", &[]).unwrap();
        let mut buffer = Vec::new();
        let mut descriptors = server.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer, b"first");
        let mut received = std::fs::File::from(descriptors.pop().unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("content", 0));
        assert!(server.receive(&mut buffer).unwrap().unwrap().is_empty());
        assert_eq!(buffer, b"second");
        drop(client);
        assert!(server.receive(&mut buffer).unwrap().is_none());
    }

    #[test]
    fn the_largest_number_of_descriptors_fits() {
        let (one, other) = PacketSocket::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        one.send(b"x", &vec![file.as_fd(); DESCRIPTORS_MAX]).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(other.receive(&mut buffer).unwrap().unwrap().len(), DESCRIPTORS_MAX);
        assert!(one.send(b"x", &vec![file.as_fd(); DESCRIPTORS_MAX + 1]).is_err());
        assert!(one.send(&vec![0; PACKET_MAX + 1], &[]).is_err());
    }

    #[test]
    fn paths_that_are_no_socket_paths_are_refused() {
        let long = "x".repeat(108);
        for path in ["", long.as_str()] {
            assert_eq!(
                PacketListener::bind(Path::new(path)).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
}
