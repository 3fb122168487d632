//! A netlink socket: requests to the kernel and its answers.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::message::{HEADER, Message, u16_at, u32_at};
use crate::system::descriptor;

/// Kinds of answers (linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Bytes of the largest packet: the kernel fills packets of a dump up to this (Linux, net/netlink/af_netlink.c).
const PACKET: usize = 32 << 10;

/// A connection to the kernel.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket of this netlink protocol.
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointer.
        let socket = descriptor(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request, and waits for its acknowledgement.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.dump(message).map(drop)
    }

    /// Sends a request, and returns the entries of the answer without their headers.
    pub(super) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let message = message.finish(self.sequence);
        let descriptor = self.socket.as_raw_fd();
        // SAFETY: the pointer and the length are those of bytes that live until the call returns.
        let sent = unsafe { libc::send(descriptor, message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut entries = Vec::new();
        let mut packet = vec![0; PACKET];
        loop {
            // SAFETY: the pointer and the length are those of room that lives until the call returns.
            let length = unsafe { libc::recv(descriptor, packet.as_mut_ptr().cast(), packet.len(), 0) };
            let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
            let mut rest = packet.get(..length).unwrap_or_default();
            while let (Some(size), Some(kind), Some(sequence)) =
                (u32_at(rest, 0), u16_at(rest, 4), u32_at(rest, 8))
            {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let Some(body) = rest.get(HEADER..size) else { break };
                if sequence == self.sequence {
                    match kind {
                        ERROR | DONE => return result(body).map(|()| entries),
                        _ => entries.push(body.to_vec()),
                    }
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// The result in an acknowledgement: 0 for success, else a negative error number.
fn result(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
}
