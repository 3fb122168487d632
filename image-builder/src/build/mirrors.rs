//! Mirrors of Docker Hub: what a Dockerfile's `FROM` is asked for there first.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A mirror: `https://HOST[:PORT]`, or `http://HOST[:PORT]`, which the operator's name makes good enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryMirror(String);

/// Why a text is no mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// It is no URL of a registry alone.
    #[error("write https://HOST or https://HOST:PORT, without anything behind; http:// for one without TLS")]
    NoUrl,
    /// It is at an address that no build reaches.
    #[error(
        "builds reach no IPv6 address, and no loopback address is the host's: write a name or an IPv4 address that guests may reach"
    )]
    OutOfReach,
}

/// Longest name of a host in bytes (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;

impl RegistryMirror {
    /// The mirror that `text` names.
    ///
    /// # Errors
    /// It is no URL of a registry alone, or one that no build reaches.
    pub fn parse(text: &str) -> Result<Self, MirrorError> {
        let (scheme, rest) = text.split_once("://").ok_or(MirrorError::NoUrl)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if !matches!(scheme, "http" | "https") {
            return Err(MirrorError::NoUrl);
        }
        if let Some(rest) = rest.strip_prefix('[') {
            let (address, _) = rest.split_once(']').ok_or(MirrorError::NoUrl)?;
            return Err(address.parse::<Ipv6Addr>().map_or(MirrorError::NoUrl, |_| MirrorError::OutOfReach));
        }
        let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        if !is_host(host) || port.is_some_and(|port| !is_port(port)) {
            return Err(MirrorError::NoUrl);
        }
        let loopback = host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
        if loopback || host.eq_ignore_ascii_case("localhost") {
            return Err(MirrorError::OutOfReach);
        }
        Ok(Self(format!("{scheme}://{rest}")))
    }

    /// Its URL, in which no character means anything to a shell or in TOML.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

fn is_host(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| !label.is_empty() && label.bytes().all(good) && !label.starts_with('-');
    name.len() <= NAME_MAX && name.split('.').all(label)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The file `hosts.toml` of `docker.io` (containerd: docs/hosts.md): these mirrors are asked one after the other, and Docker Hub itself
/// after them. `dockerd`'s own option `registry-mirrors` would take a registry without TLS only as one of any certificate.
pub(super) fn hosts_file(mirrors: &[RegistryMirror]) -> String {
    let mut text = String::new();
    for mirror in mirrors {
        // Writing to a string cannot fail.
        let _ = write!(text, "[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.url());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_the_url_of_a_registry() {
        for good in
            ["https://mirror.example", "http://10.0.0.5:5000", "https://r-1.example:443", "http://cache"]
        {
            assert_eq!(RegistryMirror::parse(good).unwrap().url(), good);
        }
        assert_eq!(RegistryMirror::parse("https://mirror.example/").unwrap().url(), "https://mirror.example");
        for bad in [
            "",
            "mirror.example",
            "mirror.example:5000",
            "ftp://mirror.example",
            "https://",
            "https://:5000",
            "https://mirror.example:0",
            "https://mirror.example:65536",
            "https://mirror.example:+1",
            "https://mirror.example/path",
            "https://user@mirror.example",
            "https://mirror.example\"]\n[host.x",
            "https://a..b",
            "https://[::1",
        ] {
            assert_eq!(RegistryMirror::parse(bad), Err(MirrorError::NoUrl), "{bad:?}");
        }
        for far in ["http://localhost:5000", "http://127.0.0.1:5000", "https://[2001:db8::1]:5000"] {
            assert_eq!(RegistryMirror::parse(far), Err(MirrorError::OutOfReach), "{far}");
        }
    }

    #[test]
    fn mirrors_are_asked_in_their_order() {
        let mirrors =
            ["https://b.example", "http://a.example:5000"].map(|url| RegistryMirror::parse(url).unwrap());
        let file: toml::Table = hosts_file(&mirrors).parse().unwrap();
        let hosts = file["host"].as_table().unwrap();
        assert_eq!(hosts.len(), 2);
        assert_eq!(hosts["http://a.example:5000"]["capabilities"].as_array().unwrap().len(), 2);
        // containerd goes by the order in the file.
        assert!(hosts_file(&mirrors).starts_with("[host.\"https://b.example\"]"));
        assert_eq!(hosts_file(&[]), "");
    }
}
