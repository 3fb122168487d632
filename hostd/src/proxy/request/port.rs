//! The third step: the port that a request is for, which its token has to allow.

use std::sync::Arc;

use super::super::error::ProxyError;
use super::host::Host;
use super::token::Authenticated;
use crate::tokens::{Claims, Kind};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A port of the app.
    App {
        /// Number of the port.
        port: u16,
        /// Whether the request is a WebSocket handshake.
        websocket: bool,
    },
    /// A shell in the app's container, over a WebSocket.
    Shell,
}

/// A request that its token allows.
#[derive(Debug)]
pub(super) struct Authorised {
    pub(super) host: Host,
    pub(super) claims: Arc<Claims>,
    pub(super) to: Target,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Checks that a token allows what its request is for.
///
/// # Errors
/// [`ProxyError::Port`] if there is no such port, [`ProxyError::PortDenied`] if the token does not allow it.
pub(super) fn authorise(request: Authenticated) -> Result<Authorised, ProxyError> {
    let Authenticated { host, claims, credentials, websocket, .. } = request;
    let to = match claims.kind {
        Kind::Http => {
            let port = credentials.port()?;
            if !claims.allows(port) {
                return Err(ProxyError::PortDenied);
            }
            Target::App { port, websocket }
        }
        Kind::Shell if websocket => Target::Shell,
        // A shell supports nothing but WebSocket.
        Kind::Shell => return Err(ProxyError::App),
    };
    Ok(Authorised { host, claims, to, _checked: Checked })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HANDSHAKE, Steps};
    use super::*;

    #[tokio::test]
    async fn a_token_allows_its_ports_or_a_shell() {
        let steps = Steps::new().await;
        let shell = steps.mint(|grant| (grant.kind, grant.ports) = (Kind::Shell, Vec::new()));
        let ports = steps.mint(|grant| grant.ports = vec![(80, 80), (8000, 9000)]);
        let app = |port, websocket| Ok(Target::App { port, websocket });
        for (token, headers, expected) in [
            (&ports, vec![], app(8080, false)),
            (&ports, HANDSHAKE.to_vec(), app(8080, true)),
            (&ports, vec![("x-aws-proxy-port", "80")], app(80, false)),
            (&ports, vec![("x-aws-proxy-port", "9001")], Err(ProxyError::PortDenied)),
            (&ports, vec![("x-aws-proxy-port", "0")], Err(ProxyError::Port("0".to_owned()))),
            (&shell, HANDSHAKE.to_vec(), Ok(Target::Shell)),
            (&shell, vec![], Err(ProxyError::App)),
        ] {
            let request = steps.request(&[&headers[..], &[("x-aws-proxy-auth", token)]].concat());
            let authenticated = steps.authenticated(&request).unwrap();
            let found = authorise(authenticated).map(|authorised| authorised.to);
            assert_eq!(found, expected, "{headers:?}");
        }
    }
}
