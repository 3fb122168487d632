//! Networks that the host joins while microVMs run, and ways to the internet that change meanwhile.

use std::net::Ipv4Addr;

use crate::support::{Answer, Capture, World, run};

#[test]
fn networks_that_the_host_joins_later_are_out_of_reach() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    // An exchange that is under way, and that a route of the VPN takes away from the internet.
    guest.echo_request(World::SERVER, 7);
    assert_eq!(guest.receive(), Answer::EchoReply(World::SERVER, 7));

    // A VPN with a network behind it, another address on the uplink, and another router there. None is in a range that is blocked anyway.
    run("ip netns add vpn");
    run("ip link add tun9 type veth peer name tun9 netns vpn");
    run("ip addr add 198.18.0.1/24 dev tun9");
    run("ip link set tun9 up");
    run("ip -n vpn addr add 198.18.0.2/24 dev tun9");
    run("ip -n vpn link set tun9 up");
    run("ip route add 192.88.99.0/24 via 198.18.0.2");
    run("ip route add 198.51.100.7/32 via 198.18.0.2");
    run("ip addr add 198.18.1.1/24 dev wan");
    run("ip -n internet addr add 198.18.1.9/24 dev wan");
    run("ip route add 198.18.2.0/24 via 203.0.113.77");
    let inside = World::within("vpn", || Capture::open("tun9"));
    let joined = ["198.18.0.2", "192.88.99.1", "198.51.100.7", "198.18.1.9", "198.18.2.9"];
    for address in joined.map(|address| address.parse::<Ipv4Addr>().unwrap()) {
        guest.connect(address, 80);
        guest.expect_reset(address);
        guest.echo_request(address, 8);
        assert_eq!(guest.receive(), Answer::Prohibited, "{address}");
    }
    guest.echo_request(World::SERVER, 7);
    guest.expect_only_echo_of_gateway(1);
    assert!(inside.next_at_once().is_none());

    // Without the route, the internet is where it was.
    run("ip route del 198.51.100.7/32");
    guest.echo_request(World::SERVER, 7);
    assert_eq!(guest.receive(), Answer::EchoReply(World::SERVER, 7));
    guest.connect(World::SERVER, 81);
    let arrived = capture.until(81);
    assert!(arrived.iter().all(|packet| packet.destination == World::SERVER), "{arrived:?}");
}

#[test]
fn another_way_to_the_internet_is_followed() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let capture = world.capture();
    run("ip -n internet addr add 203.0.113.9/24 dev wan");
    run("ip route replace default via 203.0.113.9");
    wait_for_uplinks("\"wan\" . 203.0.113.9");
    guest.connect(World::SERVER, 81);
    capture.until(81);
    guest.expect_reset(World::SERVER);
    // The former router is one like any other now.
    run("ip route add 198.18.2.0/24 via 203.0.113.1");
    guest.connect(Ipv4Addr::new(198, 18, 2, 9), 80);
    guest.expect_reset(Ipv4Addr::new(198, 18, 2, 9));
    assert!(capture.next_at_once().is_none());

    // A way without a router, as a tunnel is.
    run("ip route replace default dev wan");
    wait_for_uplinks("\"wan\" }");
    run("ip neigh replace 198.51.100.7 lladdr 06:00:00:00:00:01 dev wan");
    guest.connect(World::SERVER, 82);
    capture.until(82);
}

/// Waits until the host's rules know this default route.
fn wait_for_uplinks(element: &str) {
    let known = (0..5000).any(|_| run("nft list table inet hearth").contains(element));
    assert!(known, "{element} does not become a way to the internet");
}
