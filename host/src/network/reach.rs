//! The rules of guests' networks, for connections that this process makes on behalf of others.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::netlink::Netlink;
use super::surroundings::Surroundings;
use super::{NetworkConfig, NetworkError, rules};

/// The addresses that guests may reach, and so may whatever is done for them by this process: fetching what a user names, for example.
///
/// An address is checked after its name was resolved, and the connection is made to that very address: a name that leads elsewhere the next
/// time leads nowhere new.
#[derive(Clone, Debug)]
pub struct Reach {
    never: Vec<Ipv4Net>,
    pool: Ipv4Net,
    surroundings: Surroundings,
    blocked: Vec<Ipv4Net>,
    allowed: Vec<Ipv4Net>,
}

impl Reach {
    /// The addresses that are within reach now: the host's own and its networks may change.
    ///
    /// # Errors
    /// The kernel does not say which addresses the host has.
    pub fn now(config: &NetworkConfig) -> Result<Self, NetworkError> {
        Ok(Self::beside(config, Surroundings::read(&mut Netlink::open()?)?))
    }

    fn beside(config: &NetworkConfig, surroundings: Surroundings) -> Self {
        Self {
            never: rules::never(config.pool),
            pool: config.pool,
            surroundings,
            blocked: config.blocked.clone(),
            allowed: config.allowed.clone(),
        }
    }

    /// What an address is that is out of reach, like `a private address`; none if it is within reach.
    #[must_use]
    pub fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) => address,
            // Guests have no IPv6 either. Its addresses can stand for those of IPv4 in more ways than can be listed.
            IpAddr::V6(address) if address.is_loopback() => return Some("a loopback address"),
            IpAddr::V6(_) => return Some("an IPv6 address"),
        };
        let within = |networks: &[Ipv4Net]| networks.iter().any(|network| network.contains(&address));
        if within(&self.never) {
            return Some(kind(address, self.pool));
        }
        if within(&self.surroundings.own) {
            return Some("an address of this host");
        }
        if within(&self.allowed) {
            return None;
        }
        if within(&self.surroundings.connected) {
            return Some("an address in a network of this host");
        }
        if within(&self.surroundings.elsewhere) {
            return Some(
                "an address in a network that the host reaches by another route than its default ones",
            );
        }
        within(&self.blocked).then(|| match address.is_private() {
            true => "a private address",
            false => "an address that guests may not reach",
        })
    }
}

/// What an address is that nobody may reach.
fn kind(address: Ipv4Addr, pool: Ipv4Net) -> &'static str {
    if address.is_loopback() {
        return "a loopback address";
    }
    if address.is_link_local() {
        return "a link-local address";
    }
    if pool.contains(&address) { "an address of microVMs" } else { "no address of a server" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(config: &NetworkConfig) -> Reach {
        let surroundings = Surroundings {
            own: vec!["198.51.100.7/32".parse().unwrap()],
            connected: vec!["198.51.100.0/24".parse().unwrap()],
            elsewhere: vec!["203.0.113.0/24".parse().unwrap()],
        };
        Reach::beside(config, surroundings)
    }

    #[test]
    fn what_guests_may_not_reach_is_refused_under_every_spelling() {
        let reach = reach(&NetworkConfig::default());
        for (address, what) in [
            ("127.0.0.1", Some("a loopback address")),
            ("127.255.0.9", Some("a loopback address")),
            ("::1", Some("a loopback address")),
            ("::ffff:127.0.0.1", Some("a loopback address")),
            ("0.0.0.0", Some("no address of a server")),
            ("224.0.0.1", Some("no address of a server")),
            ("255.255.255.255", Some("no address of a server")),
            ("169.254.169.254", Some("a link-local address")),
            ("::ffff:169.254.169.254", Some("a link-local address")),
            ("10.0.0.5", Some("a private address")),
            ("172.31.255.255", Some("a private address")),
            ("192.168.1.1", Some("a private address")),
            ("::ffff:10.0.0.5", Some("a private address")),
            ("100.64.0.1", Some("no address of a server")),
            ("100.127.0.1", Some("an address that guests may not reach")),
            ("100.96.1.2", Some("an address of microVMs")),
            ("168.63.129.16", Some("an address that guests may not reach")),
            ("198.51.100.7", Some("an address of this host")),
            ("198.51.100.8", Some("an address in a network of this host")),
            (
                "203.0.113.9",
                Some("an address in a network that the host reaches by another route than its default ones"),
            ),
            ("fd00::1", Some("an IPv6 address")),
            ("fe80::1", Some("an IPv6 address")),
            ("64:ff9b::a00:5", Some("an IPv6 address")),
            ("2606:4700::1", Some("an IPv6 address")),
            ("192.0.2.1", None),
            ("1.1.1.1", None),
            ("::ffff:1.1.1.1", None),
        ] {
            assert_eq!(reach.refuses(address.parse().unwrap()), what, "{address}");
        }
    }

    #[test]
    fn exceptions_are_those_of_guests() {
        let allowed = ["10.1.0.0/16", "127.0.0.0/8", "198.51.100.0/24", "169.254.0.0/16"];
        let allowed = allowed.map(|network| network.parse().unwrap()).to_vec();
        let reach = reach(&NetworkConfig { allowed, ..NetworkConfig::default() });
        let refused = |address: &str| reach.refuses(address.parse().unwrap()).is_some();
        assert!(!refused("10.1.2.3") && !refused("198.51.100.8"));
        for never in ["10.2.0.1", "127.0.0.1", "169.254.169.254", "198.51.100.7"] {
            assert!(refused(never), "{never}");
        }
    }

    #[test]
    fn the_hosts_own_addresses_are_read() {
        let reach = Reach::now(&NetworkConfig::default()).unwrap();
        assert!(reach.refuses("127.0.0.1".parse().unwrap()).is_some());
    }
}
