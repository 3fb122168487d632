//! The packet filter: the rules in the host and in every namespace, in the language of `nft`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::config::network;
use super::surroundings::Surroundings;
use super::{Egress, GATEWAY, GUEST, GUEST_MAC, NetworkConfig, PREFIX, PREFIX_LENGTH, TAP, UPLINK};

/// The rules of the host. They hold for all microVMs at any time, so they name interfaces by their prefix and
/// match local addresses by a lookup in the kernel. Replacing the table does not affect connections.
pub(super) fn host(pool: Ipv4Net) -> String {
    let (any, pool) = (format!("\"{PREFIX}*\""), pool.trunc());
    format!(
        r"add table inet hearth
delete table inet hearth
table inet hearth {{
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
        oifname {any} ct state established,related accept
        oifname {any} counter drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept
        ip saddr {pool} oifname != {any} masquerade
    }}
}}
"
    )
}

/// The rules of a namespace whose uplink has the address `uplink`.
pub(super) fn microvm(
    config: &NetworkConfig,
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
        (Egress::Internet, Some(uplink)) => rules.push_str(&forwarding(config, surroundings, uplink)),
        _ => rules.push_str(
            "    chain forward {\n        type filter hook forward priority filter; policy drop\n    }\n",
        ),
    }
    rules.push_str("}\n");
    rules
}

fn forwarding(config: &NetworkConfig, surroundings: &Surroundings, uplink: Ipv4Addr) -> String {
    let never = set("never", &[never(config.pool), surroundings.own.clone()].concat());
    let allowed = set("allowed", &config.allowed);
    let blocked = set("blocked", &[config.blocked.as_slice(), &surroundings.connected].concat());
    let connections = config.connections.max(1);
    let rate = config.connection_rate.max(1);
    let burst = rate.saturating_mul(2);
    format!(
        r#"{never}{allowed}{blocked}    chain forward {{
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
        accept
    }}
    # The guest gets an error, so that it tries something else at once. The kernel limits the rate of ICMP errors.
    chain refused {{
        ip protocol tcp counter reject with tcp reset
        counter reject with icmp type admin-prohibited
    }}
    chain postrouting {{
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
    let mut text = format!("    set {name} {{\n        type ipv4_addr; flags interval\n");
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
        let rules = microvm(&NetworkConfig::default(), &Surroundings::default(), Egress::None, None);
        let accepting = rules.lines().filter(|line| line.ends_with("accept")).count();
        assert!(rules.contains("hook forward priority filter; policy drop") && !rules.contains("snat"));
        assert_eq!(accepting, 3, "the guest's packets, ARP, and echo requests to the gateway:\n{rules}");
    }
}
