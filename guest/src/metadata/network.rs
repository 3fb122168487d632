//! The network namespace in which the agent's services listen, and the route to it.
//!
//! ```text
//!   the app's namespace                          the agent's
//!   hearth0  169.254.53.1  ── a pair of devices ──  hearth1  169.254.169.254  port 80: metadata
//!     routes to the two addresses                            169.254.53.53    port 53: DNS, UDP and TCP
//! ```

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use crate::system::namespaces;
use crate::system::netlink::{Routes, device};
use crate::system::sockets::receive_room;
use crate::{dns, metadata};

/// The app's device of the pair, and its address.
const NEAR: (&str, Ipv4Addr) = ("hearth0", Ipv4Addr::new(169, 254, 53, 1));
/// Bytes of queries that wait for the DNS stub.
const QUERIES: libc::c_int = 1 << 20;
/// The agent's device of the pair.
const FAR: &str = "hearth1";

/// The services' sockets. They keep the network namespace alive.
#[derive(Debug)]
pub struct Sockets {
    /// TCP socket of the metadata service.
    pub metadata: TcpListener,
    /// UDP socket of the DNS stub.
    pub dns_udp: UdpSocket,
    /// TCP socket of the DNS stub.
    pub dns_tcp: TcpListener,
}

/// Makes the namespace, and the route to it from the calling thread's namespace.
///
/// # Errors
/// A system call failed; nothing that was made is left then.
pub fn open() -> io::Result<Sockets> {
    let here = namespaces::network_of_this_thread()?;
    // One thread lives in the new namespace, while a second one enters this namespace for the work that has to be done here.
    namespaces::on_a_thread(|| {
        namespaces::leave(libc::CLONE_NEWNET)?;
        let there = namespaces::network_of_this_thread()?;
        namespaces::on_a_thread(|| {
            namespaces::enter(&here, libc::CLONE_NEWNET)?;
            Routes::open()?.add_pair(NEAR.0, FAR, &there)
        })?;
        let mut routes = Routes::open()?;
        routes.bring_up(device("lo")?, 0)?;
        let far = device(FAR)?;
        routes.bring_up(far, 0)?;
        for address in [metadata::ADDRESS, dns::ADDRESS] {
            routes.add_address(far, address, 32)?;
        }
        routes.add_host_route(far, NEAR.1)?;
        namespaces::on_a_thread(|| {
            namespaces::enter(&here, libc::CLONE_NEWNET)?;
            let mut routes = Routes::open()?;
            let near = device(NEAR.0)?;
            routes.bring_up(near, 0)?;
            routes.add_address(near, NEAR.1, 32)?;
            routes.add_host_route(near, metadata::ADDRESS)?;
            routes.add_host_route(near, dns::ADDRESS)
        })?;
        let sockets = Sockets {
            metadata: TcpListener::bind((metadata::ADDRESS, metadata::PORT))?,
            dns_udp: UdpSocket::bind((dns::ADDRESS, dns::PORT))?,
            dns_tcp: TcpListener::bind((dns::ADDRESS, dns::PORT))?,
        };
        // Programs send hundreds of queries before the stub runs.
        receive_room(&sockets.dns_udp, QUERIES);
        sockets.metadata.set_nonblocking(true)?;
        sockets.dns_udp.set_nonblocking(true)?;
        sockets.dns_tcp.set_nonblocking(true)?;
        Ok(sockets)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_services_are_reached_and_take_no_port() {
        let reached = namespaces::on_a_thread(|| {
            match namespaces::leave(libc::CLONE_NEWNET) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    hearth_testing::skip("network namespaces need root");
                    return Ok(());
                }
                result => result?,
            }
            Routes::open()?.bring_up(device("lo")?, 0)?;
            let sockets = open()?;
            // The app can still use both ports.
            let _http = TcpListener::bind(("0.0.0.0", 80))?;
            let _domain = UdpSocket::bind(("0.0.0.0", 53))?;
            let metadata = TcpStream::connect((metadata::ADDRESS, metadata::PORT))?;
            assert_eq!(metadata.local_addr()?.ip(), NEAR.1);
            sockets.metadata.set_nonblocking(false)?;
            sockets.metadata.accept()?;
            let client = UdpSocket::bind(("0.0.0.0", 0))?;
            client.send_to(b"query", (dns::ADDRESS, dns::PORT))?;
            sockets.dns_udp.set_nonblocking(false)?;
            let mut buffer = [0; 16];
            let (length, from) = sockets.dns_udp.recv_from(&mut buffer)?;
            assert_eq!((&buffer[..length], from.ip()), (&b"query"[..], NEAR.1.into()));
            Ok(())
        });
        reached.unwrap();
    }
}
