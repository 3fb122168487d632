//! TCP connections of the calling thread's network namespace (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::Message;
use super::socket::Socket;

/// Kinds of messages (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

/// `struct inet_diag_sockid` in the kernel's answers, and where in it the addresses are (linux/inet_diag.h).
const ID: std::ops::Range<usize> = 4..52;
const SOURCE: usize = 4;
const DESTINATION: usize = 20;

/// `struct inet_diag_req_v2` without its id.
const REQUEST: usize = 8;

/// All states with a peer (net/tcp_states.h): all but `TIME_WAIT`, `CLOSE` and `LISTEN`.
const STATES: u32 = !(1 << 6 | 1 << 7 | 1 << 10);

/// The connections of this kernel.
#[derive(Debug)]
pub struct Connections(Socket);

impl Connections {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// A system call failed.
    pub fn open() -> io::Result<Self> {
        Socket::open(libc::NETLINK_SOCK_DIAG).map(Self)
    }

    /// Resets the connections whose addresses (source, destination) satisfy `is_to_end`: their owners get `ECONNABORTED`, the peers a
    /// reset. Returns how many were reset.
    ///
    /// # Errors
    /// A system call failed; the kernel may have been built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn reset(&mut self, is_to_end: impl Fn(IpAddr, IpAddr) -> bool) -> io::Result<u32> {
        let mut count = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = |kind, flags, id: &[u8]| {
                let mut request = [0; REQUEST];
                request[0] = u8::try_from(family).unwrap_or_default();
                request[1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
                request[4..].copy_from_slice(&STATES.to_ne_bytes());
                let mut message = Message::new(kind, flags);
                message.raw(&request);
                message.raw(id);
                message
            };
            let dump = match self.0.dump(request(BY_FAMILY, libc::NLM_F_DUMP, &[0; ID.end - ID.start])) {
                // This kernel does not have this address family.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                dump => dump?,
            };
            for entry in dump {
                let Some(id) = entry.get(ID) else { continue };
                let address = |offset| address(family, id.get(offset..)?);
                let (Some(source), Some(destination)) = (address(SOURCE), address(DESTINATION)) else {
                    continue;
                };
                if is_to_end(source, destination) {
                    match self.0.request(request(DESTROY, 0, id)) {
                        // The connection was closed in the meantime.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        result => result.map(|()| count += 1)?,
                    }
                }
            }
        }
        Ok(count)
    }
}

fn address(family: libc::c_int, bytes: &[u8]) -> Option<IpAddr> {
    if family == libc::AF_INET {
        return bytes.first_chunk().map(|bytes: &[u8; 4]| Ipv4Addr::from(*bytes).into());
    }
    // An IPv6 socket may be connected over IPv4.
    bytes.first_chunk().map(|bytes: &[u8; 16]| Ipv6Addr::from(*bytes).to_canonical())
}
