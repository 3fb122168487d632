//! Network devices, addresses and routes (rtnetlink(7)).

mod connections;
mod message;
mod socket;

use std::ffi::CString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use hearth_proto::guest::v1::Network;

use crate::refusal::{Context as _, Refusal};
pub use connections::Connections;
use message::{Message, attributes, u32_at};
use socket::Socket;

/// The guest's network card.
pub const CARD: &str = "eth0";

/// Attributes of links (linux/if_link.h).
const IFLA_MTU: u16 = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;
/// Attributes of addresses (linux/if_addr.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Attributes of routes (linux/rtnetlink.h).
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const UP: u32 = 1;
const AF_INET: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

/// Devices, addresses and routes of the calling thread's network namespace.
#[derive(Debug)]
pub struct Routes(Socket);

impl Routes {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// A system call failed.
    pub fn open() -> io::Result<Self> {
        Socket::open(libc::NETLINK_ROUTE).map(Self)
    }

    /// Brings a device up; sets its MTU unless `mtu` is 0.
    ///
    /// # Errors
    /// A system call failed.
    pub fn bring_up(&mut self, device: u32, mtu: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link(device, UP, UP);
        if mtu != 0 {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.0.request(message)
    }

    /// Makes a pair of devices that are connected with each other: `name` here, `peer` in another network namespace.
    ///
    /// # Errors
    /// A system call failed.
    pub fn add_pair(&mut self, name: &str, peer: &str, namespace: impl AsFd) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        message.link(0, 0, 0);
        message.text(IFLA_IFNAME, name);
        message.nested(IFLA_LINKINFO, |message| {
            message.text(IFLA_INFO_KIND, "veth");
            message.nested(IFLA_INFO_DATA, |message| {
                message.nested(VETH_INFO_PEER, |message| {
                    message.link(0, 0, 0);
                    message.text(IFLA_IFNAME, peer);
                    message.attribute(IFLA_NET_NS_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.0.request(message)
    }

    /// Adds an address to a device.
    ///
    /// # Errors
    /// A system call failed.
    pub fn add_address(&mut self, device: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        message.address(device, prefix);
        message.attribute(IFA_LOCAL, &address.octets());
        message.attribute(IFA_ADDRESS, &address.octets());
        if prefix < 31 {
            let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
            let broadcast = Ipv4Addr::from(u32::from(address) | host_bits);
            message.attribute(IFA_BROADCAST, &broadcast.octets());
        }
        self.0.request(message)
    }

    /// Removes all IPv4 addresses from a device, and with them the routes over it.
    ///
    /// # Errors
    /// A system call failed.
    pub fn remove_addresses(&mut self, device: u32) -> io::Result<()> {
        let mut dump = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP);
        dump.address(0, 0);
        for entry in self.0.dump(dump)? {
            // struct ifaddrmsg: family, prefix length, flags, scope, then the device's index.
            let prefix = entry.get(1).copied().unwrap_or_default();
            let here = entry.first() == Some(&AF_INET) && u32_at(&entry, 4) == Some(device);
            let local = attributes(entry.get(8..).unwrap_or_default()).find(|(kind, _)| *kind == IFA_LOCAL);
            if let Some((_, address)) = local.filter(|_| here) {
                let mut message = Message::new(libc::RTM_DELADDR, 0);
                message.address(device, prefix);
                message.attribute(IFA_LOCAL, address);
                self.0.request(message)?;
            }
        }
        Ok(())
    }

    /// Makes this gateway the default route.
    ///
    /// # Errors
    /// A system call failed.
    pub fn set_default_route(&mut self, device: u32, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        message.route(0, RT_TABLE_MAIN, RTPROT_STATIC, SCOPE_UNIVERSE, RTN_UNICAST);
        message.attribute(RTA_OIF, &device.to_ne_bytes());
        message.attribute(RTA_GATEWAY, &gateway.octets());
        self.0.request(message)
    }

    /// Adds a route to one address over this device.
    ///
    /// # Errors
    /// A system call failed.
    pub fn add_host_route(&mut self, device: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        message.route(32, RT_TABLE_MAIN, RTPROT_STATIC, SCOPE_LINK, RTN_UNICAST);
        message.attribute(RTA_DST, &address.octets());
        message.attribute(RTA_OIF, &device.to_ne_bytes());
        self.0.request(message)
    }
}

/// The index of a device in the calling thread's network namespace.
///
/// # Errors
/// There is no such device.
pub fn device(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the pointer is to a string that lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Configures the guest's network card, and replaces its previous configuration.
///
/// # Errors
/// An address is invalid, there is no card, or the kernel refuses a change.
pub fn configure_card(network: &Network) -> Result<(), Refusal> {
    let (address, prefix) = parse_address(&network.address)?;
    let gateway: Option<Ipv4Addr> = match network.gateway.as_str() {
        "" => None,
        gateway => {
            let wrong = |_| Refusal::invalid(format!("the gateway {gateway:?} is no IPv4 address"));
            Some(gateway.parse().map_err(wrong)?)
        }
    };
    let card = device(CARD)
        .map_err(|error| Refusal::not_found(format!("the microVM has no network card {CARD}: {error}")))?;
    let configure = || {
        let mut routes = Routes::open()?;
        routes.remove_addresses(card)?;
        routes.bring_up(card, network.mtu)?;
        routes.add_address(card, address, prefix)?;
        gateway.map_or(Ok(()), |gateway| routes.set_default_route(card, gateway))
    };
    configure().or_refuse(|| format!("configuring {CARD}"))
}

/// Parses an IPv4 address with the length of its prefix.
///
/// # Errors
/// The text is no such address.
pub fn parse_address(text: &str) -> Result<(Ipv4Addr, u8), Refusal> {
    let parts = text.split_once('/').and_then(|(address, prefix)| {
        Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
    });
    parts.ok_or_else(|| {
        Refusal::invalid(format!("{text:?} is no IPv4 address with a prefix length, like 100.64.0.2/30"))
    })
}

#[cfg(test)]
mod tests;
