//! The second step: the token of a request, which has to be for its host.
//!
//! It comes before everything that depends on the microVM, so that nobody without a token learns whether a microVM
//! exists, or wakes one.

use std::sync::Arc;

use hyper::Request;
use hyper::header::{HeaderName, ORIGIN};

use super::super::credentials::Credentials;
use super::super::error::ProxyError;
use super::super::peer::Peer;
use super::super::websocket;
use super::host::Host;
use crate::tokens::{Claims, Tokens};

/// Header in which browsers report the origin of a request; pages cannot set it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request with a valid token for its host.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) host: Host,
    /// What the token allows.
    pub(super) claims: Arc<Claims>,
    pub(super) credentials: Credentials,
    /// Whether the request is a WebSocket handshake.
    pub(super) websocket: bool,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Finds and checks tokens.
#[derive(Debug)]
pub(super) struct Authentication {
    tokens: Tokens,
    /// Whether cookies may contain tokens.
    cookies: bool,
}

impl Authentication {
    /// Checks with these tokens; `cookies`: whether they may be in cookies.
    pub(super) fn new(tokens: Tokens, cookies: bool) -> Self {
        Self { tokens, cookies }
    }

    /// Checks the token of a request.
    ///
    /// # Errors
    /// [`ProxyError::Unauthenticated`], whatever is wrong.
    pub(super) fn authenticate<B>(
        &self,
        host: Host,
        peer: &Peer,
        request: &Request<B>,
    ) -> Result<Authenticated, ProxyError> {
        let websocket = websocket::is_upgrade(request);
        let credentials = Credentials::of(request.headers(), websocket, self.cookies);
        let claims = credentials.token.as_deref().and_then(|token| peer.claims(&self.tokens, token));
        let claims = claims.filter(|claims| claims.aud.eq_ignore_ascii_case(host.name()));
        let claims = claims.ok_or(ProxyError::Unauthenticated)?;
        if credentials.from_cookie && !may_use_cookie(&host, websocket, request) {
            return Err(ProxyError::Unauthenticated);
        }
        Ok(Authenticated { host, claims, credentials, websocket, _checked: Checked })
    }
}

/// Whether a request may use a cookie's token. Browsers send cookies with requests of other pages, too: those of other microVMs are even
/// of the same site. What changes something, and a WebSocket, whose messages any page could read, must come from a page of this host.
/// Where a page hides its origin (`Referrer-Policy: no-referrer` makes that of a form `null`), browsers say of which kind it is.
fn may_use_cookie<B>(host: &Host, websocket: bool, request: &Request<B>) -> bool {
    if request.method().is_safe() && !websocket {
        return true;
    }
    if !websocket && request.headers().get(FETCH_SITE).is_some_and(|site| site == "same-origin") {
        return true;
    }
    let own = format!("https://{}", host.authority());
    request.headers().get(ORIGIN).is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HANDSHAKE, Steps};
    use super::*;

    #[tokio::test]
    async fn a_token_is_valid_for_the_host_that_it_names() {
        let steps = Steps::new().await;
        let other = steps.mint(|grant| grant.endpoint = "two.example".to_owned());
        let capitals = steps.mint(|grant| grant.endpoint = steps.name().to_ascii_uppercase());
        let expired = steps.mint(|grant| grant.minutes = 0);
        let good = steps.host.token();
        for (token, valid) in
            [(good, true), (capitals, true), (other, false), (expired, false), ("none".to_owned(), false)]
        {
            let request = steps.request(&[("x-aws-proxy-auth", &token)]);
            let found = steps.authenticated(&request);
            assert_eq!(
                found.as_ref().map(|found| found.claims.sub.as_str()).ok(),
                valid.then_some("microvm-1")
            );
            assert!(valid || found.unwrap_err() == ProxyError::Unauthenticated);
        }
        let refused = steps.authenticated(&steps.request(&[])).unwrap_err();
        assert_eq!(refused, ProxyError::Unauthenticated);
    }

    #[tokio::test]
    async fn a_cookie_is_a_token_only_where_browsers_may_log_in() {
        let steps = Steps::new().await;
        let cookie = format!("__Host-hearth-token={}", steps.host.token());
        let request = steps.request(&[("cookie", &cookie)]);
        for cookies in [false, true] {
            let authentication = Authentication::new(steps.host.tokens.clone(), cookies);
            let host = steps.checked(&request).unwrap();
            assert_eq!(authentication.authenticate(host, &steps.peer, &request).is_ok(), cookies);
        }
    }

    #[tokio::test]
    async fn a_cookie_counts_only_for_pages_of_the_same_host() {
        let steps = Steps::new().await;
        let (cookie, own) =
            (format!("__Host-hearth-token={}", steps.host.token()), format!("https://{}", steps.name()));
        let other = "https://00000000-0000-0000-0000-000000000000.microvm.example".to_owned();
        let authentication = Authentication::new(steps.host.tokens.clone(), true);
        let allowed = |method: &str, origin: Option<&String>, more: &[(&str, &str)]| {
            let mut headers = vec![("cookie", cookie.as_str())];
            headers.extend(origin.map(|origin| ("origin", origin.as_str())));
            headers.extend(more);
            let mut request = steps.request(&headers);
            *request.method_mut() = method.parse().unwrap();
            let host = steps.checked(&request).unwrap();
            authentication.authenticate(host, &steps.peer, &request).is_ok()
        };
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(allowed(method, Some(&other), &[]) && allowed(method, None, &[]), "{method}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE"] {
            assert!(allowed(method, Some(&own), &[]), "{method}");
            assert!(!allowed(method, Some(&other), &[]) && !allowed(method, None, &[]), "{method}");
            let hidden = "null".to_owned();
            assert!(!allowed(method, Some(&hidden), &[]), "{method}");
            assert!(allowed(method, Some(&hidden), &[("sec-fetch-site", "same-origin")]), "{method}");
            for other in ["same-site", "cross-site", "none"] {
                assert!(!allowed(method, Some(&hidden), &[("sec-fetch-site", other)]), "{method} {other}");
            }
            // Who can set the header has the token.
            let token = steps.host.token();
            assert!(allowed(method, Some(&other), &[("x-aws-proxy-auth", &token)]), "{method}");
        }
        assert!(allowed("GET", Some(&own), &HANDSHAKE));
        assert!(!allowed("GET", Some(&other), &HANDSHAKE) && !allowed("GET", None, &HANDSHAKE));
    }
}
