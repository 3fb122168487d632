//! A network namespace with a tap per microVM, and its packet filter.
//!
//! ```text
//!  guest eth0            namespace hearth-NAME                           host
//!  100.64.0.2 ── tap0 100.64.0.1 ─ uplink POOL+2·slot+1 ══ hearth-SLOT POOL+2·slot ── any interface
//!                        nft: policy, NAT                  nft: table inet hearth, NAT
//! ```
//!
//! All guests have the same addresses inside, so that clones of one snapshot find the network that they know. The rules in a
//! guest's own namespace (`rules.rs`), which live exactly as long as the namespace, decide what it may send: TCP and echo requests to
//! the internet; nothing over UDP, nothing to link-local addresses, the host, the networks the host is connected to, other microVMs
//! and configured ranges; no IPv6. Only answers come in. The host's own table `inet hearth`, the same for all microVMs, also protects
//! addresses that the host gets later, and networks that it joins later: nothing leaves but along the host's default routes
//! (`uplinks.rs`).
//!
//! Connections stay in the host's table of connections, which all share. Each guest and each account has a part of it (`limits.rs`). Whose a
//! network is says the group of its interface in the host ([`Owner`]): it is known when the network is taken from the pool, and goes with
//! the interface. A network without an owner counts to nobody's part, which is as large as an account's.
//!
//! Nothing depends on memory or files of the process that made a network: the namespace is found by its name below
//! `/run/netns` (`ip netns` shows it), its interfaces and rules are removed with it, and a slot is in use while the interface
//! `hearth-SLOT` exists. So [`Networks::sweep`] cleans up after an owner that was killed.
//!
//! All functions here block for some milliseconds: asynchronous callers use `spawn_blocking`.
//!
//! Not handled here: a host firewall that drops forwarded packets must accept packets from and to `hearth-*`.

mod config;
mod error;
mod limits;
mod namespace;
mod netlink;
mod nft;
mod reach;
mod rules;
mod setup;
mod surroundings;
mod uplinks;

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;

pub use config::NetworkConfig;
pub use error::NetworkError;
pub use limits::ConnectionLimits;
pub use reach::Reach;

use namespace::Namespace;
use netlink::{Netlink, Which};
use surroundings::Surroundings;
use uplinks::Watch;

/// Prefix of the names of namespaces, and of the interfaces in the host.
pub const PREFIX: &str = "hearth-";
/// Maximum length of a name in bytes.
pub const MAX_NAME: usize = 40;
/// The address of every guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
/// The default gateway of every guest.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Prefix length of the guest's and the gateway's address.
pub const PREFIX_LENGTH: u8 = 30;
/// The hardware address of every guest.
pub const GUEST_MAC: [u8; 6] = [0x06, b'h', b'r', b't', b'h', 2];
/// The hardware address of the gateway. It is constant, so that a restored guest still knows it.
pub const GATEWAY_MAC: [u8; 6] = [0x06, b'h', b'r', b't', b'h', 1];

/// The tap's name in its namespace.
const TAP: &str = "tap0";
/// Name of the interface of the pair that is in a namespace.
const UPLINK: &str = "uplink";
/// Entries that the host's table of connections may have.
const TABLE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// The egress policy of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Egress {
    /// The internet, within the limits of the configuration.
    Internet,
    /// No egress: the card exists, but its packets are dropped.
    None,
}

/// Whose connections those of a network are: a number, the group of its interface in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u32);

impl Owner {
    /// Nobody in particular: networks in a pool, and microVMs that the operator tries out by hand.
    pub const NOBODY: Self = Self(0);

    /// An account, by its twelve digits. Accounts whose numbers differ by a multiple of 2³¹ - 1 share their connections.
    #[must_use]
    pub fn of(account: &str) -> Self {
        let Ok(number) = account.parse::<u64>() else { return Self::NOBODY };
        // Groups are positive numbers of 31 bits, and 0 is that of all interfaces without another.
        Self(u32::try_from(number % u64::from(i32::MAX.unsigned_abs())).map_or(0, |number| number + 1))
    }
}

/// The networks of the microVMs of this host.
#[derive(Debug)]
pub struct Networks {
    config: NetworkConfig,
    limits: ConnectionLimits,
    _watch: Watch,
}

impl Networks {
    /// Prepares the host: the folder of namespaces, the tables `inet hearth` and `inet hearth_accounts` (each replaced in one step),
    /// forwarding. `accounts` is the number of accounts that divide the host's table of connections; none where somebody works by hand:
    /// the tables of a daemon then stay as they are, and exceptions of this configuration are added.
    ///
    /// # Errors
    /// [`NetworkError`]: this process lacks a privilege or the host a tool, the pool is in use by a network of the
    /// host, or the MTU is out of range.
    pub fn open(config: NetworkConfig, accounts: Option<usize>) -> Result<Self, NetworkError> {
        if !config::MTUS.contains(&config.mtu) {
            return Err(NetworkError::Mtu(config.mtu));
        }
        let surroundings = Surroundings::read(&mut Netlink::open()?)?;
        if let Some(network) = surroundings.conflict(config.pool) {
            return Err(NetworkError::PoolInUse { pool: config.pool, network });
        }
        namespace::prepare_folder()?;
        let stays = |table: &str| {
            Ok::<_, NetworkError>(accounts.is_none() && nft::comment(&config.nft, table)?.is_some())
        };
        let mut table = if stays(rules::HOST)? { rules::exceptions(&config) } else { rules::host(&config) };
        let program = config.nft.clone();
        // The first default routes come with the table, in one step: guests that run already notice nothing.
        let watch = Watch::start(move |uplinks| {
            nft::apply(&program, &(std::mem::take(&mut table) + &rules::uplinks(uplinks)))
        })?;
        // The kernel's connection tracking is there at the latest since there are rules that need it.
        let table = fs::read_to_string(TABLE).ok().and_then(|text| text.trim().parse().ok());
        let limits = ConnectionLimits::of(&config, table, accounts.unwrap_or(1));
        let (text, comment) = rules::accounts(&limits);
        if !stays(rules::ACCOUNTS)? && nft::comment(&config.nft, rules::ACCOUNTS)? != Some(comment) {
            nft::apply(&config.nft, &text)?;
        }
        setup::enable_forwarding()?;
        Ok(Self { config, limits, _watch: watch })
    }

    /// How many connections accounts and guests may have.
    #[must_use]
    pub fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Says whose the connections of the network of this slot are.
    ///
    /// # Errors
    /// There is no such network.
    pub fn assign(&self, slot: u16, owner: Owner) -> Result<(), NetworkError> {
        Netlink::open()?.set_group(&Which::Name(&setup::interface(slot)), owner.0)
    }

    /// Says whose the connections of a network are that another process has made. One without egress has none.
    ///
    /// # Errors
    /// The network's namespace or interface cannot be used.
    pub fn assign_by_name(&self, name: &str, owner: Owner) -> Result<(), NetworkError> {
        let namespace = Namespace::named(name)?;
        namespace::on_thread(|| {
            let mut outside = Netlink::open()?;
            let entered = namespace.enter()?;
            match if entered { Netlink::open()?.peer(UPLINK)? } else { None } {
                Some(index) => outside.set_group(&Which::Index(index), owner.0),
                None => Ok(()),
            }
        })
    }

    /// Makes the network of the microVM `name` (1 to 40 of `a-z A-Z 0-9 _ -`), after removing what is left of an
    /// earlier one of that name. The first free slot of the pool is taken.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub fn create(&self, name: &str, egress: Egress) -> Result<MicrovmNetwork, NetworkError> {
        let namespace = Namespace::named(name)?;
        remove(&namespace)?;
        let made = namespace::on_thread(|| setup::microvm((&self.config, &self.limits), &namespace, egress));
        match made {
            Ok((tap, slot)) => Ok(MicrovmNetwork { namespace, tap, slot, mtu: self.config.mtu }),
            Err(error) => {
                // The first error is the one to return; a sweep removes what may be left now.
                let _ = remove(&namespace);
                Err(error)
            }
        }
    }

    /// The names of all networks on this host.
    ///
    /// # Errors
    /// The folder of namespaces cannot be read.
    pub fn names(&self) -> Result<Vec<String>, NetworkError> {
        namespace::names()
    }

    /// Removes a network in any state; it need not exist. The guest's connections break, and its tap stops working.
    ///
    /// # Errors
    /// A part of the network could not be removed.
    pub fn remove_by_name(&self, name: &str) -> Result<(), NetworkError> {
        remove_by_name(name)
    }

    /// Removes all networks but those that `keep` names, and returns the names of those removed.
    ///
    /// # Errors
    /// The error of the first network that could not be removed; the others are removed all the same.
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

/// A microVM's network. Dropping this value does not remove it.
#[derive(Debug)]
pub struct MicrovmNetwork {
    namespace: Namespace,
    tap: File,
    slot: Option<u16>,
    mtu: u16,
}

impl MicrovmNetwork {
    /// The name of the network, without the prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// The tap with the settings that a monitor needs (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, non-blocking). The interface exists
    /// while one of its descriptors is open.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn tap(&self) -> io::Result<File> {
        self.tap.try_clone()
    }

    /// The hardware address of the guest's card; packets with another one are dropped.
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

    /// Index of the network's pair of addresses in the pool; none without egress.
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// Removes the network.
    ///
    /// # Errors
    /// A part of the network could not be removed.
    pub fn remove(self) -> Result<(), NetworkError> {
        remove(&self.namespace)
    }
}

/// [`Networks::remove_by_name`] on a host that need not be prepared.
///
/// # Errors
/// A part of the network could not be removed.
pub fn remove_by_name(name: &str) -> Result<(), NetworkError> {
    remove(&Namespace::named(name)?)
}

/// Removes the interfaces before the namespace: the namespace lives on while a monitor holds the tap, and the interface in the
/// host would live on with it.
fn remove(namespace: &Namespace) -> Result<(), NetworkError> {
    namespace::on_thread(|| match namespace.enter()? {
        true => setup::remove_links(namespace.name()),
        false => Ok(()),
    })?;
    namespace.unlink()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_has_a_number_and_what_is_none_is_nobodys() {
        assert_eq!(Owner::of("111122223333"), Owner(1_600_557_337));
        assert_eq!((Owner::of("000000000000"), Owner::of("000000000001")), (Owner(1), Owner(2)));
        for none in ["", "local", "-1"] {
            assert_eq!(Owner::of(none), Owner::NOBODY);
        }
    }
}
