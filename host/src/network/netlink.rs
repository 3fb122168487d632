//! Requests to rtnetlink, one after the other, over a socket in the namespace of its thread.
//!
//! The crate `rtnetlink` would need an async runtime in every namespace's thread; the messages are of the same family of crates.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::thread;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::NetworkError;
use super::error::{refused, system};
use super::uplinks::is_default;

/// How often a list that changed while it was read is read again.
const TRIES: u32 = 16;
/// How often, and at which interval, it is checked whether an interface is running.
const RUNNING_POLLS: u32 = 5000;
const RUNNING_POLL: Duration = Duration::from_millis(1);

/// The kernel's group for changes of IPv4 routes (rtnetlink.h).
const RTNLGRP_IPV4_ROUTE: u32 = 7;

/// A socket to rtnetlink.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One end of a pair of interfaces.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
}

impl Netlink {
    /// Opens a socket in the namespace of this thread.
    pub(super) fn open() -> Result<Self, NetworkError> {
        let failed = || system("open a netlink socket");
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed())?;
        socket.bind_auto().map_err(failed())?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and passes every answer to `each` until the last.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut interrupted = false;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                        return if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
                    }
                    _ => {}
                }
            }
        }
    }

    fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags, |_| ())
    }

    fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        choose: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut tries = TRIES;
        loop {
            let mut found = Vec::new();
            match self.exchange(message.clone(), NLM_F_DUMP, |answer| found.extend(choose(answer))) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries > 0 => tries -= 1,
                result => return result.map(|()| found),
            }
        }
    }

    /// The index of an interface; none if it does not exist.
    pub(super) fn index(&mut self, name: &str) -> Result<Option<u32>, NetworkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let mut index = None;
        let result = self.exchange(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                index = Some(link.header.index);
            }
        });
        match result {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
            result => result.map(|()| index).map_err(refused(format!("look for the interface {name}"))),
        }
    }

    /// Makes a pair of interfaces, both down, one of them in the namespace `other`; false if the name there is taken.
    pub(super) fn add_pair(
        &mut self,
        here: &End<'_>,
        there: &End<'_>,
        other: RawFd,
        mtu: u16,
    ) -> Result<bool, NetworkError> {
        let mut peer = LinkMessage::default();
        peer.attributes = end(there, mtu);
        peer.attributes.push(LinkAttribute::NetNsFd(other));
        let mut link = LinkMessage::default();
        link.attributes = end(here, mtu);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        match self.order(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => Ok(false),
            Err(error) => {
                Err(refused(format!("make the interfaces {} and {}", here.name, there.name))(error))
            }
        }
    }

    /// Sets an interface's hardware address and MTU; a new tap has a random address.
    pub(super) fn set_identity(&mut self, index: u32, tap: &End<'_>, mtu: u16) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.extend([LinkAttribute::Address(tap.mac.to_vec()), LinkAttribute::Mtu(mtu.into())]);
        self.order(RouteNetlinkMessage::SetLink(link), 0).map_err(refused(format!("set up {}", tap.name)))
    }

    /// Keeps IPv6 from giving the interface an address.
    pub(super) fn without_ipv6_address(&mut self, index: u32) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        match self.order(RouteNetlinkMessage::SetLink(link), 0) {
            // A kernel without IPv6 assigns no such address.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => Ok(()),
            result => result.map_err(refused(format!("turn IPv6 off for interface {index}"))),
        }
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, index: u32) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.order(RouteNetlinkMessage::SetLink(link), 0)
            .map_err(refused(format!("bring interface {index} up")))
    }

    /// Waits until an interface that is up can send: packets before that are lost. The kernel starts the interface by itself when its
    /// peer has come up, and since Linux 6.8 at the latest when it is queried.
    pub(super) fn wait_until_running(&mut self, index: u32) -> Result<(), NetworkError> {
        let what = || refused(format!("start interface {index}"));
        for _ in 0..RUNNING_POLLS {
            let mut message = LinkMessage::default();
            message.header.index = index;
            let mut running = false;
            self.exchange(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
                if let RouteNetlinkMessage::NewLink(link) = answer {
                    running |= link.attributes.contains(&LinkAttribute::OperState(State::Up));
                }
            })
            .map_err(what())?;
            if running {
                return Ok(());
            }
            thread::sleep(RUNNING_POLL);
        }
        Err(what()(io::ErrorKind::TimedOut.into()))
    }

    /// Removes an interface; it need not exist.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        match self.order(RouteNetlinkMessage::DelLink(link), 0) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(()),
            result => result.map_err(refused(format!("remove the interface {name}"))),
        }
    }

    /// Adds an address to an interface.
    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix_length: u8,
    ) -> Result<(), NetworkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix_length;
        message.header.index = index;
        message
            .attributes
            .extend([AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())]);
        self.order(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(refused(format!("add the address {address}/{prefix_length}")))
    }

    /// Sets the hardware address of a neighbour permanently: no ARP request is sent for it, and it does not count in the table that all
    /// namespaces share.
    pub(super) fn add_neighbour(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.extend([
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ]);
        self.order(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(refused(format!("add the neighbour {address}")))
    }

    /// Adds the default route.
    pub(super) fn add_default_route(&mut self, index: u32, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message
            .attributes
            .extend([RouteAttribute::Gateway(RouteAddress::Inet(gateway)), RouteAttribute::Oif(index)]);
        self.order(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(refused("add the default route"))
    }

    /// Puts an interface into a group, which rules can match.
    pub(super) fn set_group(&mut self, link: &Which<'_>, group: u32) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        match link {
            Which::Index(index) => message.header.index = *index,
            Which::Name(name) => message.attributes.push(LinkAttribute::IfName((*name).into())),
        }
        message.attributes.push(LinkAttribute::Group(group));
        self.order(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(refused(format!("say whose the interface {link:?} is")))
    }

    /// The index of the other end of a pair, in the namespace that it is in; none if the interface does not exist or is no pair's.
    pub(super) fn peer(&mut self, name: &str) -> Result<Option<u32>, NetworkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let mut peer = None;
        let result = self.exchange(RouteNetlinkMessage::GetLink(message), NLM_F_ACK, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                peer = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::Link(index) => Some(*index),
                    _ => None,
                });
            }
        });
        match result {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
            result => result.map(|()| peer).map_err(refused(format!("look for the interface {name}"))),
        }
    }

    /// The names of all interfaces by their indexes.
    pub(super) fn interfaces(&mut self) -> Result<BTreeMap<u32, String>, NetworkError> {
        let name = |link: LinkMessage| {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some((link.header.index, name?))
        };
        let found = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => name(link),
            _ => None,
        });
        Ok(found.map_err(refused("list the interfaces"))?.into_iter().collect())
    }

    /// All IPv4 addresses.
    pub(super) fn addresses(&mut self) -> Result<Vec<AddressMessage>, NetworkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        self.dump(&RouteNetlinkMessage::GetAddress(message), |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })
        .map_err(refused("list the addresses"))
    }

    /// All IPv4 routes to hosts and networks behind interfaces.
    pub(super) fn unicast_routes(&mut self) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        self.dump(&RouteNetlinkMessage::GetRoute(message), |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => Some(route),
            _ => None,
        })
        .map_err(refused("list the routes"))
    }
}

/// An interface.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which<'a> {
    /// The one with this index.
    Index(u32),
    /// The one of this name.
    Name(&'a str),
}

/// A socket on which the kernel reports changes of IPv4 routes.
pub(super) struct Routes(Socket);

impl Routes {
    /// Follows the routes of this thread's namespace from now on.
    pub(super) fn follow() -> Result<Self, NetworkError> {
        let Netlink { socket, .. } = Netlink::open()?;
        let followed = socket.add_membership(RTNLGRP_IPV4_ROUTE).and_then(|()| socket.set_non_blocking(true));
        followed.map_err(system("follow the host's routes"))?;
        Ok(Self(socket))
    }

    /// Whether a default route has come or gone since the last call, or the kernel had more to report than there was room for. Does not
    /// wait.
    pub(super) fn default_has_changed(&self) -> bool {
        let mut changed = false;
        loop {
            match self.0.recv_from_full() {
                Ok((bytes, _)) => {
                    changed |= match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
                        .map(|it| it.payload)
                    {
                        Ok(NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
                        )) => is_default(&route),
                        Ok(_) => false,
                        Err(_) => true,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: reports are lost.
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Routes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn end(end: &End<'_>, mtu: u16) -> Vec<LinkAttribute> {
    vec![
        LinkAttribute::IfName(end.name.into()),
        LinkAttribute::Address(end.mac.to_vec()),
        LinkAttribute::Mtu(mtu.into()),
    ]
}
