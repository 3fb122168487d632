//! Captures packets that arrive in the internet.

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

use super::wait_for;

/// A packet that arrived.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    /// Destination port of TCP and UDP, or the id of an echo request.
    pub(crate) port: Option<u16>,
}

/// A socket that sees all IPv4 packets which arrive on an interface.
pub(crate) struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Opens a capture in the namespace of this thread.
    pub(crate) fn open(interface: &str) -> Self {
        let protocol = u16::try_from(libc::ETH_P_IP).unwrap().to_be();
        // SAFETY: no pointers; the result is checked before it is owned.
        let socket = unsafe {
            let socket =
                libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol.into());
            assert!(socket >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(socket)
        };
        let name = CString::new(interface).unwrap();
        // SAFETY: all zeros are a valid address; the name lives across the call.
        let (mut address, index) =
            unsafe { (std::mem::zeroed::<libc::sockaddr_ll>(), libc::if_nametoindex(name.as_ptr())) };
        assert_ne!(index, 0, "no interface {interface}");
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index).unwrap();
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        // SAFETY: the address lives across the call and is as long as given.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self { socket }
    }

    /// The next packet that arrives.
    fn next(&self) -> Packet {
        loop {
            wait_for(self.socket.as_fd(), "packet in the internet");
            if let Some(packet) = self.next_at_once() {
                return packet;
            }
        }
    }

    /// The next packet that has arrived already.
    pub(crate) fn next_at_once(&self) -> Option<Packet> {
        loop {
            let mut buffer = [0_u8; 2048];
            // SAFETY: all zeros are a valid address.
            let mut from = unsafe { std::mem::zeroed::<libc::sockaddr_ll>() };
            let mut length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            // SAFETY: buffer and address live across the call and are as long as given.
            let count = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(count) = usize::try_from(count) else {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                return None;
            };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            let headers = PacketHeaders::from_ip_slice(&buffer[..count]).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { continue };
            let port = match headers.transport {
                Some(TransportHeader::Tcp(tcp)) => Some(tcp.destination_port),
                Some(TransportHeader::Udp(udp)) => Some(udp.destination_port),
                Some(TransportHeader::Icmpv4(icmp)) => match icmp.icmp_type {
                    etherparse::Icmpv4Type::EchoRequest(echo) => Some(echo.id),
                    _ => None,
                },
                _ => None,
            };
            return Some(Packet { destination: ip.destination.into(), protocol: ip.protocol.0, port });
        }
    }

    /// The packets that arrive before the connection to `port`: earlier packets that are not among them were dropped.
    pub(crate) fn until(&self, port: u16) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let packet = self.next();
            if packet.protocol == 6 && packet.port == Some(port) {
                return packets;
            }
            packets.push(packet);
        }
    }
}
