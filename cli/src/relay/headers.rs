//! Changes headers of requests and responses: the app sees its endpoint, the browser sees the relay.

use hyper::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, ORIGIN, REFERER, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE,
};

use super::guard::strip_cookies;
use crate::endpoint::{AUTH, EndpointAddress, PORT};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Converts a request's headers for the endpoint. `local` is the host that the browser has named.
pub(super) fn request(
    headers: &mut HeaderMap,
    address: &EndpointAddress,
    local: &str,
    port: u16,
    token: HeaderValue,
) {
    let upgrade = headers.get(UPGRADE).cloned().filter(|_| names(headers, "upgrade"));
    remove_hop_by_hop(headers);
    // The relay's own server has handled it.
    headers.remove(EXPECT);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    strip_cookies(headers);
    let (from, to) = (format!("http://{local}"), address.url(""));
    replace(headers, &ORIGIN, |origin| moved(origin, &from, &to));
    replace(headers, &REFERER, |referer| moved(referer, &from, &to));
    if let Ok(host) = HeaderValue::from_str(&address.host()) {
        headers.insert(HOST, host);
    }
    headers.insert(AUTH, token);
    headers.insert(PORT, port.into());
}

/// Converts a response's headers for the browser. `upgraded`: another protocol than HTTP follows.
pub(super) fn response(headers: &mut HeaderMap, address: &EndpointAddress, local: &str, upgraded: bool) {
    if !upgraded {
        remove_hop_by_hop(headers);
    }
    let (from, to) = (address.url(""), format!("http://{local}"));
    replace(headers, &LOCATION, |location| moved(location, &from, &to));
    replace(headers, &SET_COOKIE, |cookie| without_domain(cookie, &address.name));
}

/// Removes headers that are for one connection only (RFC 9110, section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers).filter_map(|token| token.parse().ok()).collect();
    let always = [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];
    for name in named.into_iter().chain(always) {
        headers.remove(name);
    }
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn names(headers: &HeaderMap, name: &str) -> bool {
    tokens(headers).any(|token| token.eq_ignore_ascii_case(name))
}

/// Replaces each value of a header for which `change` returns another one.
fn replace(headers: &mut HeaderMap, name: &HeaderName, change: impl Fn(&str) -> Option<String>) {
    if !headers.contains_key(name) {
        return;
    }
    let changed: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| {
            let other = value.to_str().ok().and_then(&change);
            other.and_then(|other| HeaderValue::from_str(&other).ok()).unwrap_or_else(|| value.clone())
        })
        .collect();
    headers.remove(name);
    for value in changed {
        headers.append(name, value);
    }
}

/// A URL of the origin `from`, moved to the origin `to`.
fn moved(url: &str, from: &str, to: &str) -> Option<String> {
    let begin = url.get(..from.len())?;
    let rest = url.get(from.len()..)?;
    let ends = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    (begin.eq_ignore_ascii_case(from) && ends).then(|| format!("{to}{rest}"))
}

/// A cookie without its domain, if that is the endpoint's name: the browser knows the endpoint by another name, and would refuse it.
fn without_domain(cookie: &str, name: &str) -> Option<String> {
    let is_own = |attribute: &str| {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let domain = value.trim().trim_start_matches('.');
        key.trim().eq_ignore_ascii_case("domain") && domain.eq_ignore_ascii_case(name)
    };
    let mut parts = cookie.split(';');
    let first = parts.next()?;
    let kept = parts.filter(|attribute| !is_own(attribute));
    Some(std::iter::once(first).chain(kept).collect::<Vec<_>>().join(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1:4711";

    fn address() -> EndpointAddress {
        EndpointAddress {
            name: "u.example".into(),
            port: 8443,
            dial: ("127.0.0.1".into(), 8443),
            authority: None,
        }
    }

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    fn sorted(map: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_app_sees_its_endpoint() {
        let mut headers = map(&[
            ("host", LOCAL),
            ("origin", "http://127.0.0.1:4711"),
            ("referer", "http://127.0.0.1:4711/a?b"),
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("x-aws-proxy-auth", "of the page"),
            ("x-aws-proxy-port", "22"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        request(&mut headers, &address(), LOCAL, 80, HeaderValue::from_static("t0"));
        let expected = [
            "accept: */*",
            "host: u.example:8443",
            "origin: https://u.example:8443",
            "referer: https://u.example:8443/a?b",
            "x-aws-proxy-auth: t0",
            "x-aws-proxy-port: 80",
        ];
        assert_eq!(sorted(&headers), expected);
    }

    #[test]
    fn upgrades_stay_and_foreign_origins_are_not_touched() {
        let mut headers = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("origin", "http://127.0.0.1:47110"),
        ]);
        request(&mut headers, &address(), LOCAL, 80, HeaderValue::from_static("t0"));
        assert_eq!(headers.get(UPGRADE).unwrap(), "websocket");
        assert_eq!(headers.get(CONNECTION).unwrap(), "Upgrade");
        assert_eq!(headers.get("sec-websocket-key").unwrap(), "k");
        assert_eq!(headers.get(ORIGIN).unwrap(), "http://127.0.0.1:47110");
    }

    #[test]
    fn the_browser_stays_with_the_relay() {
        let mut headers = map(&[
            ("location", "https://U.example:8443/there"),
            ("set-cookie", "a=b; Domain=.u.example; Path=/; Secure"),
            ("set-cookie", "c=d; domain=other.example"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
        ]);
        response(&mut headers, &address(), LOCAL, false);
        let expected = [
            "location: http://127.0.0.1:4711/there",
            "set-cookie: a=b; Path=/; Secure",
            "set-cookie: c=d; domain=other.example",
        ];
        assert_eq!(sorted(&headers), expected);
        let mut headers =
            map(&[("location", "https://u.example:8443.evil.example/"), ("connection", "Upgrade")]);
        response(&mut headers, &address(), LOCAL, true);
        assert_eq!(
            sorted(&headers),
            ["connection: Upgrade", "location: https://u.example:8443.evil.example/"]
        );
    }
}
