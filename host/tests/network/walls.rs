//! Destinations that a guest does not reach, and packets that do not reach it.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use hearth_host::network::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NetworkConfig};

use crate::support::{Answer, World, run};

#[test]
fn nothing_but_tcp_and_echo_requests_leaves() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    guest.udp(World::SERVER, 53);
    assert_eq!(guest.receive(), Answer::Prohibited);
    // SCTP, GRE, IPv6 in IPv4
    for protocol in [132, 47, 41] {
        guest.protocol(World::SERVER, protocol);
        assert_eq!(guest.receive(), Answer::Prohibited, "protocol {protocol}");
    }
    guest.connect_v6(80);
    guest.connect(World::SERVER, 81);
    let leaked = capture.until(81);
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn the_host_and_its_networks_and_private_and_link_local_addresses_are_out_of_reach() {
    let Some(world) = World::new() else { return };
    let blocked = vec!["198.51.100.64/26".parse().unwrap()];
    let blocked = [NetworkConfig::default().blocked, blocked].concat();
    let networks = world.networks_with(NetworkConfig { blocked, ..NetworkConfig::default() });
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    // A listener on every address of the host: a connection that reaches the host is not reset.
    let _listener = TcpListener::bind("0.0.0.0:80").unwrap();
    let refused = [
        "203.0.113.2",     // the host
        "203.0.113.1",     // its router
        "192.0.2.1",       // the host in its other network
        "192.0.2.77",      // another machine there
        "169.254.169.254", // metadata of the host's own cloud
        "10.20.30.40",
        "172.16.0.1",
        "192.168.1.1",
        "100.127.0.1",
        "198.51.100.65", // configured
        "100.96.0.0",    // another microVM's pair
    ];
    let refused = refused.map(|address| address.parse::<Ipv4Addr>().unwrap());
    for address in refused {
        guest.connect(address, 80);
        guest.expect_reset(address);
    }
    for address in refused {
        guest.echo_request(address, 9);
        guest.udp(address, 53);
    }
    // For these destinations, not even a refusal is sent.
    for address in ["0.1.2.3", "127.0.0.1", "224.0.0.251", "255.255.255.255", "240.0.0.1", "100.64.0.3"] {
        guest.connect(address.parse().unwrap(), 80);
        guest.udp(address.parse().unwrap(), 5353);
    }
    // The gateway has no services.
    guest.connect(GATEWAY, 80);
    guest.udp(GATEWAY, 53);
    guest.connect(World::SERVER, 81);
    let leaked = capture.until(81);
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn microvms_do_not_reach_each_other() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let (first, second) = (world.guest(&networks, "first"), world.guest(&networks, "second"));
    let slot = u32::from(second.network.slot().unwrap());
    let pair = u32::from(Ipv4Addr::new(100, 96, 0, 0)) + 2 * slot;
    for address in [pair, pair + 1] {
        first.connect(address.into(), 80);
        first.expect_reset(address.into());
    }
    second.expect_only_echo_of_gateway(1);
}

#[test]
fn the_hosts_table_holds_even_where_the_namespaces_rules_do_not() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let (guest, other) = (world.guest(&networks, "a"), world.guest(&networks, "b"));
    let capture = world.capture();
    let _listener = TcpListener::bind("0.0.0.0:80").unwrap();
    World::within("hearth-a", || {
        run("nft flush chain inet hearth outbound");
        run("nft add rule inet hearth outbound accept");
    });
    // These come after the network was made: an address, and another program's translation of a host address.
    run("ip addr add 198.18.0.9/32 dev lo");
    run("nft add table ip others");
    run("nft add chain ip others prerouting { type nat hook prerouting priority dstnat ; }");
    run("nft add rule ip others prerouting ip daddr 203.0.113.2 tcp dport 8080 dnat to 198.51.100.7:80");
    let pair = u32::from(Ipv4Addr::new(100, 96, 0, 0)) + 2 * u32::from(other.network.slot().unwrap());

    guest.connect(World::HOST, 80);
    guest.connect(World::HOST, 8080);
    guest.connect(Ipv4Addr::new(198, 18, 0, 9), 80);
    guest.connect(pair.into(), 80);
    guest.connect((pair + 1).into(), 80);
    guest.connect(World::SERVER, 81);
    let leaked = capture.until(81);
    assert!(leaked.is_empty(), "{leaked:?}");
    let Answer::Tcp { from: World::SERVER, .. } = guest.receive() else { panic!("the host answered") };
    // The four addresses of the host: one of them is the host's end of the other microVM's pair.
    assert_eq!(world.dropped("fib daddr type"), 4);
    assert_eq!(world.dropped("iifname \"hearth-*\" oifname \"hearth-*\""), 1);
}

#[test]
fn forged_senders_are_dropped() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    guest.connect_as(Ipv4Addr::new(198, 51, 100, 9), GUEST_MAC, World::SERVER, 80);
    guest.connect_as(GATEWAY, GUEST_MAC, World::SERVER, 80);
    guest.connect_as(GUEST, GATEWAY_MAC, World::SERVER, 80);
    // ARP requests with another sender address, or for another target, get no answer.
    guest.who_has(Ipv4Addr::new(100, 64, 0, 3), GATEWAY);
    guest.who_has(GUEST, World::HOST);
    guest.expect_only_echo_of_gateway(3);
    guest.connect(World::SERVER, 81);
    let leaked = capture.until(81);
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn nothing_comes_in_unasked() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let pair = u32::from(Ipv4Addr::new(100, 96, 0, 0)) + 2 * u32::from(guest.network.slot().unwrap());
    World::within("internet", || {
        let socket = UdpSocket::bind((World::SERVER, 4000)).unwrap();
        for address in [GUEST, Ipv4Addr::from(pair + 1)] {
            socket.send_to(b"knock", (address, 80)).unwrap();
        }
    });
    // A packet from the host is dropped as well.
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"knock", (Ipv4Addr::from(pair + 1), 80)).unwrap();
    guest.echo_request(World::SERVER, 8);
    assert_eq!(guest.receive(), Answer::EchoReply(World::SERVER, 8));
    assert_eq!(world.dropped("\t\toifname \"hearth-*\""), 1);
}

#[test]
fn connections_from_before_a_restore_are_reset() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    guest.go_on(World::SERVER, 80, 77, b"still there?");
    guest.expect_reset(World::SERVER);
    guest.connect(World::SERVER, 81);
    let leaked = capture.until(81);
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn a_guest_cannot_fill_the_hosts_table_of_connections() {
    let Some(world) = World::new() else { return };
    let networks = world.networks_with(NetworkConfig { connections: 3, ..NetworkConfig::default() });
    let guest = world.guest(&networks, "a");
    // Connections are accepted, so that they stay open.
    let ports = 101..=105;
    let _listeners = World::within("internet", || {
        ports.clone().map(|port| TcpListener::bind((World::SERVER, port)).unwrap()).collect::<Vec<_>>()
    });
    for port in ports {
        guest.connect(World::SERVER, port);
    }
    let answers = [(); 5].map(|()| guest.receive());
    let (accepted, reset) = answers.iter().fold((0, 0), |(accepted, reset), answer| match answer {
        Answer::Tcp { syn: true, ack: true, .. } => (accepted + 1, reset),
        Answer::Tcp { rst: true, .. } => (accepted, reset + 1),
        other => panic!("{other:?}"),
    });
    assert_eq!((accepted, reset), (3, 2), "{answers:?}");
}

#[test]
fn a_guest_cannot_open_connections_without_end() {
    let Some(world) = World::new() else { return };
    let networks = world.networks_with(NetworkConfig { connection_rate: 1, ..NetworkConfig::default() });
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    const MANY: u16 = 300;
    for port in 1000..1000 + MANY {
        guest.connect(World::SERVER, port);
    }
    // Every connection is reset, by the filter or by the server. After the last reset, all packets that passed have arrived.
    (0..MANY).for_each(|_| guest.expect_reset(World::SERVER));
    let arrived = std::iter::repeat_with(|| capture.next_at_once()).map_while(|packet| packet).count();
    assert!((2..usize::from(MANY)).contains(&arrived), "{arrived} of {MANY} arrived");
}
