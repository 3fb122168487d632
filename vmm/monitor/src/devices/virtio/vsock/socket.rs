//! The system calls that transfer data between the host's sockets and guest memory. On streams they never block; they
//! never raise `SIGPIPE`, and they read and write the guest's buffers directly.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::devices::virtio::queue::Chain;

/// Largest number of buffers in one system call. The array lies on the stack, so that nothing is allocated.
const PARTS: usize = 64;

/// An array of buffers under construction. The pointers are used only inside this module, while the chains
/// or slices from which they were made are borrowed.
struct Parts {
    entries: [libc::iovec; PARTS],
    used: usize,
}

impl Parts {
    fn new() -> Self {
        Self { entries: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS], used: 0 }
    }

    /// Adds bytes `offset..offset + length` of `buffers`; returns the number of bytes for which there was room.
    fn add(&mut self, buffers: &[libc::iovec], mut offset: usize, length: usize) -> usize {
        let mut added = 0;
        for buffer in buffers {
            if offset >= buffer.iov_len {
                offset -= buffer.iov_len;
                continue;
            }
            let run = (buffer.iov_len - offset).min(length - added);
            if run == 0 {
                break;
            }
            let Some(entry) = self.entries.get_mut(self.used) else { break };
            *entry = libc::iovec { iov_base: buffer.iov_base.wrapping_byte_add(offset), iov_len: run };
            self.used += 1;
            offset = 0;
            added += run;
        }
        added
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: a message header is plain data; all zeroes is an empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.entries.as_mut_ptr();
        message.msg_iovlen = self.used;
        message
    }

    fn send(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let message = self.message();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: every entry was made from a buffer that the caller borrows across this call: guest memory,
        // which its chain keeps mapped, or a slice. The kernel only reads it.
        retry(|| unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, flags) })
    }
}

/// Repeats a system call that a signal interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Sends up to `length` readable bytes of `chain` from `offset` on; may send fewer. Returns the number sent.
///
/// # Errors
/// The error of `sendmsg`; `WouldBlock` when the socket is full.
pub(super) fn send_chain(
    stream: &UnixStream,
    chain: &Chain,
    offset: usize,
    length: usize,
) -> io::Result<usize> {
    let mut parts = Parts::new();
    parts.add(chain.readable(), offset, length);
    parts.send(stream)
}

/// Sends two slices as one; may send fewer bytes. Returns the number sent.
///
/// # Errors
/// The error of `sendmsg`; `WouldBlock` when the socket is full.
pub(super) fn send_slices(stream: &UnixStream, slices: [&[u8]; 2]) -> io::Result<usize> {
    let mut parts = Parts::new();
    for slice in slices {
        let buffer = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        parts.add(&[buffer], 0, slice.len());
    }
    parts.send(stream)
}

/// Result of [`receive`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Number of bytes received; zero at the end of the stream.
    pub(super) bytes: usize,
    /// Whether more may be waiting in the socket.
    pub(super) more: bool,
}

/// Receives into the writable parts of `chains`, from `offset` on in each: at most `chain_limit` bytes into
/// each and `limit` (not zero) bytes in total.
///
/// # Errors
/// The error of `recvmsg`; `WouldBlock` when the socket is empty.
pub(super) fn receive<'a>(
    stream: &UnixStream,
    chains: impl Iterator<Item = &'a Chain>,
    offset: usize,
    chain_limit: usize,
    limit: usize,
) -> io::Result<Received> {
    let mut parts = Parts::new();
    let mut offered = 0;
    for chain in chains {
        let room = chain.writable_len().saturating_sub(offset).min(chain_limit).min(limit - offered);
        let added = parts.add(chain.writable(), offset, room);
        offered += added;
        if added < room || offered == limit {
            break;
        }
    }
    let mut message = parts.message();
    // SAFETY: every entry points into guest memory that its borrowed chain keeps mapped, and which may be
    // written at any time; `message` lives across the call.
    let bytes = retry(|| unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })?;
    // A short read means an empty socket, except where a peer's control message (descriptors, which are
    // not used here) cut the read short.
    let cut_short = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Received { bytes, more: bytes == offered || cut_short })
}

/// Receives bytes from `stream`; with `peek` they stay in the socket. Returns their number.
///
/// # Errors
/// The error of `recv`; `WouldBlock` when the socket is empty.
pub(super) fn receive_slice(stream: &UnixStream, data: &mut [u8], peek: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: `data` is borrowed mutably and is as long as the length that is passed.
    retry(|| unsafe { libc::recv(stream.as_raw_fd(), data.as_mut_ptr().cast(), data.len(), flags) })
}

/// Whether both directions of `stream` are closed, or it has failed.
pub(super) fn hung_up(stream: &UnixStream) -> bool {
    in_state(stream, libc::POLLHUP | libc::POLLERR)
}

/// Whether reading `stream` will reach its end, so that no further event needs to be awaited.
pub(super) fn reads_to_end(stream: &UnixStream) -> bool {
    in_state(stream, libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR)
}

fn in_state(stream: &UnixStream, states: libc::c_short) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: states, revents: 0 };
    // SAFETY: one entry, which lives across the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & states != 0
}

/// Makes a connected pair of `SOCK_SEQPACKET` Unix sockets.
///
/// # Errors
/// The error that `socketpair` returns.
pub(super) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::fd::FromRawFd as _;
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [one, other] = fds;
    // SAFETY: two fresh descriptors that nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(one), OwnedFd::from_raw_fd(other)) })
}

/// Room for the control message that carries one descriptor, aligned as the kernel requires.
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Size of a descriptor in a control message, in bytes.
const FD_LEN: libc::c_uint = 4;

/// Sends one message, with a descriptor if there is one.
///
/// # Errors
/// The error of `sendmsg`; `WouldBlock` only with `MSG_DONTWAIT` in `flags`.
pub(super) fn send_message(
    socket: &impl AsFd,
    data: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    flags: libc::c_int,
) -> io::Result<()> {
    let mut parts = Parts::new();
    parts.add(
        &[libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }],
        0,
        data.len(),
    );
    let mut message = parts.message();
    let mut control = Control([0; 32]);
    if let Some(descriptor) = descriptor {
        message.msg_control = (&raw mut control).cast();
        // SAFETY: `CMSG_SPACE` and `CMSG_LEN` only compute (24 and 20, at most the available 32); the first
        // header and its data therefore lie inside `control`.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(FD_LEN) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(FD_LEN) as usize;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(descriptor.as_raw_fd());
        }
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: data and control live across the call, which only reads them.
    retry(|| unsafe { libc::sendmsg(fd, &raw const message, flags | libc::MSG_NOSIGNAL) }).map(drop)
}

/// Receives one message of at most `data.len()` bytes and the descriptor that came with it. Zero bytes mean
/// that the other end is closed.
///
/// # Errors
/// The error of `recvmsg`; `WouldBlock` only with `MSG_DONTWAIT` in `flags`.
pub(super) fn receive_message(
    socket: &impl AsFd,
    data: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Option<OwnedFd>)> {
    use std::os::fd::FromRawFd as _;
    let mut parts = Parts::new();
    parts.add(&[libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }], 0, data.len());
    let mut message = parts.message();
    let mut control = Control([0; 32]);
    message.msg_control = (&raw mut control).cast();
    // There is room for exactly one descriptor: with the padding that `CMSG_SPACE` counts, the kernel would deliver
    // two.
    // SAFETY: the function only computes.
    message.msg_controllen = unsafe { libc::CMSG_LEN(FD_LEN) } as usize;
    let fd = socket.as_fd().as_raw_fd();
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: data and control live across the call and are borrowed mutably or owned here.
    let count = retry(|| unsafe { libc::recvmsg(fd, &raw mut message, flags) })?;
    // SAFETY: the kernel has filled in `control` and its length; a descriptor found there is new and has no other
    // owner.
    let descriptor = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let whole = libc::CMSG_LEN(FD_LEN) as usize;
        let found = !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len == whole;
        found.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()))
    };
    Ok((count, descriptor))
}
