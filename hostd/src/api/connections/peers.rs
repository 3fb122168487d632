//! How many connections each client has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use super::Peer;
use crate::panics::poisoned;

/// The bits of an IPv6 address that name its network: one client may have all addresses in it.
const NETWORK: u128 = !0 << 64;

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    /// An address, or a network of IPv6.
    Network(IpAddr),
    /// A user of this host.
    User(Option<u32>),
}

impl Owner {
    fn of(peer: Peer) -> Self {
        match peer {
            Peer::Network(address) => Self::Network(network(address.ip())),
            Peer::User(user) => Self::User(user),
        }
    }
}

/// The connections of each client that has any.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    most: usize,
    counts: Arc<Mutex<HashMap<Owner, usize>>>,
}

impl Peers {
    /// `most`: greatest number of connections of one client.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Counts a connection until the place is dropped; none if its client has too many.
    pub(crate) fn enter(&self, peer: Peer) -> Option<Place> {
        let owner = Owner::of(peer);
        let mut counts = self.counts.lock().unwrap_or_else(poisoned);
        let count = counts.get(&owner).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        counts.insert(owner, count.saturating_add(1));
        Some(Place { peers: self.clone(), owner })
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct Place {
    peers: Peers,
    owner: Owner,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(poisoned);
        if let Some(count) = counts.get_mut(&self.owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.owner);
            }
        }
    }
}

/// What stands for all addresses of a client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_places() {
        let peers = Peers::new(2);
        let enter =
            |address: &str| peers.enter(Peer::Network((address.parse::<IpAddr>().unwrap(), 1).into()));
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let six = (enter("2001:db8::1").unwrap(), enter("2001:db8::ffff:0:0:1").unwrap());
        assert!(enter("2001:db8::2").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(six);
        assert_eq!(peers.counts.lock().unwrap().len(), 2, "clients without connections take no room");
        let user = |user| peers.enter(Peer::User(user));
        let _root = (user(Some(0)).unwrap(), user(Some(0)).unwrap());
        assert!(user(Some(0)).is_none());
        assert!(user(Some(1)).is_some() && user(None).is_some());
    }
}
