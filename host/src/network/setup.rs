//! Sets a network up, and takes it down.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use hearth_vmm_client::tap::open_tap;

use super::error::system;
use super::limits::ConnectionLimits;
use super::namespace::{self, Namespace};
use super::netlink::{End, Netlink};
use super::surroundings::Surroundings;
use super::{
    Egress, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NetworkConfig, NetworkError, PREFIX, PREFIX_LENGTH, TAP,
    UPLINK,
};
use super::{nft, rules};

/// Hardware addresses of a pair's interfaces, in the namespace and in the host. No other interface is on that link.
const PAIR_MACS: ([u8; 6], [u8; 6]) = ([0x06, b'h', b'r', b't', b'h', 3], [0x06, b'h', b'r', b't', b'h', 4]);
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Makes this thread's namespace forward IPv4.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    let now = fs::read_to_string(FORWARDING).map_err(system(format!("read {FORWARDING}")))?;
    if now.trim() == "0" {
        // Not if it is on already: writing it resets settings of all interfaces.
        fs::write(FORWARDING, "1").map_err(system(format!("set {FORWARDING}")))?;
    }
    Ok(())
}

/// Makes a microVM's network, on a thread in the host's namespace, which is in the new namespace afterwards.
pub(super) fn microvm(
    (config, limits): (&NetworkConfig, &ConnectionLimits),
    namespace: &Namespace,
    egress: Egress,
) -> Result<(File, Option<u16>), NetworkError> {
    let host = namespace::own()?;
    let mut outside = Netlink::open()?;
    let surroundings = Surroundings::read(&mut outside)?;
    namespace.make()?;
    disable_ipv6()?;
    enable_forwarding()?;
    let mut inside = Netlink::open()?;

    let tap = open_tap(TAP)?;
    let index = present(&mut inside, TAP)?;
    inside.set_identity(index, &End { name: TAP, mac: GATEWAY_MAC }, config.mtu)?;
    inside.add_address(index, GATEWAY, PREFIX_LENGTH)?;
    inside.up(index)?;
    inside.add_neighbour(index, GUEST, GUEST_MAC)?;

    let (slot, uplink) = match egress {
        Egress::None => (None, None),
        Egress::Internet => {
            let (slot, name) = add_pair(config, namespace.name(), &mut inside, &host)?;
            let (there, here) = pair_addresses(config, slot);
            let outer = connect(&mut outside, &name, there, (here, PAIR_MACS.0))?;
            let index = connect(&mut inside, UPLINK, here, (there, PAIR_MACS.1))?;
            inside.add_default_route(index, there)?;
            outside.wait_until_running(outer)?;
            (Some(slot), Some(here))
        }
    };
    nft::apply(&config.nft, &rules::microvm(config, limits, &surroundings, egress, uplink))?;
    Ok((tap, slot))
}

/// Removes the interfaces of the namespace that this thread is in.
pub(super) fn remove_links(name: &str) -> Result<(), NetworkError> {
    let mut inside = Netlink::open()?;
    let failed = |error| match error {
        NetworkError::Netlink { what, source } => {
            NetworkError::Netlink { what: format!("{what} of {PREFIX}{name}"), source }
        }
        other => other,
    };
    inside.remove(UPLINK).map_err(failed)?;
    inside.remove(TAP).map_err(failed)
}

/// Makes the pair on the first free slot, searching from one that is derived from the name: that spreads microVMs over all slots, and
/// needs no stored state.
fn add_pair(
    config: &NetworkConfig,
    name: &str,
    inside: &mut Netlink,
    host: &File,
) -> Result<(u16, String), NetworkError> {
    let slots = config.slots();
    let first =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    for step in 0..slots {
        let Ok(slot) = u16::try_from(first.wrapping_add(step) % slots) else { break };
        let name = interface(slot);
        let there = End { name: &name, mac: PAIR_MACS.1 };
        if inside.add_pair(&End { name: UPLINK, mac: PAIR_MACS.0 }, &there, host.as_raw_fd(), config.mtu)? {
            return Ok((slot, name));
        }
    }
    Err(NetworkError::PoolIsFull { pool: config.pool, slots })
}

/// The name of a slot's interface in the host.
pub(super) fn interface(slot: u16) -> String {
    format!("{PREFIX}{slot}")
}

/// Addresses of a slot's pair: in the host, and in the namespace.
fn pair_addresses(config: &NetworkConfig, slot: u16) -> (Ipv4Addr, Ipv4Addr) {
    let first = u32::from(config.pool.network()).wrapping_add(2 * u32::from(slot));
    (first.into(), (first | 1).into())
}

/// Configures one interface of a pair: its address, and its peer as a neighbour.
fn connect(
    netlink: &mut Netlink,
    name: &str,
    own: Ipv4Addr,
    (other, other_mac): (Ipv4Addr, [u8; 6]),
) -> Result<u32, NetworkError> {
    let index = present(netlink, name)?;
    netlink.without_ipv6_address(index)?;
    netlink.add_address(index, own, 31)?;
    netlink.up(index)?;
    netlink.add_neighbour(index, other, other_mac)?;
    Ok(index)
}

fn present(netlink: &mut Netlink, name: &str) -> Result<u32, NetworkError> {
    let gone =
        || NetworkError::Netlink { what: format!("find {name}"), source: io::ErrorKind::NotFound.into() };
    netlink.index(name)?.ok_or_else(gone)
}

/// Disables IPv6 in this thread's namespace, also for interfaces that are added later.
fn disable_ipv6() -> Result<(), NetworkError> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match fs::write(&path, "1") {
            // A kernel without IPv6 has nothing to disable.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(system(format!("set {path}")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_addresses_of_their_own() {
        let config = NetworkConfig::default();
        let text = |slot| {
            let (host, namespace) = pair_addresses(&config, slot);
            format!("{host} {namespace}")
        };
        assert_eq!(text(0), "100.96.0.0 100.96.0.1");
        assert_eq!(text(32767), "100.96.255.254 100.96.255.255");
    }
}
