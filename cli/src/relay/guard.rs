//! Decides who may use the relay.
//!
//! Every program on the machine can connect to it, of any user, and every page in a browser can make the
//! browser send requests to it. So a request must
//!
//! * name the relay as its host: a foreign name that resolves to 127.0.0.1 (DNS rebinding) is refused. Each relay has a name of its own below
//!   `localhost`, which browsers resolve to this machine: cookies are kept by host name and not by port, so that at `127.0.0.1` the app would
//!   get the cookies of everything else that is developed here, and could replace them;
//! * carry the cookie that only a URL with a secret sets. Browsers do not send it for pages of other sites (`SameSite=Strict`);
//! * not be made by a page of another port of this machine, which browsers regard as the same site: they report the origin in
//!   `Sec-Fetch-Site`, or in `Origin`.

use std::sync::{Mutex, PoisonError};

use hyper::Uri;
use hyper::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use tokio_rustls::rustls::crypto::ring::default_provider;

use crate::error::Failure;

/// Prefix of paths that let a browser in; a secret follows, then the path to open.
const ENTRY: &str = "/.hearth/";
/// Prefix of the relays' cookies; the port follows, because browsers do not separate cookies by port.
const COOKIE_NAME: &str = "hearth-relay-";
/// Header in which browsers report the origin of a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Bytes of a secret.
const SECRET: usize = 16;
/// Digits that make the name of a relay its own.
const NAME: usize = 12;

/// What browsers call a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostName {
    /// A name below `localhost` that no other server has.
    Own,
    /// 127.0.0.1, for browsers that do not resolve such names.
    Address,
}

/// The secrets of a relay.
pub(super) struct Guard {
    /// Name and port of the relay, as browsers have it in `Host`.
    host: String,
    port: u16,
    /// Secret in the URL that is printed.
    lasting: String,
    /// Secret in the URL that the browser was started with, until it has been used.
    once: Mutex<Option<String>>,
    cookie: String,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Forward it.
    Pass,
    /// Let the browser in: the request contains a secret.
    Enter {
        /// Path to open; begins with `/`.
        path: String,
        /// The value of `Set-Cookie`.
        cookie: String,
    },
    /// Refuse it, for this reason.
    Refuse(&'static str),
}

impl Guard {
    /// Guards a relay that browsers reach at a port, by a name of its own or by this machine's address.
    pub(super) fn new(name: HostName, port: u16) -> Result<Self, Failure> {
        let (lasting, once, cookie) = (secret()?, secret()?, secret()?);
        let host = match name {
            HostName::Own => format!("hearth-{}.localhost:{port}", secret()?.get(..NAME).unwrap_or_default()),
            HostName::Address => format!("127.0.0.1:{port}"),
        };
        Ok(Self { host, port, lasting, once: Mutex::new(Some(once)), cookie })
    }

    pub(super) fn url(&self, path: &str) -> String {
        self.url_with(&self.lasting, path)
    }

    pub(super) fn url_for_once(&self, path: &str) -> String {
        let once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
        self.url_with(once.as_deref().unwrap_or(&self.lasting), path)
    }

    fn url_with(&self, secret: &str, path: &str) -> String {
        format!("http://{}{ENTRY}{secret}{path}", self.host)
    }

    /// Judges a request by its URL and headers.
    pub(super) fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let host = single(headers, &HOST).and_then(|host| host.to_str().ok());
        let Some(host) = host.filter(|host| self.host.eq_ignore_ascii_case(host)) else {
            return Verdict::Refuse("this is a relay of this machine, and answers to no other name");
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if let Some(rest) = path.strip_prefix(ENTRY) {
            return self.enter(rest);
        }
        let cookies = headers.get_all(COOKIE).iter();
        let mut cookies = cookies.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let expected = format!("{COOKIE_NAME}{}={}", self.port, self.cookie);
        if !cookies.any(|cookie| same(cookie.trim_ascii(), expected.as_bytes())) {
            return Verdict::Refuse(
                "this relay answers only browsers that were let in with the URL that `hearth open` has printed",
            );
        }
        if is_foreign(host, headers) {
            return Verdict::Refuse("this relay answers no pages of other sites");
        }
        Verdict::Pass
    }

    fn enter(&self, rest: &str) -> Verdict {
        let (brought, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !same(brought.as_bytes(), self.lasting.as_bytes()) {
            let mut once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
            if !once.as_ref().is_some_and(|once| same(brought.as_bytes(), once.as_bytes())) {
                return Verdict::Refuse(
                    "the secret in this URL is not this relay's, or has been used; use the URL that `hearth open` \
                     has printed",
                );
            }
            *once = None;
        }
        // A path with two slashes would be a URL of another host.
        let path = format!("/{}", path.trim_start_matches('/'));
        let cookie = format!("{COOKIE_NAME}{}={}; Path=/; HttpOnly; SameSite=Strict", self.port, self.cookie);
        Verdict::Enter { path, cookie }
    }
}

/// Removes relays' cookies from a request: the app must not see them, nor those of other relays,
/// which browsers send as well.
pub(super) fn strip_cookies(headers: &mut HeaderMap) {
    let own = |cookie: &[u8]| cookie.trim_ascii().starts_with(COOKIE_NAME.as_bytes());
    let kept: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let cookies = value.as_bytes().split(|byte| *byte == b';').filter(|cookie| !own(cookie));
            let cookies: Vec<_> =
                cookies.map(<[u8]>::trim_ascii).filter(|cookie| !cookie.is_empty()).collect();
            let joined = cookies.join(&b"; "[..]);
            (!joined.is_empty()).then(|| HeaderValue::from_bytes(&joined).ok()).flatten()
        })
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

/// Whether the request was made by a page of another origin.
fn is_foreign(host: &str, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let own = format!("http://{host}");
    headers.get_all(ORIGIN).iter().any(|origin| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Compares in constant time.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

/// A secret in hexadecimal digits.
fn secret() -> Result<String, Failure> {
    let mut bytes = [0_u8; SECRET];
    let filled = default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::failed("the system has no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1:4711";

    /// A guard at an address, so that its host is known.
    fn guard() -> Guard {
        Guard::new(HostName::Address, 4711).unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn judge(guard: &Guard, path: &str, lines: &[(&'static str, &str)]) -> Verdict {
        guard.judge(&path.parse().unwrap(), &headers(lines))
    }

    /// Opens a URL; returns the cookie that is sent afterwards.
    fn enter(guard: &Guard, url: &str, expected: &str) -> Option<String> {
        let path = url.strip_prefix("http://127.0.0.1:4711").unwrap();
        match judge(guard, path, &[("host", LOCAL)]) {
            Verdict::Enter { path, cookie } => {
                assert_eq!(path, expected);
                assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
                Some(cookie.split(';').next().unwrap().to_owned())
            }
            _ => None,
        }
    }

    #[test]
    fn the_cookie_of_the_first_url_is_what_later_requests_need() {
        let guard = guard();
        let cookie = enter(&guard, &guard.url("/a?b=c"), "/a?b=c").unwrap();
        let among = format!("a=b; {cookie};c=d");
        assert_eq!(judge(&guard, "/x", &[("host", LOCAL), ("cookie", &among)]), Verdict::Pass);
        let refused =
            |lines: &[(&'static str, &str)]| matches!(judge(&guard, "/x", lines), Verdict::Refuse(_));
        assert!(refused(&[("host", LOCAL)]));
        assert!(refused(&[("host", LOCAL), ("cookie", &format!("{cookie}0"))]));
        assert!(refused(&[("host", LOCAL), ("cookie", &cookie.replace("4711", "4712"))]));
        assert!(refused(&[("cookie", &cookie)]));
        for host in [
            "evil.example:4711",
            "127.0.0.1",
            "127.0.0.1:4712",
            "localhost:4711",
            "localhost.evil.example:4711",
        ] {
            assert!(refused(&[("host", host), ("cookie", &cookie)]), "{host}");
        }
    }

    #[test]
    fn each_relay_has_a_name_of_its_own() {
        let [one, two] = [(); 2].map(|()| Guard::new(HostName::Own, 4711).unwrap());
        assert_ne!(one.host, two.host);
        let name = one.host.strip_suffix(".localhost:4711").unwrap();
        assert!(name.len() == 19 && one.url("/").starts_with(&format!("http://{}/", one.host)), "{name}");
        let url: Uri = one.url("/").parse().unwrap();
        let entered =
            |host: &str| matches!(judge(&one, url.path(), &[("host", host)]), Verdict::Enter { .. });
        assert!(entered(&one.host) && entered(&one.host.to_ascii_uppercase()));
        for other in [two.host.as_str(), LOCAL, "localhost:4711"] {
            assert!(!entered(other), "{other}");
        }
    }

    #[test]
    fn the_url_for_the_browser_is_good_once_and_the_printed_one_always() {
        let guard = guard();
        let once = guard.url_for_once("/");
        assert_ne!(once, guard.url("/"));
        assert!(enter(&guard, &once, "/").is_some());
        assert!(enter(&guard, &once, "/").is_none());
        assert!(enter(&guard, &guard.url("/"), "/").is_some());
        assert!(enter(&guard, &guard.url(""), "/").is_some());
        assert!(enter(&guard, &guard.url("//evil.example/"), "/evil.example/").is_some(), "no other host");
        assert!(enter(&guard, "http://127.0.0.1:4711/.hearth//", "/").is_none());
    }

    #[test]
    fn pages_of_other_sites_and_ports_are_refused() {
        let guard = guard();
        let cookie = enter(&guard, &guard.url("/"), "/").unwrap();
        let verdict = |name: &'static str, value: &str| {
            judge(&guard, "/", &[("host", LOCAL), ("cookie", &cookie), (name, value)])
        };
        for (name, value) in [
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("origin", "http://127.0.0.1:4711"),
        ] {
            assert_eq!(verdict(name, value), Verdict::Pass, "{name}: {value}");
        }
        for (name, value) in [
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:4712"),
            ("origin", "http://localhost:4711"),
            ("origin", "https://evil.example"),
        ] {
            assert!(matches!(verdict(name, value), Verdict::Refuse(_)), "{name}: {value}");
        }
    }

    #[test]
    fn the_app_does_not_see_cookies_of_relays() {
        let mut map = headers(&[
            ("cookie", "a=b; hearth-relay-4711=s;c=d"),
            ("cookie", "hearth-relay-1=t"),
            ("cookie", "e=f"),
        ]);
        strip_cookies(&mut map);
        let left: Vec<_> = map.get_all(COOKIE).iter().collect();
        assert_eq!(left, ["a=b; c=d", "e=f"]);
    }
}
