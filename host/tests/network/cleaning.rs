//! Making, removing and sweeping networks: nothing is left, whenever a process is killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

use hearth_host::network::{Egress, NetworkConfig, NetworkError, Networks};

use crate::support::{World, run};

#[test]
fn a_removed_network_leaves_nothing_even_while_a_monitor_has_its_tap() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    assert_eq!(world.interfaces(), [format!("hearth-{}", guest.network.slot().unwrap())]);
    networks.remove_by_name("a").unwrap();
    assert_eq!((world.interfaces().len(), networks.names().unwrap().len()), (0, 0));
    assert!(guest.try_send(&[0; 60]).is_err());
    // Removing twice is no error, and neither is removing a network that never existed.
    networks.remove_by_name("a").unwrap();
    networks.remove_by_name("never").unwrap();
}

#[test]
fn a_sweep_finds_what_a_killed_owner_left() {
    let Some(world) = World::new() else { return };
    {
        let networks = world.networks();
        for name in ["dead-1", "alive", "dead-2"] {
            drop(networks.create(name, Egress::Internet).unwrap());
        }
        drop(networks.create("dead-3", Egress::None).unwrap());
    }
    // The state after a kill between creating the name and its namespace.
    fs::write("/run/netns/hearth-half", "").unwrap();
    run("ip netns add somebody-elses");

    let networks = world.networks();
    assert_eq!(networks.names().unwrap(), ["alive", "dead-1", "dead-2", "dead-3", "half"]);
    assert_eq!(networks.sweep(|name| name == "alive").unwrap(), ["dead-1", "dead-2", "dead-3", "half"]);
    assert_eq!((networks.names().unwrap(), world.interfaces().len()), (vec!["alive".to_owned()], 1));
    assert!(fs::exists("/run/netns/somebody-elses").unwrap());
}

#[test]
fn a_network_is_made_over_what_is_left_of_it() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let old = world.guest(&networks, "a");
    let new = world.guest(&networks, "a");
    assert_eq!(old.network.slot(), new.network.slot());
    assert_eq!(world.interfaces().len(), 1);
    assert!(old.try_send(&[0; 60]).is_err());
    new.expect_only_echo_of_gateway(1);
    fs::write("/run/netns/hearth-half", "").unwrap();
    world.guest(&networks, "half").expect_only_echo_of_gateway(2);
}

#[test]
fn a_network_that_cannot_be_made_leaves_nothing() {
    let Some(world) = World::new() else { return };
    // This nft works for the host's table, and is replaced by a broken one before the namespace's rules.
    let nft = std::path::PathBuf::from("/run/nft");
    symlink(run("which nft").trim(), &nft).unwrap();
    let networks = world.networks_with(NetworkConfig { nft: nft.clone(), ..NetworkConfig::default() });
    fs::remove_file(&nft).unwrap();
    symlink(run("which false").trim(), &nft).unwrap();
    let error = networks.create("a", Egress::Internet).unwrap_err();
    assert!(matches!(error, NetworkError::Rules { .. }), "{error}");
    assert_eq!((networks.names().unwrap().len(), world.interfaces().len()), (0, 0));
}

#[test]
fn what_the_host_lacks_or_the_configuration_has_wrong_is_said() {
    let Some(_world) = World::new() else { return };
    let error =
        Networks::open(NetworkConfig { nft: "/nowhere/nft".into(), ..NetworkConfig::default() }, Some(1))
            .unwrap_err();
    assert!(error.to_string().contains("/nowhere/nft") && error.to_string().contains("install"), "{error}");
    let error = Networks::open(NetworkConfig { mtu: 9000, ..NetworkConfig::default() }, Some(1)).unwrap_err();
    assert!(error.to_string().contains("1280 to 1500"), "{error}");
}

#[test]
fn the_pool_is_shared_out_until_it_is_empty() {
    let Some(world) = World::new() else { return };
    let config = NetworkConfig { pool: "100.96.8.0/29".parse().unwrap(), ..NetworkConfig::default() };
    let networks = world.networks_with(config);
    let mut slots = ["a", "b", "c", "d"].map(|name| networks.create(name, Egress::Internet).unwrap().slot());
    slots.sort();
    assert_eq!(slots, [Some(0), Some(1), Some(2), Some(3)]);
    let error = networks.create("e", Egress::Internet).unwrap_err();
    assert!(matches!(error, NetworkError::PoolIsFull { slots: 4, .. }), "{error}");
    networks.remove_by_name("c").unwrap();
    networks.create("e", Egress::Internet).unwrap();
}

#[test]
fn a_pool_that_the_host_uses_otherwise_is_refused() {
    let Some(world) = World::new() else { return };
    let _networks = world.networks();
    for pool in ["192.0.2.0/28", "203.0.0.0/16"] {
        let config = NetworkConfig { pool: pool.parse().unwrap(), ..NetworkConfig::default() };
        let error = Networks::open(config, Some(1)).unwrap_err();
        assert!(matches!(error, NetworkError::PoolInUse { .. }), "{error}");
    }
}

#[test]
fn opening_twice_changes_nothing() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let guest = world.guest(&networks, "a");
    let rules = || ["hearth", "hearth_accounts"].map(|table| run(&format!("nft -s list table inet {table}")));
    let before = rules();
    let again = world.networks();
    assert_eq!(rules(), before);
    assert_eq!(run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    assert_eq!(again.names().unwrap(), ["a"]);
    guest.expect_only_echo_of_gateway(1);
}

#[test]
fn who_works_by_hand_beside_a_daemon_changes_none_of_its_rules() {
    let Some(world) = World::new() else { return };
    let config = |allowed: &str| NetworkConfig {
        allowed: vec![allowed.parse().unwrap()],
        account_share: Some(7),
        ..NetworkConfig::default()
    };
    let _networks = world.networks_with(config("10.99.0.0/16"));
    let rules = || ["hearth", "hearth_accounts"].map(|table| run(&format!("nft -s list table inet {table}")));
    let [host, accounts] = rules();
    Networks::open(NetworkConfig::default(), None).unwrap();
    assert_eq!(rules(), [host.clone(), accounts.clone()]);
    // Exceptions may overlap those that are there.
    Networks::open(config("10.98.0.0/15"), None).unwrap();
    let [both, same] = rules();
    assert_eq!((both.replace("10.98.0.0/15", "10.99.0.0/16"), same), (host, accounts));
}

#[test]
fn many_are_made_and_removed_at_once() {
    let Some(world) = World::new() else { return };
    let networks = world.networks();
    let names = (0..12).map(|number| format!("m{number}")).collect::<Vec<_>>();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| world.guest(&networks, name).expect_only_echo_of_gateway(1));
        }
    });
    let (made, interfaces) = (networks.names().unwrap().len(), world.interfaces().len());
    assert_eq!((made, interfaces), (names.len(), names.len()));
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| networks.remove_by_name(name).unwrap());
        }
    });
    assert_eq!((networks.names().unwrap().len(), world.interfaces().len()), (0, 0));
}
