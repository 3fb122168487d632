//! Parts of the host's table of connections.

use hearth_host::network::{NetworkConfig, Owner};

use crate::support::{World, run};

/// Lists in which an account's connections are counted.
const LISTS: u32 = 64;
/// Between destination ports whose connections are counted in the same list: the guest's own ports follow them.
const STEP: u16 = 128;

/// The smallest parts, so that a test can fill them.
fn small() -> NetworkConfig {
    NetworkConfig { account_share: Some(1), ..NetworkConfig::default() }
}

#[test]
fn an_accounts_guests_share_its_part_of_the_table() {
    let Some(world) = World::new() else { return };
    let networks = world.networks_with(small());
    let [first, second, other] = ["first", "second", "other"].map(|name| world.guest(&networks, name));
    let (account, stranger) = (Owner::of("111111111111"), Owner::of("222222222222"));
    networks.assign(first.network.slot().unwrap(), account).unwrap();
    networks.assign_by_name("second", account).unwrap();
    networks.assign(other.network.slot().unwrap(), stranger).unwrap();
    let capture = world.capture();
    // A server that does not answer: connections to it stay half open.
    World::within("internet", || {
        run("nft add table inet silent");
        run("nft add chain inet silent input { type filter hook input priority 0 ; }");
        run("nft add rule inet silent input meta l4proto tcp drop");
    });

    let room = u16::try_from(networks.limits().connections / LISTS).unwrap();
    for number in 0..room {
        first.connect(World::SERVER, 1024 + number * STEP);
    }
    let next = 1024 + room * STEP;
    second.connect(World::SERVER, next);
    second.expect_reset(World::SERVER);
    other.connect(World::SERVER, next);
    assert_eq!(capture.until(next).len(), usize::from(room), "another account has its own part");
    // In another list there is room.
    second.connect(World::SERVER, 1026);
    assert_eq!(capture.until(1026).len(), 0);

    // The next daemon goes on counting.
    let _again = world.networks_with(small());
    second.connect(World::SERVER, next + STEP);
    second.expect_reset(World::SERVER);
    // Connections of a network that nobody has been named for do not count to an account.
    world.guest(&networks, "pooled").connect(World::SERVER, next);
    capture.until(next);
}

#[test]
fn an_accounts_guests_share_its_rate_of_connections() {
    let Some(world) = World::new() else { return };
    let networks = world.networks_with(small());
    let guests = ["a", "b", "c", "d", "e", "f"].map(|name| world.guest(&networks, name));
    for guest in &guests {
        networks.assign(guest.network.slot().unwrap(), Owner::of("111111111111")).unwrap();
    }
    let capture = world.capture();
    // As many from each as one may open at once: without a part for the account, all of them arrive.
    let each = u16::try_from(networks.limits().guest_rate * 2 - 2).unwrap();
    let mut arrived = 0;
    for guest in &guests {
        for number in 0..each {
            guest.connect(World::SERVER, 1000 + 2 * number);
        }
        // Every connection is reset, by the filter or by the server.
        (0..each).for_each(|_| guest.expect_reset(World::SERVER));
        // The capture has no room for more than those of one guest.
        arrived += std::iter::from_fn(|| capture.next_at_once()).count();
    }
    assert!((2..6 * usize::from(each)).contains(&arrived), "{arrived} of {} arrived", 6 * each);

    let other = world.guest(&networks, "other");
    networks.assign(other.network.slot().unwrap(), Owner::of("222222222222")).unwrap();
    other.connect(World::SERVER, 81);
    capture.until(81);
}
