//! Connections for a worker, where they are allowed.
//!
//! Allowed are the servers that the operator named for this source, at whatever address they are, and all others over TLS at addresses that
//! guests may reach ([`Reach`]). A name is resolved once, and the connection is made to an address that was checked.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use hearth_host::network::{NetworkConfig, Reach};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::Answer;

/// Timeout for opening a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most addresses of a name that are tried.
const ADDRESSES: usize = 3;

/// Most connections that are made for one task: those of an image with 256 layers, each of which leads on five times, and some more.
const CONNECTIONS: u32 = 2048;

/// A server: what of a URL says who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::artifact) struct Origin {
    pub(in crate::artifact) tls: bool,
    /// In lower case; IPv6 addresses without brackets.
    pub(in crate::artifact) host: String,
    port: u16,
}

impl Origin {
    /// The server of a URL; none if it is not one of HTTP.
    pub(in crate::artifact) fn of(url: &Url) -> Option<Self> {
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = match url.host()? {
            Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        Some(Self { tls, host, port: url.port_or_known_default()? })
    }

    /// The server of a text like `https://HOST:PORT`. The error is what is wrong with it.
    pub(in crate::artifact) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is no server: write https://HOST or https://HOST:PORT (or http://)");
        let url = Url::parse(text).map_err(|_| wrong())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let bare = bare && url.username().is_empty() && url.password().is_none();
        Self::of(&url).filter(|_| bare).ok_or_else(wrong)
    }

    /// Whether the host is a name or an address by its letters. A worker may ask for anything.
    fn is_plausible(&self) -> bool {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        (1..=253).contains(&self.host.len()) && self.host.bytes().all(good)
    }
}

/// The servers that the operator named for a task.
#[derive(Clone, Debug, Default)]
pub(in crate::artifact) struct Named {
    /// They are connected to wherever they are.
    pub(in crate::artifact) servers: Vec<Origin>,
    /// The server that the task is about, and the key in the configuration that names it.
    pub(in crate::artifact) own: Option<(Origin, &'static str)>,
    /// The key that names others.
    pub(in crate::artifact) others: &'static str,
}

impl Named {
    /// How the operator can allow a server.
    fn advice(&self, server: &Origin) -> String {
        let key = match &self.own {
            Some((own, key)) if own == server => *key,
            _ => self.others,
        };
        if key.is_empty() {
            String::new()
        } else {
            format!(". The operator can allow it by naming it in {key}")
        }
    }
}

/// Makes connections for one worker.
pub(super) struct Broker {
    network: NetworkConfig,
    named: Named,
    left: u32,
}

impl Broker {
    pub(super) fn new(network: NetworkConfig, named: Named) -> Self {
        Self { network, named, left: CONNECTIONS }
    }

    /// Connects to a server, or says why not.
    pub(super) fn connect(&mut self, server: &Origin) -> (Answer, Option<TcpStream>) {
        match self.connection(server) {
            Ok(stream) => (Answer::Connected, Some(stream)),
            Err(answer) => (answer, None),
        }
    }

    fn connection(&mut self, server: &Origin) -> Result<TcpStream, Answer> {
        if !server.is_plausible() {
            return Err(Answer::Refused("a server has a name that is none".to_owned()));
        }
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| Answer::Refused(format!("more than {CONNECTIONS} connections would be needed")))?;
        let Origin { tls, host, port } = server;
        let named = self.named.servers.contains(server);
        if !named && !tls {
            let advice = self.named.advice(server);
            return Err(Answer::Refused(format!("http://{host}:{port} is not encrypted{advice}")));
        }
        let failed = |error: io::Error| Answer::Failed(format!("{host}:{port}: {error}"));
        let mut addresses: Vec<SocketAddr> =
            (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect();
        if !named {
            self.keep_allowed(server, &mut addresses)?;
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses.into_iter().take(ADDRESSES) {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(failed)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// Removes addresses that guests may not reach. If none is left, the error says what the first one was.
    fn keep_allowed(&self, server: &Origin, addresses: &mut Vec<SocketAddr>) -> Result<(), Answer> {
        let reach = Reach::now(&self.network).map_err(|error| {
            Answer::Failed(format!("which addresses may be reached is not known: {error}"))
        })?;
        let mut refused = None;
        addresses.retain(|address| match reach.refuses(address.ip()) {
            None => true,
            Some(what) => {
                refused.get_or_insert((address.ip(), what));
                false
            }
        });
        match refused {
            Some((address, what)) if addresses.is_empty() => {
                Err(Answer::Refused(sentence(server, address, what, &self.named.advice(server))))
            }
            _ => Ok(()),
        }
    }
}

fn sentence(server: &Origin, address: IpAddr, what: &str, advice: &str) -> String {
    let Origin { host, port, .. } = server;
    if host.parse() == Ok(address) {
        return format!("{host}:{port} has {what}, which builds do not reach{advice}");
    }
    format!("{host}:{port} leads to {address}, {what}, which builds do not reach{advice}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(url: &str) -> Origin {
        Origin::of(&Url::parse(url).unwrap()).unwrap()
    }

    fn named(servers: &[&str]) -> Named {
        let servers = servers.iter().map(|server| Origin::parse(server).unwrap()).collect();
        let own = Origin::parse("https://registry.example").unwrap();
        Named { servers, own: Some((own, "its key")), others: "another key" }
    }

    fn refusal(broker: &mut Broker, url: &str) -> String {
        match broker.connect(&server(url)) {
            (Answer::Refused(why), None) => why,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn a_server_is_named_by_scheme_host_and_port() {
        let origin = |text: &str| Origin::parse(text).unwrap();
        assert_eq!(origin("https://Registry.Example"), origin("https://registry.example:443/"));
        assert_eq!(origin("http://127.0.0.1"), origin("http://127.1:80"));
        assert_ne!(origin("https://a.example"), origin("http://a.example:443"));
        for wrong in [
            "a.example",
            "ftp://a.example",
            "https://",
            "https://u@a.example",
            "https://a.example/x",
            "https://a.example?x",
        ] {
            assert!(Origin::parse(wrong).unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn addresses_that_guests_do_not_reach_are_refused_however_they_are_written() {
        let mut broker = Broker::new(NetworkConfig::default(), named(&[]));
        for (url, what) in [
            ("https://127.0.0.1:5000", "127.0.0.1:5000 has a loopback address, which builds do not reach"),
            (
                "https://localhost",
                "localhost:443 leads to 127.0.0.1, a loopback address, which builds do not reach",
            ),
            ("https://2130706433", "127.0.0.1:443 has a loopback address"),
            ("https://0x7f.1/", "127.0.0.1:443 has a loopback address"),
            ("https://[::ffff:10.0.0.5]", ":443 has a private address"),
            ("https://[::1]", "::1:443 has a loopback address"),
            ("https://169.254.169.254/latest", "169.254.169.254:443 has a link-local address"),
            ("https://10.0.0.5", "10.0.0.5:443 has a private address"),
        ] {
            let why = refusal(&mut broker, url);
            assert!(
                why.contains(what) || url.contains("localhost") && why.contains("leads to ::1"),
                "{url}: {why}"
            );
            assert!(why.ends_with("by naming it in another key"), "{why}");
        }
        assert!(
            refusal(&mut broker, "http://registry.example")
                .starts_with("http://registry.example:80 is not encrypted")
        );
    }

    #[test]
    fn a_server_that_is_named_is_reached_and_only_as_it_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut broker = Broker::new(NetworkConfig::default(), named(&[&format!("http://127.0.0.1:{port}")]));
        let (answer, stream) = broker.connect(&server(&format!("http://127.0.0.1:{port}/v2/")));
        assert!(matches!(answer, Answer::Connected) && stream.is_some(), "{answer}");
        refusal(&mut broker, &format!("https://127.0.0.1:{port}/"));
        refusal(&mut broker, &format!("http://localhost:{port}/"));
        refusal(&mut broker, &format!("http://127.0.0.1:{}/", port ^ 1));
    }

    #[test]
    fn a_worker_has_a_number_of_connections() {
        let mut broker = Broker::new(NetworkConfig::default(), named(&[]));
        broker.left = 1;
        assert!(refusal(&mut broker, "https://127.0.0.1").contains("loopback"));
        assert!(refusal(&mut broker, "https://127.0.0.1").contains("more than 2048 connections"));
    }

    #[test]
    fn what_is_no_name_of_a_server_is_not_looked_up() {
        let mut broker = Broker::new(NetworkConfig::default(), named(&[]));
        for host in ["", "a b", "a/b", "a\0", "\u{202e}x", &"a".repeat(300)] {
            let server = Origin { tls: true, host: host.to_owned(), port: 443 };
            assert!(matches!(broker.connect(&server), (Answer::Refused(_), None)), "{host:?}");
        }
    }
}
