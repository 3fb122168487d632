//! The host's addresses, and the networks it is connected to.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::netlink::Netlink;
use super::uplinks::Uplinks;
use super::{NetworkError, PREFIX};

/// The host's addresses and networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// The host's own addresses.
    pub(super) own: Vec<Ipv4Net>,
    /// Networks (and single hosts) that the host reaches without a router.
    pub(super) connected: Vec<Ipv4Net>,
    /// Networks that the host reaches by other ways than its default routes.
    pub(super) elsewhere: Vec<Ipv4Net>,
}

impl Surroundings {
    /// Reads the addresses and networks from the kernel.
    pub(super) fn read(netlink: &mut Netlink) -> Result<Self, NetworkError> {
        let mut found = Self::default();
        let mut pairs = Vec::new();
        for address in netlink.addresses()? {
            if is_of_a_pair(&address) {
                pairs.push(address.header.index);
            } else {
                found.add_address(&address);
            }
        }
        // A route may lead directly to a network in which the host has no address, or by a router that is not the internet's.
        let routes = netlink.unicast_routes()?;
        let interfaces = netlink.interfaces()?;
        let uplinks = Uplinks::of(&routes, &interfaces);
        found
            .elsewhere
            .extend(routes.iter().filter(|route| !uplinks.have(route, &interfaces)).filter_map(network));
        found
            .connected
            .extend(routes.iter().filter(|route| !leads_into(route, &pairs)).filter_map(connected));
        Ok(Self {
            own: Ipv4Net::aggregate(&found.own),
            connected: Ipv4Net::aggregate(&found.connected),
            elsewhere: Ipv4Net::aggregate(&found.elsewhere),
        })
    }

    fn add_address(&mut self, message: &AddressMessage) {
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => self.own.push((*address).into()),
                // The peer's address for a point-to-point interface, else the same address again.
                AddressAttribute::Address(IpAddr::V4(address)) => {
                    let network = Ipv4Net::new(*address, message.header.prefix_len);
                    self.connected.extend(network.map(|network| network.trunc()));
                }
                _ => {}
            }
        }
    }

    /// A network of the host that shares addresses with `pool`.
    pub(super) fn conflict(&self, pool: Ipv4Net) -> Option<Ipv4Net> {
        let overlaps = |network: &&Ipv4Net| network.contains(&pool) || pool.contains(*network);
        self.connected.iter().find(overlaps).copied()
    }
}

/// Whether this is the address of a microVM's pair in the host. Those are in the pool, which is unreachable anyway.
fn is_of_a_pair(address: &AddressMessage) -> bool {
    let ours = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Label(name) if name.starts_with(PREFIX));
    address.attributes.iter().any(ours)
}

fn leads_into(route: &RouteMessage, interfaces: &[u32]) -> bool {
    let into = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(index) if interfaces.contains(index));
    route.attributes.iter().any(into)
}

/// The network that a route leads to, if it leads there without a router. A default route without a router (a tunnel's)
/// yields no network.
fn connected(route: &RouteMessage) -> Option<Ipv4Net> {
    let routed =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    let directly = route.attributes.iter().all(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| !hop.attributes.iter().any(routed)),
        attribute => !routed(attribute),
    });
    if directly { network(route) } else { None }
}

/// The network that a route leads to; none for a default route.
fn network(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let length = route.header.destination_prefix_length;
    (length > 0).then(|| Ipv4Net::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), length).ok())?
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteType;

    use super::*;

    fn address(local: [u8; 4], address: [u8; 4], prefix_length: u8, label: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.prefix_len = prefix_length;
        message.attributes = vec![
            AddressAttribute::Address(IpAddr::from(address)),
            AddressAttribute::Local(IpAddr::from(local)),
            AddressAttribute::Label(label.into()),
        ];
        message
    }

    fn route(destination: [u8; 4], prefix_length: u8, more: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = prefix_length;
        message.attributes = more;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination.into())));
        message
    }

    #[test]
    fn an_address_tells_of_its_network_or_of_the_other_end() {
        let mut found = Surroundings::default();
        found.add_address(&address([192, 0, 2, 9], [192, 0, 2, 9], 24, "eth0"));
        found.add_address(&address([10, 0, 0, 1], [10, 0, 0, 2], 32, "ppp0"));
        assert_eq!(found.own, ["192.0.2.9/32".parse().unwrap(), "10.0.0.1/32".parse().unwrap()]);
        assert_eq!(found.connected, ["192.0.2.0/24".parse().unwrap(), "10.0.0.2/32".parse().unwrap()]);
        assert_eq!(found.conflict("192.0.2.128/25".parse().unwrap()), Some("192.0.2.0/24".parse().unwrap()));
        assert_eq!(found.conflict("192.0.0.0/16".parse().unwrap()), Some("192.0.2.0/24".parse().unwrap()));
        assert_eq!(found.conflict("192.0.3.0/24".parse().unwrap()), None);
    }

    #[test]
    fn pairs_of_microvms_are_not_surroundings() {
        assert!(is_of_a_pair(&address([100, 96, 0, 0], [100, 96, 0, 0], 31, "hearth-0")));
        assert!(!is_of_a_pair(&address([100, 96, 0, 0], [100, 96, 0, 0], 31, "eth0")));
        assert!(leads_into(&route([100, 96, 0, 0], 31, vec![RouteAttribute::Oif(4)]), &[3, 4]));
        assert!(!leads_into(&route([100, 96, 0, 0], 31, vec![RouteAttribute::Oif(5)]), &[3, 4]));
    }

    #[test]
    fn only_routes_without_a_router_lead_to_connected_networks() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into()));
        assert_eq!(connected(&route([203, 0, 113, 0], 24, vec![])), Some("203.0.113.0/24".parse().unwrap()));
        assert_eq!(connected(&route([203, 0, 113, 0], 24, vec![gateway])), None);
        assert_eq!(connected(&route([0, 0, 0, 0], 0, vec![])), None, "a tunnel's default route");
    }
}
