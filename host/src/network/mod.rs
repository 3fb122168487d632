//! A network namespace with a tap per microVM, and what may pass it.
//!
//! ```text
//!  guest eth0            namespace hearth-NAME                           host
//!  100.64.0.2 ── tap0 100.64.0.1 ─ uplink POOL+2·slot+1 ══ hearth-SLOT POOL+2·slot ── any interface
//!                        nft: policy, NAT                  nft: table inet hearth, NAT
//! ```
//!
//! All guests have the same addresses inside, so that clones of one snapshot find the network that they know. What a
//! guest may send is decided by rules in its own namespace (`rules.rs`), which live exactly as long as it does: TCP
//! and echo requests to the internet; nothing over UDP, nothing to link-local addresses, the host, the networks
//! the host is connected to, other microVMs and configured ranges; no IPv6. Nothing comes in but answers. The host's own
//! table `inet hearth`, the same for all microVMs, holds also against addresses that the host gets later.
//!
//! Nothing depends on memory or files of the process that made a network: the namespace is found by its name below
//! `/run/netns` (`ip netns` shows it), its interfaces and rules go with it, and a slot is in use while the interface
//! `hearth-SLOT` exists. So [`Networks::sweep`] cleans up after a killed owner.
//!
//! Everything here blocks – for milliseconds: asynchronous callers use `spawn_blocking`.
//!
//! Not ours: a host firewall that drops forwarded packets must let pass what comes from and goes to `hearth-*`.

mod config;
mod error;
mod namespace;
mod netlink;
mod nft;
mod rules;
mod setup;
mod surroundings;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;

pub use config::NetworkConfig;
pub use error::NetworkError;

use namespace::Namespace;
use netlink::Netlink;
use surroundings::Surroundings;

/// Before the names of namespaces, and of the interfaces in the host.
pub const PREFIX: &str = "hearth-";
/// A name's greatest length in bytes.
pub const MAX_NAME: usize = 40;
/// The address of every guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
/// Its default gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// The prefix length of both.
pub const PREFIX_LENGTH: u8 = 30;
/// The hardware address of every guest.
pub const GUEST_MAC: [u8; 6] = [0x06, b'h', b'r', b't', b'h', 2];
/// The hardware address of its gateway, which it knows from before a restore.
pub const GATEWAY_MAC: [u8; 6] = [0x06, b'h', b'r', b't', b'h', 1];

/// The tap's name in its namespace.
const TAP: &str = "tap0";
/// The name of the pair's end in a namespace.
const UPLINK: &str = "uplink";

/// What a guest may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Egress {
    /// The internet, as far as the configuration lets it.
    Internet,
    /// Nothing: the card is there, its packets go nowhere.
    None,
}

/// The networks of the microVMs of this host.
#[derive(Debug)]
pub struct Networks {
    config: NetworkConfig,
}

impl Networks {
    /// Prepares the host: the folder of namespaces, the table `inet hearth` (replaced in one step), forwarding.
    ///
    /// # Errors
    /// [`NetworkError`]: this process lacks a privilege or the host a tool, the pool is in use by a network of the
    /// host, or the MTU is out of range.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        if !config::MTUS.contains(&config.mtu) {
            return Err(NetworkError::Mtu(config.mtu));
        }
        let surroundings = Surroundings::read(&mut Netlink::open()?)?;
        if let Some(network) = surroundings.conflict(config.pool) {
            return Err(NetworkError::PoolInUse { pool: config.pool, network });
        }
        namespace::prepare_folder()?;
        nft::apply(&config.nft, &rules::host(config.pool))?;
        setup::enable_forwarding()?;
        Ok(Self { config })
    }

    /// Makes the network of the microVM `name` (1 to 40 of `a-z A-Z 0-9 _ -`), after removing what is left of an
    /// earlier one of that name. The first free slot of the pool is taken.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub fn create(&self, name: &str, egress: Egress) -> Result<MicrovmNetwork, NetworkError> {
        let namespace = Namespace::named(name)?;
        remove(&namespace)?;
        let made = namespace::on_thread(|| setup::microvm(&self.config, &namespace, egress));
        match made {
            Ok((tap, slot)) => Ok(MicrovmNetwork { namespace, tap, slot, mtu: self.config.mtu }),
            Err(error) => {
                // The first error is the one to tell; a sweep gets what is left now.
                let _ = remove(&namespace);
                Err(error)
            }
        }
    }

    /// The names of all networks there are on this host.
    ///
    /// # Errors
    /// When the folder of namespaces cannot be read.
    pub fn names(&self) -> Result<Vec<String>, NetworkError> {
        namespace::names()
    }

    /// Removes a network, in whatever state it is; it may be gone already. Connections of the guest end here, and
    /// its tap is dead.
    ///
    /// # Errors
    /// When something of it could not be removed.
    pub fn remove_by_name(&self, name: &str) -> Result<(), NetworkError> {
        remove(&Namespace::named(name)?)
    }

    /// Removes all networks but those that `keep` names, and returns the names of those removed.
    ///
    /// # Errors
    /// The first one that could not be removed; the others are removed all the same.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<String>, NetworkError> {
        let mut removed = Vec::new();
        let mut first_error = None;
        for name in self.names()?.into_iter().filter(|name| !keep(name)) {
            match self.remove_by_name(&name) {
                Ok(()) => removed.push(name),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(removed), Err)
    }
}

/// A microVM's network. It stays when this value is dropped.
#[derive(Debug)]
pub struct MicrovmNetwork {
    namespace: Namespace,
    tap: File,
    slot: Option<u16>,
    mtu: u16,
}

impl MicrovmNetwork {
    /// Its name, without the prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// The tap as a monitor wants it (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, non-blocking). The interface exists
    /// while one of its descriptors is open.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn tap(&self) -> io::Result<File> {
        self.tap.try_clone()
    }

    /// The hardware address for the guest's card; packets with another are dropped.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        GUEST_MAC
    }

    /// The guest's address with its prefix length.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{GUEST}/{PREFIX_LENGTH}")
    }

    /// The guest's default gateway.
    #[must_use]
    pub fn gateway(&self) -> String {
        GATEWAY.to_string()
    }

    /// The MTU of the guest's card in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Which pair of the pool's addresses it has; none without egress.
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something of it could not be removed.
    pub fn remove(self) -> Result<(), NetworkError> {
        remove(&self.namespace)
    }
}

/// Takes the interfaces away before the namespace: that lives on while a monitor has the tap, and with it the
/// interface in the host would.
fn remove(namespace: &Namespace) -> Result<(), NetworkError> {
    namespace::on_thread(|| match namespace.enter()? {
        true => setup::remove_links(namespace.name()),
        false => Ok(()),
    })?;
    namespace.unlink()
}
