//! Tokens and ports in requests (docs/behaviour.md, "Ports" and "Passing a token").
//!
//! A token is sent in the header `X-aws-proxy-auth`. WebSocket clients in browsers cannot set headers, and offer it as
//! a subprotocol, `lambda-microvms.authentication.TOKEN`, beside `lambda-microvms`. If browser logins are enabled, a
//! link carries the token once and a cookie keeps it.

use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

use super::error::ProxyError;

/// The header with the token.
pub const AUTH: HeaderName = HeaderName::from_static("x-aws-proxy-auth");
/// The header with the port.
pub const PORT: HeaderName = HeaderName::from_static("x-aws-proxy-port");
/// The subprotocol that marks the others as the platform's.
pub const PROTOCOL: &str = "lambda-microvms";
/// The cookies with the token and with the port. Browsers send cookies with the prefix `__Host-` only to the host that
/// has set them.
pub const COOKIES: [&str; 2] = ["__Host-hearth-token", "__Host-hearth-port"];

const PROTOCOL_AUTH: &str = "lambda-microvms.authentication.";
const PROTOCOL_PORT: &str = "lambda-microvms.port.";
/// Port of the app if the request names none.
const DEFAULT_PORT: u16 = 8080;

/// Credentials in a request.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The token.
    pub token: Option<String>,
    /// The port, as the request spells it.
    port: Option<String>,
    /// Whether the token comes from a cookie, which a browser sends whoever has made the page that asks.
    pub from_cookie: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Credentials {
    /// The credentials in the headers of a request. `websocket`: whether subprotocols are read; `cookies`: whether
    /// cookies are read.
    #[must_use]
    pub fn of(headers: &HeaderMap, websocket: bool, cookies: bool) -> Self {
        let text =
            |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut found = Self { token: text(AUTH), port: text(PORT), from_cookie: false };
        if websocket && protocols(headers).any(|protocol| protocol == PROTOCOL) {
            let with = |start| protocols(headers).find_map(|protocol| protocol.strip_prefix(start));
            found.token = found.token.or_else(|| with(PROTOCOL_AUTH).map(str::to_owned));
            found.port = found.port.or_else(|| with(PROTOCOL_PORT).map(str::to_owned));
        }
        if cookies && found.token.is_none() {
            found.token = cookie(headers, COOKIES[0]);
            found.from_cookie = found.token.is_some();
            found.port = found.port.or_else(|| cookie(headers, COOKIES[1]));
        }
        found
    }

    /// The port that the request names, or the default port.
    ///
    /// # Errors
    /// [`ProxyError::Port`].
    pub fn port(&self) -> Result<u16, ProxyError> {
        port(self.port.as_deref())
    }
}

/// The port that a request or a link names, or the default port.
///
/// # Errors
/// [`ProxyError::Port`].
pub fn port(named: Option<&str>) -> Result<u16, ProxyError> {
    let Some(port) = named else { return Ok(DEFAULT_PORT) };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| port.parse().ok()).flatten().filter(|number| *number > 0);
    number.ok_or_else(|| ProxyError::Port(port.chars().take(32).collect()))
}

/// The subprotocols that a request offers.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// Removes the platform's subprotocols, so that the app only sees its own. Returns whether there were any.
pub fn remove_protocols(headers: &mut HeaderMap) -> bool {
    let (platform, own): (Vec<&str>, Vec<&str>) = protocols(headers).partition(|protocol| {
        *protocol == PROTOCOL || protocol.starts_with(PROTOCOL_AUTH) || protocol.starts_with(PROTOCOL_PORT)
    });
    let (had, own) = (!platform.is_empty(), own.join(", "));
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(own) = HeaderValue::try_from(own)
        && !own.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, own);
    }
    had
}

/// Removes the platform's cookies. Values of others may have any bytes (RFC 6265, section 5.4), and stay as they are.
pub fn remove_cookies(headers: &mut HeaderMap) {
    if !cookies(headers).any(is_ours) {
        return;
    }
    let own: Vec<&[u8]> = cookies(headers).filter(|pair| !is_ours(pair)).collect();
    let own = HeaderValue::try_from(own.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Ok(own) = own
        && !own.is_empty()
    {
        headers.insert(COOKIE, own);
    }
}

/// The pairs `name=value` of all headers with cookies.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    values.map(<[u8]>::trim_ascii)
}

fn is_ours(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    COOKIES.iter().any(|own| name.trim_ascii() == own.as_bytes())
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = cookies(headers).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    value.and_then(|value| String::from_utf8(value.to_vec()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn the_header_comes_before_the_subprotocol_and_that_before_the_cookie() {
        let cookie = ("cookie", "a=b; __Host-hearth-token=C; __Host-hearth-port=3000");
        let protocol = (
            "sec-websocket-protocol",
            "chat, lambda-microvms.authentication.P, lambda-microvms.port.9000,lambda-microvms",
        );
        let all = headers(&[cookie, protocol, ("x-aws-proxy-auth", "H"), ("x-aws-proxy-port", "81")]);
        let found = |headers: &HeaderMap, websocket, cookies| {
            let found = Credentials::of(headers, websocket, cookies);
            (found.token.clone(), found.port())
        };
        assert_eq!(found(&all, true, true), (Some("H".into()), Ok(81)));
        let two = headers(&[cookie, protocol]);
        assert_eq!(found(&two, true, true), (Some("P".into()), Ok(9000)));
        assert_eq!(found(&two, false, true), (Some("C".into()), Ok(3000)));
        assert_eq!(found(&two, false, false), (None, Ok(8080)));
        let unmarked = headers(&[("sec-websocket-protocol", "lambda-microvms.authentication.P")]);
        assert_eq!(found(&unmarked, true, true), (None, Ok(8080)));
    }

    #[test]
    fn a_port_is_a_decimal_number_from_1_to_65535() {
        for wrong in ["", "0", "65536", "-1", "+80", "80 ", "8o", "0x50", "99999999999999999999"] {
            let port = Credentials::of(&headers(&[("x-aws-proxy-port", wrong)]), false, false).port();
            assert_eq!(port, Err(ProxyError::Port(wrong.to_owned())), "{wrong:?}");
        }
        let port = |text| Credentials::of(&headers(&[("x-aws-proxy-port", text)]), false, false).port();
        assert_eq!((port("1"), port("65535")), (Ok(1), Ok(65_535)));
    }

    #[test]
    fn the_app_sees_neither_the_platforms_subprotocols_nor_its_cookies() {
        let mut given = headers(&[
            (
                "sec-websocket-protocol",
                "lambda-microvms, chat,lambda-microvms.authentication.P , lambda-microvms.port.1,v2",
            ),
            ("cookie", "a=b; __Host-hearth-token=C; __Host-hearth-port=3000;c=d"),
        ]);
        assert!(remove_protocols(&mut given));
        remove_cookies(&mut given);
        assert_eq!(given, headers(&[("sec-websocket-protocol", "chat, v2"), ("cookie", "a=b; c=d")]));
        assert!(!remove_protocols(&mut given));
        // A cookie beside ours that is no ASCII does not take ours to the app, and stays.
        let mut bytes = HeaderMap::new();
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
        bytes.append(COOKIE, value(b"name=\xc3\xa9; __Host-hearth-token=C; other=\xff"));
        bytes.append(COOKIE, value(b"__Host-hearth-port=81"));
        let found = Credentials::of(&bytes, false, true);
        assert_eq!((found.token.as_deref(), found.port()), (Some("C"), Ok(81)));
        remove_cookies(&mut bytes);
        assert_eq!(bytes.get_all(COOKIE).iter().collect::<Vec<_>>(), [&value(b"name=\xc3\xa9; other=\xff")]);
        let mut only = headers(&[
            ("sec-websocket-protocol", "lambda-microvms,lambda-microvms.authentication.P"),
            ("cookie", "__Host-hearth-token=C"),
        ]);
        assert!(remove_protocols(&mut only));
        remove_cookies(&mut only);
        assert_eq!(only, HeaderMap::new());
    }
}
