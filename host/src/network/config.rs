//! The operator's configuration of networks.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// MTUs that a guest's card may have: from IPv6's minimum, which every network supports, to Ethernet's.
pub(super) const MTUS: RangeInclusive<u16> = MTU_MIN..=MTU_MAX;
const MTU_MIN: u16 = 1280;
const MTU_MAX: u16 = 1500;
/// Parts of the host's table of connections that an account may have, in percent.
const SHARES: RangeInclusive<u8> = SHARE_MIN..=SHARE_MAX;
const SHARE_MIN: u8 = 1;
const SHARE_MAX: u8 = 75;

/// Networks of microVMs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Addresses between the host and microVMs, two for each: a /16 has room for 32,768 microVMs.
    #[schemars(with = "String")]
    pub pool: Ipv4Net,
    /// Ranges that microVMs never reach, beside link-local, multicast, loopback and reserved ones, the pool, the host's
    /// addresses and its networks.
    #[schemars(with = "Vec<String>")]
    pub blocked: Vec<Ipv4Net>,
    /// Exceptions of `blocked` and of the host's networks, which are all that its default routes do not lead to; never of the rest.
    #[schemars(with = "Vec<String>")]
    pub allowed: Vec<Ipv4Net>,
    /// MTU of guests' cards in bytes. If the host's uplink has a smaller one, TCP's path MTU discovery adapts.
    #[schemars(range(min = MTU_MIN, max = MTU_MAX))]
    pub mtu: u16,
    /// Connections that a guest may have at once: they are in the host's table of all guests' connections.
    pub connections: u32,
    /// Connections that a guest may open per second, and twice as many in a burst: closed ones stay in that table for
    /// 20 seconds, and up to 30 until the kernel removes them.
    pub connection_rate: u32,
    /// Part of that table (the host's `nf_conntrack_max`) that an account's microVMs and builds may fill together, in percent.
    /// A third of it is for open connections; the rest gives the rate of new ones. A guest has no more than its account.
    /// Unless given, the accounts of the configuration divide three quarters of the table, and none has less than 6 %.
    #[schemars(range(min = SHARE_MIN, max = SHARE_MAX))]
    pub account_share: Option<u8>,
    /// The program `nft`, 1.0.6 or newer: a path, or a name to look up in PATH.
    pub nft: PathBuf,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            pool: network([100, 96, 0, 0], 16),
            blocked: vec![
                network([10, 0, 0, 0], 8),
                network([100, 64, 0, 0], 10),
                network([168, 63, 129, 16], 32),
                network([172, 16, 0, 0], 12),
                network([192, 0, 0, 0], 24),
                network([192, 168, 0, 0], 16),
            ],
            allowed: Vec::new(),
            mtu: 1500,
            connections: 4096,
            connection_rate: 500,
            account_share: None,
            nft: "nft".into(),
        }
    }
}

/// A network from literals; the prefix length is at most 32.
pub(super) fn network(address: [u8; 4], prefix_length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(address.into(), prefix_length)
}

impl NetworkConfig {
    /// The first key whose value is out of range, and the range. The MTU is checked where networks are opened.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let good = self.account_share.is_none_or(|share| SHARES.contains(&share));
        (!good)
            .then(|| ("account_share", format!("write {SHARE_MIN} to {SHARE_MAX} percent, or leave it out")))
    }

    /// How many microVMs the pool has room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let addresses = 1_u64 << 32_u8.saturating_sub(self.pool.prefix_len());
        // A pool that is larger than the range of slot numbers is used in part.
        u32::try_from((addresses / 2).min(1 << 16)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_is_the_default() {
        assert_eq!(serde_json::from_str::<NetworkConfig>("{}").unwrap(), NetworkConfig::default());
        assert!(serde_json::from_str::<NetworkConfig>(r#"{"blokced": []}"#).is_err());
        let some =
            serde_json::from_str::<NetworkConfig>(r#"{"allowed": ["10.1.0.0/16"], "nft": "/opt/nft"}"#);
        assert_eq!(some.unwrap().allowed, [network([10, 1, 0, 0], 16)]);
    }

    #[test]
    fn a_pool_has_a_slot_for_every_two_addresses() {
        for (prefix_length, slots) in [(8, 65536), (15, 65536), (16, 32768), (30, 2), (31, 1), (32, 0)] {
            let pool = network([100, 96, 0, 0], prefix_length);
            assert_eq!(NetworkConfig { pool, ..NetworkConfig::default() }.slots(), slots, "{pool}");
        }
    }
}
