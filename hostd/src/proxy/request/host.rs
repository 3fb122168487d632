//! The first step: the host that a request is for.
//!
//! It has to be below the endpoints' domain, and the host that the connection was opened for.

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Method, Request};

use super::super::error::ProxyError;
use super::super::peer::Peer;

/// The host that both a request and its connection are for, as the request spells it.
#[derive(Debug, Clone)]
pub(super) struct Host(Authority);

impl Host {
    /// Name and port of the host.
    pub(super) fn authority(&self) -> &Authority {
        &self.0
    }

    /// Name of the host, in any case.
    pub(super) fn name(&self) -> &str {
        self.0.host()
    }
}

/// The hosts that are served.
#[derive(Debug)]
pub(super) struct Hosts {
    /// The domain of endpoints, which follows `UUID.` in their names.
    domain: String,
}

impl Hosts {
    /// The hosts below a domain.
    pub(super) fn below(domain: &str) -> Self {
        Self { domain: domain.to_owned() }
    }

    /// The host that a request is for.
    ///
    /// # Errors
    /// [`ProxyError::Bad`] for requests without a host, [`ProxyError::Unauthenticated`] for a host that is no
    /// endpoint, [`ProxyError::Misdirected`] for another host than the connection's.
    pub(super) fn check<B>(&self, peer: &Peer, request: &Request<B>) -> Result<Host, ProxyError> {
        if request.method() == Method::CONNECT {
            return Err(ProxyError::Bad("CONNECT is not supported"));
        }
        let header =
            || request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let host =
            request.uri().authority().cloned().or_else(header).ok_or(ProxyError::Bad("Missing Host"))?;
        if host.as_str().contains('@') {
            // A host contains no user name (RFC 9110, section 4.2.4), and apps build addresses from `Host`.
            return Err(ProxyError::Bad("Invalid Host"));
        }
        let name = host.host().to_ascii_lowercase();
        let label = name.strip_suffix(&self.domain).and_then(|label| label.strip_suffix('.'));
        if label.is_none_or(|label| label.is_empty() || label.contains('.')) {
            return Err(ProxyError::Unauthenticated);
        }
        match &peer.server_name {
            Some(server) if server.eq_ignore_ascii_case(&name) => Ok(Host(host)),
            Some(_) => Err(ProxyError::Misdirected),
            None => Err(ProxyError::Unauthenticated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_endpoint_and_the_one_that_the_connection_is_for() {
        let hosts = Hosts::below("e.example");
        let check = |server: Option<&str>, uri: &str, header: Option<&str>| {
            let peer = Peer::new(([127, 0, 0, 1], 1).into(), server.map(str::to_owned), None);
            let request = Request::builder().uri(uri);
            let request = header.into_iter().fold(request, |request, host| request.header(HOST, host));
            hosts.check(&peer, &request.body(()).unwrap()).map(|host| host.authority().to_string())
        };
        let one = Some("one.e.example");
        for (uri, header, host) in [
            ("/", Some("one.e.example"), "one.e.example"),
            ("/", Some("ONE.e.example:443"), "ONE.e.example:443"),
            ("https://one.e.example/", None, "one.e.example"),
            ("https://one.e.example/", Some("two.e.example"), "one.e.example"),
        ] {
            assert_eq!(check(one, uri, header).as_deref(), Ok(host), "{uri} {header:?}");
        }
        for (server, host, error) in [
            (one, "two.e.example", ProxyError::Misdirected),
            (one, "e.example", ProxyError::Unauthenticated),
            (one, ".e.example", ProxyError::Unauthenticated),
            (one, "a.one.e.example", ProxyError::Unauthenticated),
            (one, "onee.example", ProxyError::Unauthenticated),
            (one, "user@one.e.example", ProxyError::Bad("Invalid Host")),
            (one, "a b", ProxyError::Bad("Missing Host")),
            (None, "one.e.example", ProxyError::Unauthenticated),
        ] {
            assert_eq!(check(server, "/", Some(host)), Err(error), "{host}");
        }
        assert_eq!(check(one, "/", None), Err(ProxyError::Bad("Missing Host")));
    }

    #[test]
    fn connect_has_no_host() {
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), Some("one.e.example".to_owned()), None);
        let request = Request::connect("one.e.example:443").body(()).unwrap();
        let refused = Hosts::below("e.example").check(&peer, &request).unwrap_err();
        assert_eq!(refused, ProxyError::Bad("CONNECT is not supported"));
    }
}
