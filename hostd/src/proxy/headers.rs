//! Headers that are not forwarded (RFC 9110, section 7.6.1; docs/behaviour.md, "Headers").

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

/// Prefix of the platform's own headers.
const PLATFORM: &str = "x-aws-proxy-";
/// The header with the id of a request, sent to the app and to the client.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Most headers of a request or response.
pub(super) const MOST: usize = 1000;

/// What HTTP/2 counts for headers of so many bytes: 32 bytes more for each (RFC 7541, section 4.1).
pub(super) fn list_size(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_add(MOST * 32)).unwrap_or(u32::MAX)
}

/// Hop-by-hop headers, beside those that `Connection` names.
const NEIGHBOURS: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes hop-by-hop headers and the platform's own headers.
pub fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // A sender cannot have the headers removed that every message needs.
        .filter(|name| *name != hyper::header::HOST && *name != hyper::header::CONTENT_LENGTH && *name != TE)
        .collect();
    let trailers = headers.get_all(TE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("trailers")))
    });
    for name in named.iter().chain(&NEIGHBOURS) {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    remove_all(headers, |name| begins_with(name, PLATFORM));
}

/// Sets a header that the app trusts. All headers that the client has sent under this name are removed, in any
/// spelling.
pub fn set(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    remove_all(headers, |one| is_spelled(one.as_str().as_bytes(), name.as_str()));
    headers.insert(name, value);
}

fn remove_all(headers: &mut HeaderMap, which: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| which(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn begins_with(name: &HeaderName, start: &str) -> bool {
    name.as_str().as_bytes().get(..start.len()).is_some_and(|own| is_spelled(own, start))
}

/// Whether a name, or a part of one, equals `this`, where `_` counts as `-`: CGI and its successors (WSGI, Rack, PHP)
/// do not distinguish the two.
pub(super) fn is_spelled(name: &[u8], this: &str) -> bool {
    let same = |(own, other): (&u8, u8)| *own == other || *own == b'_' && other == b'-';
    name.len() == this.len() && name.iter().zip(this.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn what_is_between_neighbours_or_the_platforms_own_is_removed() {
        let mut given = headers(&[
            ("host", "a.example"),
            ("connection", "Keep-Alive, X-Private, host"),
            ("connection", "te"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("x-aws-proxy-auth", "secret"),
            ("x-aws-proxy-anything", "1"),
            ("x_aws_proxy-auth", "secret"),
            ("x-aws-proxies", "1"),
            ("traceparent", "00-1"),
            ("grpc-timeout", "1S"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ]);
        clean(&mut given);
        let kept = headers(&[
            ("host", "a.example"),
            ("x-aws-proxies", "1"),
            ("te", "trailers"),
            ("traceparent", "00-1"),
            ("grpc-timeout", "1S"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ]);
        assert_eq!(given, kept);
    }

    #[test]
    fn a_header_that_is_set_has_no_other_value_under_any_spelling() {
        let mut given = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("X_Forwarded-For", "2.2.2.2"),
            ("x_forwarded_for", "3.3.3.3"),
            ("x-forwarded-for", "4.4.4.4"),
            ("x-forwarded-for-you", "a"),
            ("x-forwarded", "b"),
        ]);
        set(&mut given, HeaderName::from_static("x-forwarded-for"), HeaderValue::from_static("5.5.5.5"));
        let expected =
            headers(&[("x-forwarded-for", "5.5.5.5"), ("x-forwarded-for-you", "a"), ("x-forwarded", "b")]);
        assert_eq!(given, expected);
    }
}
