//! Sockets of the family AF_VSOCK, which the standard library does not support. Streams are [`File`]s, since they only
//! need reads and writes, and [`shutdown_write`].

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Listens on `port` of every context id of this guest.
    pub(crate) fn bind(port: u32) -> io::Result<Self> {
        let socket = socket()?;
        let address = address(libc::VMADDR_CID_ANY, port);
        // SAFETY: the pointer and the length are those of an address that lives until the call returns.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), address_length()) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::listen(socket.as_raw_fd(), 1024) })?;
        Ok(Self(socket))
    }

    /// Waits for a connection.
    pub(crate) fn accept(&self) -> io::Result<File> {
        // SAFETY: null pointers mean that the peer's address is not requested.
        let socket = check(unsafe {
            libc::accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
        })?;
        // SAFETY: the descriptor was made by the call above and nothing else owns it.
        Ok(unsafe { File::from_raw_fd(socket) })
    }
}

/// The option for the timeout of a connect (linux/vm_sockets.h).
const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;

/// Timeout for the host to accept, in seconds. Linux's default of 2 s is too short if the host is emulated and busy.
const CONNECT_SECONDS: libc::time_t = 300;

/// Opens a stream to `port` of the host.
pub(crate) fn connect_to_host(port: u32) -> io::Result<File> {
    let socket = socket()?;
    let timeout = libc::timeval { tv_sec: CONNECT_SECONDS, tv_usec: 0 };
    let length = libc::socklen_t::try_from(size_of_val(&timeout)).unwrap_or_default();
    let (level, option) = (libc::AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT);
    let value = (&raw const timeout).cast();
    // SAFETY: the pointer and the length are those of a time that lives until the call returns.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) })?;
    let address = address(libc::VMADDR_CID_HOST, port);
    // SAFETY: the pointer and the length are those of an address that lives until the call returns.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), address_length()) })?;
    Ok(socket.into())
}

/// Shuts down the sending side of a stream.
pub(crate) fn shutdown_write(stream: &File) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let socket = check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was made by the call above and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zeros are a valid value of this plain structure.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

fn address_length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).unwrap_or_default()
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
