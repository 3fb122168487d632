//! How many connections accounts and guests may have: what the host's table of connections has room for, divided.
//!
//! A closed connection stays in the table for [`STAY`], and the kernel does not count it. So an account that may have `connections`
//! open and open `rate` new ones per second, twice as many in a burst, never fills more entries than
//! `connections + echoes + rate * (STAY + BURST)`, which is its share.

use super::NetworkConfig;

/// Seconds after which the kernel may remove a closed connection of a guest from its tables.
pub(super) const TIME_WAIT: u32 = 20;
/// Seconds for which it stays there: the kernel collects such entries a while later, or when it needs their room.
const STAY: u32 = 30;
/// Seconds' worth of new connections that may be opened at once.
pub(super) const BURST: u32 = 2;
/// The kernel looks at all counted connections of a list for each new one. So an account's are counted in as many lists as this, by bits of
/// the source port: not by the lowest, which is the same for most connections of a Linux.
pub(super) const LISTS: u32 = 64;
/// The bits of the source port that choose the list.
pub(super) const LIST_MASK: u32 = (LISTS - 1) << 1;
/// Most echo requests of an account that are under way at once.
const ECHOES: u32 = 256;
/// The part of the table that all accounts together have, in percent: the rest is the host's own.
const GUESTS: u32 = 75;
/// The least part of the table that an account has, in percent, however many there are.
const LEAST: u32 = 6;
/// Entries of a table whose size cannot be read: what Linux gives a machine with a GiB of memory.
const UNKNOWN: u32 = 65_536;

/// How many connections accounts and guests may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Entries of the host's table of connections (`nf_conntrack_max`).
    pub table: u32,
    /// Entries of it that an account can fill.
    pub share: u32,
    /// Connections that an account may have at once.
    pub connections: u32,
    /// Connections that an account may open per second.
    pub rate: u32,
    /// Echo requests of an account that are under way at once.
    pub echoes: u32,
    /// Connections that a guest may have at once.
    pub guest_connections: u32,
    /// Connections that a guest may open per second.
    pub guest_rate: u32,
}

impl ConnectionLimits {
    /// The limits where the table has so many entries, for so many accounts.
    pub(super) fn of(config: &NetworkConfig, table: Option<u32>, accounts: usize) -> Self {
        let table = table.unwrap_or(UNKNOWN);
        let accounts = u32::try_from(accounts.max(1)).unwrap_or(u32::MAX);
        let percent = config.account_share.map_or((GUESTS / accounts).max(LEAST), u32::from);
        let share = u32::try_from(u64::from(table) * u64::from(percent) / 100).unwrap_or(u32::MAX);
        let connections = (share / 3 / LISTS).max(1) * LISTS;
        let echoes = ECHOES.min(share / 16).max(1);
        let rest = share.saturating_sub(connections).saturating_sub(echoes);
        let rate = (rest / (STAY + BURST)).max(1);
        let guest_connections = config.connections.clamp(1, connections);
        let guest_rate = config.connection_rate.clamp(1, rate);
        Self { table, share, connections, rate, echoes, guest_connections, guest_rate }
    }

    /// Whether the table is too small for an account to have as many connections as the configuration allows a single guest.
    #[must_use]
    pub fn are_tight(&self, config: &NetworkConfig) -> bool {
        self.guest_connections < config.connections || self.guest_rate < config.connection_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(table: u32, accounts: usize) -> ConnectionLimits {
        ConnectionLimits::of(&NetworkConfig::default(), Some(table), accounts)
    }

    #[test]
    fn no_account_can_fill_more_than_its_share_and_all_together_leave_the_host_a_quarter() {
        for table in [65_536, 262_144, 1 << 20, u32::MAX] {
            for accounts in 0..=12 {
                let it = limits(table, accounts);
                let filled = u64::from(it.connections)
                    + u64::from(it.echoes)
                    + u64::from(it.rate) * u64::from(STAY + BURST);
                assert!(filled <= it.share.into(), "{it:?}");
                let all = u64::from(it.share) * u64::try_from(accounts.max(1)).unwrap();
                assert!(all <= u64::from(table) / 4 * 3 + 12, "{it:?} × {accounts}");
                assert!(it.guest_connections <= it.connections && it.guest_rate <= it.rate, "{it:?}");
            }
        }
    }

    #[test]
    fn a_table_of_the_usual_size_is_enough_for_what_a_guest_may_have() {
        let config = NetworkConfig::default();
        for accounts in [1, 2, 4] {
            assert!(!limits(262_144, accounts).are_tight(&config), "{accounts} accounts");
        }
        assert!(limits(262_144, 100).are_tight(&config));
        assert!(limits(8192, 1).are_tight(&config));
        let smallest = limits(0, 1);
        assert_eq!((smallest.connections, smallest.rate, smallest.echoes), (64, 1, 1));
    }

    #[test]
    fn a_configured_share_is_the_share() {
        let config = NetworkConfig { account_share: Some(10), ..NetworkConfig::default() };
        assert_eq!(ConnectionLimits::of(&config, Some(100_000), 1).share, 10_000);
        assert_eq!(ConnectionLimits::of(&config, Some(100_000), 50).share, 10_000);
    }
}
