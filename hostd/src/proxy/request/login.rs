//! Links that contain a token: browsers log in with them.
//!
//! The endpoint itself responds to such a link: it turns the token into a cookie, and redirects to the same link without
//! the token. The token has to be for this host, for its app and for the port in the link: the cookie would be refused otherwise,
//! and would take the place of a good one.

use hyper::header::{CACHE_CONTROL, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE};
use hyper::{Method, Request, Response, StatusCode};

use super::super::body::ResponseBody;
use super::super::credentials::{self, COOKIES};
use super::host::Host;
use crate::tokens::Tokens;

/// Query parameters of a link that contains a token, and optionally a port.
const LINK: [&str; 2] = ["x-aws-proxy-auth", "x-aws-proxy-port"];

/// Responds to links that contain a token.
#[derive(Debug)]
pub(super) struct Login {
    tokens: Tokens,
}

impl Login {
    /// Logs in with these tokens.
    pub(super) fn new(tokens: Tokens) -> Self {
        Self { tokens }
    }

    /// The response to a link that contains a valid token for what the link leads to; `None` for other requests.
    pub(super) fn respond<B>(&self, host: &Host, request: &Request<B>) -> Option<Response<ResponseBody>> {
        let query = request.uri().query()?;
        let find = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let token = find(LINK[0]).filter(|_| *request.method() == Method::GET)?;
        let valid = self.tokens.open_token(&token).ok()?;
        let port = find(LINK[1]);
        if !valid.aud.eq_ignore_ascii_case(host.name())
            || !valid.allows(credentials::port(port.as_deref()).ok()?)
        {
            return None;
        }
        let mut response = Response::new(ResponseBody::text(String::new()));
        *response.status_mut() = StatusCode::SEE_OTHER;
        let seconds = self.tokens.seconds_left(&valid);
        for (name, value) in COOKIES.iter().zip([Some(token), port]) {
            // A link without a port ends the cookie with the port of an earlier one.
            let (value, seconds) = value.map_or((String::new(), 0), |value| (value, seconds));
            let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
            response.headers_mut().append(SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
        }
        let is_ours = |pair: &str| {
            let key = pair.split('=').next();
            key.is_some_and(|key| LINK.iter().any(|name| key.eq_ignore_ascii_case(name)))
        };
        let rest: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
        let path = request.uri().path();
        let rest = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
        let location = HeaderValue::try_from(format!("https://{}{path}{rest}", host.authority())).ok()?;
        let headers = response.headers_mut();
        headers.insert(LOCATION, location);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Steps;
    use super::*;
    use crate::tokens::Kind;

    #[tokio::test]
    async fn a_link_with_a_valid_token_becomes_a_cookie_and_the_link_without_it() {
        let steps = Steps::new().await;
        let login = Login::new(steps.host.tokens.clone());
        let token = steps.host.token();
        let answer = |method: &str, query: &str| {
            let uri = format!("https://{}/a?{query}", steps.name());
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let response = login.respond(&steps.checked(&request).unwrap(), &request)?;
            assert_eq!(response.status(), StatusCode::SEE_OTHER);
            let all = |name| response.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
            let location = all(LOCATION).next().unwrap().to_owned();
            Some((location, all(SET_COOKIE).map(str::to_owned).collect::<Vec<_>>()))
        };
        let (location, cookies) =
            answer("GET", &format!("b=1&X-Aws-Proxy-Auth={token}&x-aws-proxy-port=9000&c")).unwrap();
        assert_eq!(location, format!("https://{}/a?b=1&c", steps.name()));
        assert!(cookies[0].starts_with(&format!("__Host-hearth-token={token}; Path=/; Max-Age=")));
        assert!(cookies[1].starts_with("__Host-hearth-port=9000; ") && cookies.len() == 2, "{cookies:?}");
        let (location, cookies) = answer("GET", &format!("x-aws-proxy-auth={token}")).unwrap();
        assert_eq!(location, format!("https://{}/a", steps.name()));
        assert!(cookies[1].starts_with("__Host-hearth-port=; Path=/; Max-Age=0; "), "{cookies:?}");
        // Tokens that this link's cookie could not be used with.
        let other = steps.mint(|grant| grant.endpoint = "two.example".to_owned());
        let shell = steps.mint(|grant| (grant.kind, grant.ports) = (Kind::Shell, Vec::new()));
        for (token, port) in
            [(&other, "8080"), (&shell, "8080"), (&token, "81"), (&token, "0"), (&token, "x")]
        {
            let link = format!("x-aws-proxy-auth={token}&x-aws-proxy-port={port}");
            assert_eq!(answer("GET", &link), None, "{port}");
        }
        assert_eq!(answer("POST", &format!("x-aws-proxy-auth={token}")), None);
        assert_eq!(answer("GET", "x-aws-proxy-auth=none"), None);
        assert_eq!(answer("GET", "a=1"), None);
    }
}
