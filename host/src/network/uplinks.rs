//! The ways from the host to the internet: its default routes.
//!
//! What leads anywhere else is a network that the host has joined – another interface, an address on the same one, a VPN –, whenever that
//! was. The kernel decides for each packet, by the route that it takes (`rules.rs`); only the list of default routes comes from here, and a
//! thread keeps it up to date. While it is behind, a guest reaches less and not more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, PipeWriter};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteVia};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::NetworkError;
use super::error::system;
use super::netlink::{Netlink, Routes};

/// Pause before the list is read again after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// The default routes of the main table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uplinks {
    /// Routers, with the interfaces that they are behind.
    pub(super) routers: BTreeSet<(String, Ipv4Addr)>,
    /// Interfaces that lead to the internet without a router, as tunnels do.
    pub(super) tunnels: BTreeSet<String>,
}

impl Uplinks {
    /// Reads the routes from the kernel.
    pub(super) fn read(netlink: &mut Netlink) -> Result<Self, NetworkError> {
        let routes = netlink.unicast_routes()?;
        let interfaces = netlink.interfaces()?;
        Ok(Self::of(&routes, &interfaces))
    }

    /// Says in the log where guests' packets may go.
    fn tell(&self) {
        if self.routers.is_empty() && self.tunnels.is_empty() {
            tracing::warn!(
                "the host has no default route in its main table: guests reach nothing outside. Where the internet is reached by other \
                 routes – those of a VPN to 0.0.0.0/1 and 128.0.0.0/1, or a table of its own – add one with a high metric: \
                 ip route add default dev INTERFACE metric 32000"
            );
            return;
        }
        let routers = self.routers.iter().map(|(interface, router)| format!("{router} on {interface}"));
        let ways: Vec<String> = routers.chain(self.tunnels.iter().cloned()).collect();
        tracing::info!(ways = ways.join(", "), "guests reach the internet by the host's default routes");
    }

    /// Whether all ways of a route are among these.
    pub(super) fn have(&self, route: &RouteMessage, interfaces: &BTreeMap<u32, String>) -> bool {
        let mut ways = Self::default();
        ways.add_route(route, interfaces);
        ways.routers.is_subset(&self.routers) && ways.tunnels.is_subset(&self.tunnels)
    }

    pub(super) fn of(routes: &[RouteMessage], interfaces: &BTreeMap<u32, String>) -> Self {
        let mut found = Self::default();
        for route in routes.iter().filter(|route| is_default(route)) {
            found.add_route(route, interfaces);
        }
        found
    }

    fn add_route(&mut self, route: &RouteMessage, interfaces: &BTreeMap<u32, String>) {
        self.add(None, &route.attributes, interfaces);
        for attribute in &route.attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                hops.iter().for_each(|hop| self.add(Some(hop.interface_index), &hop.attributes, interfaces));
            }
        }
    }

    fn add(&mut self, index: Option<u32>, hop: &[RouteAttribute], interfaces: &BTreeMap<u32, String>) {
        let oif = hop.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let Some(name) = index.or(oif).and_then(|index| interfaces.get(&index)) else { return };
        let router = hop.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(router))
            | RouteAttribute::Via(RouteVia::Inet(router)) => Some(*router),
            _ => None,
        });
        match router {
            Some(router) => drop(self.routers.insert((name.clone(), router))),
            // The kernel takes a packet's destination for its router where there is none that has an IPv4 address.
            None => drop(self.tunnels.insert(name.clone())),
        }
    }
}

/// Whether a route is a default route of the main table.
pub(super) fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN
}

/// A thread that calls a function whenever the default routes have changed. Dropping this ends it.
#[derive(Debug)]
pub(super) struct Watch {
    /// Closed to end the thread.
    alive: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `apply` with the routes of this thread's namespace, and from then on, on a thread of its own, when they have changed; again
    /// after a pause if it fails.
    pub(super) fn start(
        mut apply: impl FnMut(&Uplinks) -> Result<(), NetworkError> + Send + 'static,
    ) -> Result<Self, NetworkError> {
        let (end, alive) = io::pipe().map_err(system("make a pipe"))?;
        // What changes from here on is noticed below.
        let routes = Routes::follow()?;
        let first = Uplinks::read(&mut Netlink::open()?)?;
        apply(&first)?;
        first.tell();
        let mut known = Some(first);
        let work = move || {
            loop {
                let mut files = [
                    PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN),
                    PollFd::from_borrowed_fd(routes.as_fd(), PollFlags::IN),
                ];
                let again = Timespec { tv_sec: AGAIN.as_secs().cast_signed(), tv_nsec: 0 };
                // An interrupted call is made again.
                let _ = poll(&mut files, known.is_none().then_some(&again));
                if !files[0].revents().is_empty() {
                    return;
                }
                if !routes.default_has_changed() && known.is_some() {
                    continue;
                }
                let now = Netlink::open().and_then(|mut netlink| Uplinks::read(&mut netlink));
                let was_known = known.is_some();
                known = match now.and_then(|now| {
                    if known.as_ref() != Some(&now) {
                        apply(&now)?;
                        now.tell();
                    }
                    Ok(now)
                }) {
                    Ok(now) => Some(now),
                    Err(error) => {
                        if was_known {
                            tracing::warn!(
                                %error,
                                "the host's default routes cannot be followed: until they are, guests reach what they led to before, or less"
                            );
                        }
                        None
                    }
                };
            }
        };
        let thread = thread::Builder::new().name("routes".into()).spawn(work);
        Ok(Self { alive: Some(alive), thread: Some(thread.map_err(system("start a thread"))?) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic has been reported
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::{RouteNextHop, RouteType};

    use super::*;

    fn route(table: u8, prefix_length: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.header.table = table;
        message.header.destination_prefix_length = prefix_length;
        message.attributes = attributes;
        message
    }

    #[test]
    fn routers_and_tunnels_of_default_routes_are_found() {
        let router = |last: u8| RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, last].into()));
        let hop = |index, attributes| {
            let mut hop = RouteNextHop::default();
            (hop.interface_index, hop.attributes) = (index, attributes);
            hop
        };
        let (main, other) = (RouteHeader::RT_TABLE_MAIN, 77);
        let routes = [
            route(main, 0, vec![RouteAttribute::Oif(1), router(1)]),
            route(main, 0, vec![RouteAttribute::MultiPath(vec![hop(2, vec![router(2)]), hop(3, vec![])])]),
            route(main, 24, vec![RouteAttribute::Oif(1), router(9)]),
            route(other, 0, vec![RouteAttribute::Oif(1), router(9)]),
            route(main, 0, vec![RouteAttribute::Oif(99), router(9)]),
        ];
        let interfaces = [(1, "one"), (2, "two"), (3, "three")];
        let interfaces = interfaces.map(|(index, name)| (index, name.to_owned())).into();
        let found = Uplinks::of(&routes, &interfaces);
        let routers = [("one".to_owned(), [192, 0, 2, 1].into()), ("two".to_owned(), [192, 0, 2, 2].into())];
        assert_eq!(found, Uplinks { routers: routers.into(), tunnels: ["three".to_owned()].into() });
        // What leads elsewhere by the same ways is the internet's, and by others is not.
        let has = |attributes| found.have(&route(main, 24, attributes), &interfaces);
        assert!(has(vec![RouteAttribute::Oif(1), router(1)]) && has(vec![RouteAttribute::Oif(3)]));
        assert!(!has(vec![RouteAttribute::Oif(1), router(9)]) && !has(vec![RouteAttribute::Oif(1)]));
    }
}
