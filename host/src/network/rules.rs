//! The packet filter: the rules in the host and in every namespace, in the language of `nft`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::config::network;
use super::limits::{BURST, ConnectionLimits, LIST_MASK, LISTS, TIME_WAIT};
use super::surroundings::Surroundings;
use super::uplinks::Uplinks;
use super::{Egress, GATEWAY, GUEST, GUEST_MAC, NetworkConfig, PREFIX, PREFIX_LENGTH, TAP, UPLINK};

/// The rules of the host. They hold for all microVMs at any time, so they name interfaces by their prefix, match local addresses by a
/// lookup in the kernel, and other networks by the way that a packet takes: what does not leave by a default route is no internet, however
/// the host has come to know it. Replacing the table does not affect connections.
pub(super) fn host(config: &NetworkConfig) -> String {
    let (any, pool) = (format!("\"{PREFIX}*\""), config.pool.trunc());
    let allowed = set("allowed", &config.allowed);
    format!(
        r#"add table inet {HOST}
delete table inet {HOST}
table inet {HOST} {{
    comment "rules of the host"
{allowed}    set routers {{
        typeof meta oifname . rt ip nexthop
    }}
    set tunnels {{
        type ifname
    }}
    # Before anybody's NAT: a service of the host is not reachable through a translated address either.
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept
        iifname {any} goto from_microvm
    }}
    chain from_microvm {{
        meta nfproto != ipv4 counter drop
        ip saddr != {pool} counter drop
        fib daddr type != unicast counter drop
    }}
    chain input {{
        type filter hook input priority filter - 10; policy accept
        iifname {any} counter drop
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept
        iifname {any} oifname {any} counter drop
        iifname {any} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        iifname {any} ip daddr != @allowed oifname . rt ip nexthop != @routers oifname != @tunnels goto elsewhere
        oifname {any} ct state established,related accept
        oifname {any} counter drop
    }}
    # An open connection outlives that a default route goes and comes back: it is not reset.
    chain elsewhere {{
        ct state established,related counter drop
        goto refused
    }}
{REFUSED}    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        ip saddr {pool} oifname != {any} masquerade
    }}
}}
"#
    )
}

/// Adds the exceptions of a configuration to the host's rules.
pub(super) fn exceptions(config: &NetworkConfig) -> String {
    let add = |network: &Ipv4Net| format!("add element inet {HOST} allowed {{ {} }}\n", network.trunc());
    config.allowed.iter().map(add).collect()
}

/// Replaces the default routes in the host's rules.
pub(super) fn uplinks(uplinks: &Uplinks) -> String {
    let mut text = "flush set inet hearth routers\nflush set inet hearth tunnels\n".to_owned();
    // Writing to a string cannot fail.
    for (interface, router) in &uplinks.routers {
        let _ = writeln!(text, "add element inet hearth routers {{ \"{interface}\" . {router} }}");
    }
    for interface in &uplinks.tunnels {
        let _ = writeln!(text, "add element inet hearth tunnels {{ \"{interface}\" }}");
    }
    text
}

/// The limits of accounts, whose number is the group of an interface. They are a table of their own, which stays as it is while they are the
/// same: what it has counted would be lost with it. Also returns the table's comment, by which that is known.
pub(super) fn accounts(limits: &ConnectionLimits) -> (String, String) {
    let ConnectionLimits { connections, rate, echoes, .. } = limits;
    let (any, burst, each) = (format!("\"{PREFIX}*\""), rate.saturating_mul(BURST), connections / LISTS);
    let timeout = timeout();
    let content = format!(
        r"{timeout}    set rates {{
        type devgroup; size 65535; flags dynamic
    }}
    set connections {{
        typeof meta iifgroup . tcp sport; size 1048576; flags dynamic
    }}
    set echoes {{
        type devgroup; size 65535; flags dynamic
    }}
    chain forward {{
        type filter hook forward priority filter - 9; policy accept
        iifname {any} ct state new goto opening
    }}
    chain opening {{
        ip protocol tcp ct timeout set {TIMEOUT:?}
        add @rates {{ meta iifgroup limit rate over {rate}/second burst {burst} packets }} goto refused
        add @connections {{ meta iifgroup . tcp sport & {LIST_MASK} ct count over {each} }} goto refused
        ip protocol icmp add @echoes {{ meta iifgroup ct count over {echoes} }} goto refused
    }}
{REFUSED}"
    );
    // FNV-1a
    let hash = content.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let comment = format!("rules {hash:016x}");
    let text = format!(
        "add table inet {ACCOUNTS}\ndelete table inet {ACCOUNTS}\ntable inet {ACCOUNTS} {{\n    comment \"{comment}\"\n{content}}}\n"
    );
    (text, comment)
}

/// Name of the host's table.
pub(super) const HOST: &str = "hearth";
/// Name of the table with the limits of accounts.
pub(super) const ACCOUNTS: &str = "hearth_accounts";
/// Name of the object that shortens how long closed connections stay.
const TIMEOUT: &str = "closed";

/// The guest gets an error, so that it tries something else at once. The kernel limits the rate of ICMP errors.
const REFUSED: &str = "    chain refused {
        ip protocol tcp counter reject with tcp reset
        counter reject with icmp type admin-prohibited
    }
";

/// Closed connections stay in the table for a shorter time than the kernel's two minutes: it is that time which limits their rate.
fn timeout() -> String {
    format!(
        "    ct timeout {TIMEOUT} {{\n        protocol tcp; l3proto ip; policy = {{ time_wait : {TIME_WAIT} }}\n    }}\n"
    )
}

/// The rules of a namespace whose uplink has the address `uplink`.
pub(super) fn microvm(
    config: &NetworkConfig,
    limits: &ConnectionLimits,
    surroundings: &Surroundings,
    egress: Egress,
    uplink: Option<Ipv4Addr>,
) -> String {
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    // Frames that are not for the gateway or not from the guest are dropped before the kernel processes them: other protocols
    // than IPv4 and ARP, forged senders, requests for addresses that are not the gateway's.
    let mut rules = format!(
        r#"table netdev hearth {{
    chain guest {{
        type filter hook ingress device "{TAP}" priority 0; policy drop
        ether saddr != {mac} drop
        ip saddr {GUEST} accept
        arp operation request arp saddr ip {GUEST} arp daddr ip {GATEWAY} accept
    }}
}}
table inet hearth {{
    chain input {{
        type filter hook input priority filter; policy drop
        iifname "{TAP}" ip daddr {GATEWAY} icmp type echo-request limit rate 100/second accept
    }}
"#
    );
    match (egress, uplink) {
        (Egress::Internet, Some(uplink)) => rules.push_str(&forwarding(config, limits, surroundings, uplink)),
        _ => rules.push_str(
            "    chain forward {\n        type filter hook forward priority filter; policy drop\n    }\n",
        ),
    }
    rules.push_str("}\n");
    rules
}

fn forwarding(
    config: &NetworkConfig,
    limits: &ConnectionLimits,
    surroundings: &Surroundings,
    uplink: Ipv4Addr,
) -> String {
    let never = set("never", &[never(config.pool), surroundings.own.clone()].concat());
    let allowed = set("allowed", &config.allowed);
    let blocked = set("blocked", &[config.blocked.as_slice(), &surroundings.connected].concat());
    let ConnectionLimits { guest_connections: connections, guest_rate: rate, .. } = limits;
    let (burst, timeout) = (rate.saturating_mul(BURST), timeout());
    format!(
        r#"{timeout}{never}{allowed}{blocked}    chain forward {{
        type filter hook forward priority filter; policy drop
        iifname "{UPLINK}" oifname "{TAP}" ct state established,related accept
        iifname "{TAP}" oifname "{UPLINK}" ip saddr {GUEST} goto outbound
    }}
    chain outbound {{
        ct state established,related accept
        ip daddr @never goto refused
        ip daddr != @allowed ip daddr @blocked goto refused
        ip protocol != {{ tcp, icmp }} goto refused
        # A connection from before a restore; also where it looks like a new one.
        ip protocol tcp tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset
        ct state invalid drop
        ip protocol icmp icmp type != echo-request drop
        limit rate over {rate}/second burst {burst} packets goto refused
        ct count over {connections} goto refused
        ip protocol tcp ct timeout set {TIMEOUT:?}
        accept
    }}
{REFUSED}    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        oifname "{UPLINK}" snat ip to {uplink}
    }}
"#
    )
}

/// Networks that no configuration makes reachable.
pub(super) fn never(pool: Ipv4Net) -> Vec<Ipv4Net> {
    vec![
        network([0, 0, 0, 0], 8),
        network(GATEWAY.octets(), PREFIX_LENGTH),
        network([127, 0, 0, 0], 8),
        network([169, 254, 0, 0], 16),
        network([224, 0, 0, 0], 3),
        pool,
    ]
}

/// An nft set of networks. They are aggregated first, because nft forbids overlapping elements.
fn set(name: &str, networks: &[Ipv4Net]) -> String {
    let mut text = format!("    set {name} {{\n        type ipv4_addr; flags interval; auto-merge\n");
    let networks = networks.iter().map(Ipv4Net::trunc).collect::<Vec<_>>();
    let elements = Ipv4Net::aggregate(&networks).iter().map(ToString::to_string).collect::<Vec<_>>();
    if !elements.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "        elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("    }\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_a_set_do_not_overlap() {
        let overlapping =
            [network([10, 0, 0, 7], 8), network([10, 1, 0, 0], 16), network([192, 0, 2, 1], 32)];
        assert!(set("x", &overlapping).contains("elements = { 10.0.0.0/8, 192.0.2.1/32 }"));
        assert!(!set("x", &[]).contains("elements"));
    }

    #[test]
    fn without_egress_nothing_is_forwarded() {
        let config = NetworkConfig::default();
        let limits = ConnectionLimits::of(&config, None, 1);
        let rules = microvm(&config, &limits, &Surroundings::default(), Egress::None, None);
        let accepting = rules.lines().filter(|line| line.ends_with("accept")).count();
        assert!(rules.contains("hook forward priority filter; policy drop") && !rules.contains("snat"));
        assert_eq!(accepting, 3, "the guest's packets, ARP, and echo requests to the gateway:\n{rules}");
    }
}
