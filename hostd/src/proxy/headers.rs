//! Headers that are not passed on (RFC 9110, section 7.6.1; behaviour, section 4.5).

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

/// What the names of the platform's own headers begin with.
const PLATFORM: &str = "x-aws-proxy-";
/// The header with the id of a request, for the app and the client.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Headers between two neighbours, beside those that `Connection` names.
const NEIGHBOURS: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes what is between neighbours, and the platform's own.
pub fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // What a message cannot do without is not removed at its sender's wish.
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
    let platform: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(PLATFORM)).cloned().collect();
    for name in platform {
        headers.remove(name);
    }
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
            ("traceparent", "00-1"),
            ("grpc-timeout", "1S"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ]);
        clean(&mut given);
        let kept = headers(&[
            ("host", "a.example"),
            ("te", "trailers"),
            ("traceparent", "00-1"),
            ("grpc-timeout", "1S"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ]);
        assert_eq!(given, kept);
    }
}
