//! The host's own DNS servers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Most servers that are queried, as in the C library.
pub(super) const MAX: usize = 3;
const CONFIGURATION: &str = "/etc/resolv.conf";
const PORT: u16 = 53;

/// The host's servers at this time: they change with its networks.
pub(super) async fn of_the_host() -> Vec<SocketAddr> {
    // Without a readable file, the server is on this machine, as in the C library.
    let text = tokio::fs::read_to_string(CONFIGURATION).await.unwrap_or_default();
    parse(&text)
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    let mut servers = addresses.take(MAX).map(|address| SocketAddr::new(address, PORT)).collect::<Vec<_>>();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_resolv_conf() {
        let text = "# comment\nsearch a.test\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver nonsense\n";
        assert_eq!(parse(text), ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        let many = "nameserver 192.0.2.1\n".repeat(9);
        assert_eq!(parse(&many).len(), MAX);
        assert_eq!(parse("options edns0\n"), ["127.0.0.1:53".parse().unwrap()]);
    }
}
