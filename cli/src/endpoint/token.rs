//! Tokens for endpoints: made when they are needed, and renewed before they expire.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hearth_proto::microvms::v1::port_specification::Specification;
use hearth_proto::microvms::v1::{
    CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest, PortSpecification,
};
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::Mutex;

use crate::connect::Client;
use crate::error::Failure;

/// Request header with the token (docs/behaviour.md, "Passing a token").
pub(crate) const AUTH: HeaderName = HeaderName::from_static("x-aws-proxy-auth");
/// Request header with the port of the app (docs/behaviour.md, "Ports").
pub(crate) const PORT: HeaderName = HeaderName::from_static("x-aws-proxy-port");

/// Validity in minutes of tokens that are renewed automatically.
const MINUTES: i32 = 15;
/// Age at which they are renewed: the margin is for clocks that differ, and for requests under way.
const MAX_AGE: Duration = Duration::from_secs(12 * 60);

/// A token for requests to one port of a microVM.
pub(crate) async fn http_token(
    client: &Client,
    id: &str,
    port: u16,
    minutes: i32,
) -> Result<String, Failure> {
    let specification = Some(Specification::Port(port.into()));
    let request = CreateMicrovmAuthTokenRequest {
        microvm_identifier: Some(id.to_owned()),
        expiration_in_minutes: Some(minutes),
        allowed_ports: vec![PortSpecification { specification }],
    };
    let mut microvms = client.microvms();
    let answer = microvms.create_microvm_auth_token(request);
    only(client.call(format!("make a token for {id}"), answer).await?.auth_token)
}

/// A token for a shell in a microVM.
pub(crate) async fn shell_token(client: &Client, id: &str, minutes: i32) -> Result<String, Failure> {
    let request = CreateMicrovmShellAuthTokenRequest {
        microvm_identifier: Some(id.to_owned()),
        expiration_in_minutes: Some(minutes),
    };
    let mut microvms = client.microvms();
    let answer = microvms.create_microvm_shell_auth_token(request);
    only(client.call(format!("make a shell token for {id}"), answer).await?.auth_token)
}

/// The token among the headers of a response. It is written into headers and files, so unusual characters are refused.
fn only(headers: BTreeMap<String, String>) -> Result<String, Failure> {
    let token = headers.into_iter().find(|(name, _)| AUTH.as_str().eq_ignore_ascii_case(name));
    let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'\\' | b',');
    match token {
        Some((_, token)) if !token.is_empty() && !token.bytes().any(odd) => Ok(token),
        _ => Err(Failure::failed("the daemon's answer has no token that can be sent")),
    }
}

/// The tokens of a relay, as long as it runs.
pub(crate) struct Tokens {
    client: Client,
    id: String,
    pub(crate) port: u16,
    held: Mutex<Option<Held>>,
}

struct Held {
    token: HeaderValue,
    /// Time of creation, by the clock that continues while the machine sleeps.
    made: SystemTime,
}

impl Tokens {
    pub(crate) fn new(client: Client, id: String, port: u16) -> Self {
        Self { client, id, port, held: Mutex::new(None) }
    }

    /// A token that is valid for some time.
    pub(crate) async fn get(&self) -> Result<HeaderValue, Failure> {
        let mut held = self.held.lock().await;
        match &*held {
            Some(known) if is_fresh(known.made, SystemTime::now()) => Ok(known.token.clone()),
            _ => self.make(&mut held).await,
        }
    }

    /// A new token instead of one that was refused.
    pub(crate) async fn instead_of(&self, refused: &HeaderValue) -> Result<HeaderValue, Failure> {
        let mut held = self.held.lock().await;
        match &*held {
            Some(known) if known.token != *refused => Ok(known.token.clone()),
            _ => self.make(&mut held).await,
        }
    }

    async fn make(&self, held: &mut Option<Held>) -> Result<HeaderValue, Failure> {
        let made = SystemTime::now();
        let token = http_token(&self.client, &self.id, self.port, MINUTES).await?;
        let mut token = HeaderValue::from_str(&token)
            .map_err(|_| Failure::failed("the daemon's token has characters that cannot be sent"))?;
        token.set_sensitive(true);
        *held = Some(Held { token: token.clone(), made });
        Ok(token)
    }
}

/// Whether a token with this time of creation is valid for longer than a request takes. A time in the future is not trusted.
fn is_fresh(made: SystemTime, now: SystemTime) -> bool {
    now.duration_since(made).is_ok_and(|age| age < MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_made_anew_before_they_expire() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(is_fresh(made, made));
        assert!(is_fresh(made, made + Duration::from_secs(719)));
        assert!(!is_fresh(made, made + Duration::from_secs(720)));
        assert!(!is_fresh(made, made - Duration::from_secs(1)), "the clock was set back");
        assert!(MAX_AGE < Duration::from_secs(60) * u32::try_from(MINUTES).unwrap());
    }

    #[test]
    fn a_token_cannot_break_out_of_headers_and_files() {
        let headers = |name: &str, token: &str| BTreeMap::from([(name.to_owned(), token.to_owned())]);
        assert_eq!(only(headers("X-aws-proxy-auth", "a.b_c-d..e")).unwrap(), "a.b_c-d..e");
        for token in ["", "a\nb", "a\"", "a\\", "a,b", "a b", "ä"] {
            assert!(only(headers("X-aws-proxy-auth", token)).is_err(), "{token}");
        }
        assert!(only(headers("other", "a")).is_err());
    }
}
