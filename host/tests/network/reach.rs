//! Destinations that a guest reaches.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use hearth_host::network::{Egress, GATEWAY, GATEWAY_MAC, GUEST, NetworkConfig};

use crate::support::{Answer, Guest, World};

#[test]
fn a_guest_talks_to_a_server_in_the_internet_and_is_seen_as_the_host() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let listener = World::within("internet", || TcpListener::bind((World::SERVER, 80)).unwrap());

    guest.who_has(GUEST, GATEWAY);
    assert_eq!(guest.receive(), Answer::Arp(GATEWAY, GATEWAY_MAC));

    guest.connect(World::SERVER, 80);
    let Answer::Tcp { from: World::SERVER, syn: true, ack: true, sequence, .. } = guest.receive() else {
        panic!("the server did not accept")
    };
    guest.go_on(World::SERVER, 80, sequence + 1, b"hello");
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), World::HOST);
    let mut said = [0; 5];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");

    stream.write_all(b"welcome").unwrap();
    loop {
        match guest.receive() {
            Answer::Tcp { payload, .. } if payload == b"welcome" => break,
            Answer::Tcp { payload, rst: false, .. } if payload.is_empty() => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn echo_requests_are_answered_by_the_gateway_and_by_the_internet() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    guest.expect_only_echo_of_gateway(7);
    guest.echo_request(World::SERVER, 8);
    assert_eq!(guest.receive(), Answer::EchoReply(World::SERVER, 8));
}

#[test]
fn exceptions_of_the_configuration_pass_but_never_to_the_host_or_link_local() {
    let Some(world) = World::new() else { return };
    let allowed = ["10.99.0.0/16", "169.254.0.0/16", "192.0.2.0/24", "203.0.113.0/24", "127.0.0.0/8"];
    let allowed = allowed.map(|network| network.parse().unwrap()).to_vec();
    let networks = world.networks_with(NetworkConfig { allowed, ..NetworkConfig::default() });
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    // With this listener, a connection that reaches the host is not reset.
    let _listener = TcpListener::bind("0.0.0.0:80").unwrap();

    for refused in ["169.254.169.254", "192.0.2.1", "203.0.113.2", "127.0.0.1", "10.20.30.40"] {
        let refused = refused.parse::<Ipv4Addr>().unwrap();
        guest.connect(refused, 80);
        // Packets to loopback addresses are dropped before any rule.
        if !refused.is_loopback() {
            guest.expect_reset(refused);
        }
    }
    // A private network, and the host's neighbour in a connected one.
    guest.connect(Ipv4Addr::new(10, 99, 0, 1), 81);
    guest.connect(Ipv4Addr::new(203, 0, 113, 1), 82);
    assert_eq!(
        capture.until(81).iter().map(|packet| packet.destination).collect::<Vec<_>>(),
        [] as [Ipv4Addr; 0]
    );
    assert_eq!(capture.until(82).len(), 0);
}

#[test]
fn a_guest_without_egress_reaches_its_gateway_only() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = Guest::new(networks.create("alone", Egress::None).unwrap());
    assert_eq!((guest.network.slot(), world.interfaces().len()), (None, 0));
    let (other, capture) = (world.guest(&networks, "other"), world.capture());
    guest.connect(World::SERVER, 80);
    guest.udp(World::SERVER, 53);
    assert_eq!([guest.receive(), guest.receive()], [Answer::NoRoute, Answer::NoRoute]);
    guest.expect_only_echo_of_gateway(1);
    other.connect(World::SERVER, 81);
    assert_eq!(capture.until(81).len(), 0);
}
