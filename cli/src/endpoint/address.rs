//! A microVM's endpoint: its name, the host's address, and the authority to trust.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hearth_proto::host::v1::EndpointStatus;
use hearth_proto::microvms::v1::Microvm;

use crate::connect::Client;
use crate::error::Failure;
use crate::names::has_ended;

/// The port of HTTPS.
const HTTPS: u16 = 443;

/// Address of a microVM's endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointAddress {
    /// Host name of the endpoint: for URLs, certificates and the header `Host`.
    pub(crate) name: String,
    /// The port in URLs.
    pub(crate) port: u16,
    /// Host and port to connect to, because the name may not resolve to them.
    pub(crate) dial: (String, u16),
    /// PEM of the only authority to trust; without it, the system's are trusted.
    pub(crate) authority: Option<String>,
}

impl EndpointAddress {
    /// The endpoint of a microVM. If the caller may not see the host's status, its name is resolved like any other.
    pub(crate) async fn of(client: &Client, microvm: &Microvm) -> Result<Self, Failure> {
        let id = &microvm.microvm_id;
        if has_ended(microvm.state) {
            let state = microvm.state().as_str_name();
            return Err(Failure::failed(format!(
                "{id} is {state} and answers no more; `hearth ps` lists those that run"
            )));
        }
        if microvm.endpoint.is_empty() {
            return Err(Failure::failed(format!("{id} has no endpoint")));
        }
        let status = match client.host_status().await {
            Ok(host) => Some(endpoints(host.endpoint.as_ref())?),
            Err(failure) if failure.is_denied() => None,
            Err(failure) => return Err(failure),
        };
        Self::find(&microvm.endpoint, status, client.daemon_host())
    }

    fn find(endpoint: &str, status: Option<&EndpointStatus>, daemon: Option<&str>) -> Result<Self, Failure> {
        let (name, named_port) = match endpoint.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
            Some((name, Ok(port))) => (name.to_owned(), Some(port)),
            _ => (endpoint.to_owned(), None),
        };
        let Some(status) = status else {
            let port = named_port.unwrap_or(HTTPS);
            return Ok(Self { dial: (name.clone(), port), name, port, authority: None });
        };
        let dial = reachable(&status.address, daemon)?;
        let pem = &status.certificate_authority_pem;
        let authority = (!pem.trim().is_empty()).then(|| pem.clone());
        Ok(Self { name, port: named_port.unwrap_or(dial.1), dial, authority })
    }

    /// The host part of URLs and the header `Host`: the name, and the port unless it is that of HTTPS.
    pub(crate) fn host(&self) -> String {
        if self.port == HTTPS { self.name.clone() } else { format!("{}:{}", self.name, self.port) }
    }

    /// The URL of a path there.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host())
    }
}

/// The URL of a microVM's endpoint, for people. Without the host's port if the daemon does not report it.
pub(crate) async fn url(client: &Client, endpoint: &str) -> String {
    let status = client.host_status().await.ok().and_then(|host| host.endpoint.as_ref());
    let address = EndpointAddress::find(endpoint, status, client.daemon_host());
    address.map_or_else(|_| format!("https://{endpoint}"), |address| address.url(""))
}

/// The host's endpoints, if it has any.
pub(crate) fn endpoints(status: Option<&EndpointStatus>) -> Result<&EndpointStatus, Failure> {
    status.filter(|status| !status.address.is_empty()).ok_or_else(|| {
        Failure::failed(
            "the daemon has no endpoints: they are switched off in its configuration, or it is too old",
        )
    })
}

/// Host and port at which this machine reaches a listener at `address` on the daemon's machine. The daemon's own name is
/// used if the address stands for all interfaces, or is local to the daemon's machine.
fn reachable(address: &str, daemon: Option<&str>) -> Result<(String, u16), Failure> {
    let parsed: SocketAddr = address.parse().map_err(|_| {
        Failure::failed(format!("the daemon says that endpoints are at {address:?}, which is no address"))
    })?;
    let (ip, port) = (parsed.ip().to_canonical(), parsed.port());
    let host = match daemon {
        Some(host) if ip.is_unspecified() || (ip.is_loopback() && !is_loopback(host)) => host.to_owned(),
        _ if ip.is_unspecified() => match ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.to_string(),
        },
        _ => ip.to_string(),
    };
    Ok((host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(address: &str, pem: &str) -> EndpointStatus {
        let (address, certificate_authority_pem) = (address.into(), pem.into());
        EndpointStatus { address, domain: "example".into(), certificate_authority_pem }
    }

    #[test]
    fn addresses_that_mean_the_daemons_machine_are_reached_by_the_daemons_name() {
        for (address, daemon, expected) in [
            ("127.0.0.1:443", None, "127.0.0.1"),
            ("127.0.0.1:443", Some("host.example"), "host.example"),
            ("127.0.0.2:443", Some("localhost"), "127.0.0.2"),
            ("0.0.0.0:443", None, "127.0.0.1"),
            ("0.0.0.0:443", Some("10.0.0.7"), "10.0.0.7"),
            ("[::]:443", None, "::1"),
            ("[::]:443", Some("::1"), "::1"),
            ("192.0.2.1:443", Some("host.example"), "192.0.2.1"),
            ("[2001:db8::1]:443", None, "2001:db8::1"),
        ] {
            let found = reachable(address, daemon).unwrap();
            assert_eq!(found, (expected.to_owned(), 443), "{address} of {daemon:?}");
        }
        assert!(reachable("nowhere", None).is_err());
    }

    #[test]
    fn urls_have_the_port_unless_it_is_that_of_https() {
        let address =
            EndpointAddress::find("u.example", Some(&status("127.0.0.1:443", "PEM")), None).unwrap();
        assert_eq!((address.host().as_str(), address.authority.as_deref()), ("u.example", Some("PEM")));
        let address =
            EndpointAddress::find("u.example", Some(&status("127.0.0.1:8443", "\n")), None).unwrap();
        assert_eq!(address.url("/x"), "https://u.example:8443/x");
        assert_eq!(address.authority, None, "certificates are publicly trusted");
        let address =
            EndpointAddress::find("u.example:444", Some(&status("127.0.0.1:8443", "")), None).unwrap();
        assert_eq!((address.url("/"), address.dial.1), ("https://u.example:444/".to_owned(), 8443));
    }

    #[test]
    fn who_may_not_see_the_host_resolves_the_name() {
        let address = EndpointAddress::find("u.example", None, Some("host.example")).unwrap();
        assert_eq!(address.dial, ("u.example".to_owned(), 443));
    }

    #[test]
    fn a_host_without_endpoints_is_an_error() {
        assert!(endpoints(None).is_err());
        assert!(endpoints(Some(&status("", ""))).is_err());
        assert!(endpoints(Some(&status("127.0.0.1:443", ""))).is_ok());
    }
}
