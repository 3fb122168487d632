//! A guest that consists of the frames that it sends and receives through the tap.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Type, NetHeaders,
    PacketBuilder, PacketBuilderStep, PacketHeaders, TcpHeader, TransportHeader,
};
use hearth_host::network::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, MicrovmNetwork};

use super::wait_for;

/// `struct virtio_net_hdr` before each frame: no offloads.
const HEADER: usize = 10;

pub(crate) struct Guest {
    pub(crate) network: MicrovmNetwork,
    tap: File,
}

/// A frame that a guest receives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The hardware address of an IPv4 address.
    Arp(Ipv4Addr, [u8; 6]),
    Tcp {
        from: Ipv4Addr,
        syn: bool,
        ack: bool,
        rst: bool,
        sequence: u32,
        payload: Vec<u8>,
    },
    EchoReply(Ipv4Addr, u16),
    /// The gateway reports that communication is prohibited.
    Prohibited,
    /// The gateway reports that it has no route.
    NoRoute,
    Other(Vec<u8>),
}

/// A frame up to its IPv4 header.
fn ip(source: Ipv4Addr, destination: Ipv4Addr) -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC).ipv4(source.octets(), destination.octets(), 64)
}

impl Guest {
    pub(crate) fn new(network: MicrovmNetwork) -> Self {
        let tap = network.tap().unwrap();
        Self { network, tap }
    }

    /// Sends a frame; an error if the tap was removed.
    pub(crate) fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.tap).write_all(&[&[0; HEADER], frame].concat())
    }

    fn send(&self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    /// Starts a connection from a port of its own to `destination`.
    pub(crate) fn connect(&self, destination: Ipv4Addr, port: u16) {
        self.connect_as(GUEST, GUEST_MAC, destination, port);
    }

    /// Like [`Self::connect`], with a forged sender.
    pub(crate) fn connect_as(&self, source: Ipv4Addr, mac: [u8; 6], destination: Ipv4Addr, port: u16) {
        let step = PacketBuilder::ethernet2(mac, GATEWAY_MAC).ipv4(source.octets(), destination.octets(), 64);
        let mut frame = Vec::new();
        step.tcp(own_port(port), port, 1000, 64240).syn().write(&mut frame, &[]).unwrap();
        self.send(&frame);
    }

    /// Continues a connection: acknowledges, and sends `payload`.
    pub(crate) fn go_on(&self, destination: Ipv4Addr, port: u16, acknowledged: u32, payload: &[u8]) {
        let mut header = TcpHeader::new(own_port(port), port, 1001, 64240);
        header.ack = true;
        header.psh = !payload.is_empty();
        header.acknowledgment_number = acknowledged;
        let mut frame = Vec::new();
        ip(GUEST, destination).tcp_header(header).write(&mut frame, payload).unwrap();
        self.send(&frame);
    }

    pub(crate) fn udp(&self, destination: Ipv4Addr, port: u16) {
        let mut frame = Vec::new();
        ip(GUEST, destination).udp(own_port(port), port).write(&mut frame, b"question").unwrap();
        self.send(&frame);
    }

    pub(crate) fn echo_request(&self, destination: Ipv4Addr, id: u16) {
        let mut frame = Vec::new();
        ip(GUEST, destination).icmpv4_echo_request(id, 1).write(&mut frame, b"echo").unwrap();
        self.send(&frame);
    }

    /// A packet of another protocol over IPv4.
    pub(crate) fn protocol(&self, destination: Ipv4Addr, protocol: u8) {
        let mut header =
            etherparse::Ipv4Header::new(4, 64, protocol.into(), GUEST.octets(), destination.octets())
                .unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut frame =
            Ethernet2Header { source: GUEST_MAC, destination: GATEWAY_MAC, ether_type: EtherType::IPV4 }
                .to_bytes()
                .to_vec();
        header.write(&mut frame).unwrap();
        frame.extend([0; 4]);
        self.send(&frame);
    }

    /// A connection over IPv6.
    pub(crate) fn connect_v6(&self, port: u16) {
        let mut frame = Vec::new();
        let (source, destination) = ([0xfd; 16], [0x20; 16]);
        let step = PacketBuilder::ethernet2(GUEST_MAC, GATEWAY_MAC).ipv6(source, destination, 64);
        step.tcp(own_port(port), port, 1000, 64240).syn().write(&mut frame, &[]).unwrap();
        self.send(&frame);
    }

    /// Sends an ARP request for `target`.
    pub(crate) fn who_has(&self, sender: Ipv4Addr, target: Ipv4Addr) {
        let packet = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &GUEST_MAC,
            &sender.octets(),
            &[0; 6],
            &target.octets(),
        );
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(GUEST_MAC, [0xff; 6]).arp(packet.unwrap()).write(&mut frame).unwrap();
        self.send(&frame);
    }

    /// The next frame.
    pub(crate) fn receive(&self) -> Answer {
        wait_for(self.tap.as_fd(), "frame to the guest");
        let mut buffer = [0; 2048];
        let count = (&self.tap).read(&mut buffer).unwrap();
        let frame = &buffer[HEADER..count];
        understand(frame).unwrap_or_else(|| Answer::Other(frame.to_vec()))
    }

    /// Expects that a connection to `from` is reset.
    pub(crate) fn expect_reset(&self, from: Ipv4Addr) {
        match self.receive() {
            Answer::Tcp { from: address, rst: true, .. } if address == from => {}
            other => panic!("a connection to {from} was not reset: {other:?}"),
        }
    }

    /// Expects that the gateway answers an echo request, and that no frame came before.
    pub(crate) fn expect_only_echo_of_gateway(&self, id: u16) {
        self.echo_request(GATEWAY, id);
        assert_eq!(self.receive(), Answer::EchoReply(GATEWAY, id));
    }
}

/// The guest's port of its connection to `port`; a function of it, so that tests need not store it.
fn own_port(port: u16) -> u16 {
    port ^ 0x8000
}

fn understand(frame: &[u8]) -> Option<Answer> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let link = headers.link?.ethernet2()?;
    assert_eq!((link.source, link.destination), (GATEWAY_MAC, GUEST_MAC));
    let ip = match headers.net? {
        NetHeaders::Arp(arp) => {
            let address = <[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?;
            return Some(Answer::Arp(address.into(), arp.sender_hw_addr().try_into().ok()?));
        }
        NetHeaders::Ipv4(ip, _) => ip,
        NetHeaders::Ipv6(..) => return None,
    };
    assert_eq!(Ipv4Addr::from(ip.destination), GUEST);
    let from = ip.source.into();
    match headers.transport? {
        TransportHeader::Tcp(tcp) => Some(Answer::Tcp {
            from,
            syn: tcp.syn,
            ack: tcp.ack,
            rst: tcp.rst,
            sequence: tcp.sequence_number,
            payload: headers.payload.slice().to_vec(),
        }),
        TransportHeader::Icmpv4(icmp) => match icmp.icmp_type {
            Icmpv4Type::EchoReply(echo) => Some(Answer::EchoReply(from, echo.id)),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited) => {
                Some(Answer::Prohibited)
            }
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network) => Some(Answer::NoRoute),
            _ => None,
        },
        _ => None,
    }
}
