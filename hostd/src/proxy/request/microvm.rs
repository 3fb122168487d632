//! The fourth step: the microVM that a token is for. Its lifecycle hooks cannot be called from outside.

use std::sync::Arc;

use hyper::Request;

use super::super::error::ProxyError;
use super::super::hooks;
use super::host::Host;
use super::port::{Authorised, Target};
use crate::driver::Microvms;
use crate::driver::gate::Gate;

/// A request to a microVM that has not ended.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) host: Host,
    pub(super) to: Target,
    /// The microVM's gate.
    pub(super) gate: Arc<Gate>,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Finds microVMs.
#[derive(Debug)]
pub(super) struct Finder(Microvms);

impl Finder {
    /// Finds these microVMs.
    pub(super) fn new(microvms: Microvms) -> Self {
        Self(microvms)
    }

    /// Finds the microVM of a request.
    ///
    /// # Errors
    /// [`ProxyError::Microvm`] if it has ended, [`ProxyError::Hook`] if the request could call a hook.
    pub(super) fn find<B>(&self, authorised: Authorised, request: &Request<B>) -> Result<Found, ProxyError> {
        let Authorised { host, claims, to, .. } = authorised;
        let gate = self.0.gate(&claims.sub).ok_or(ProxyError::Microvm)?;
        if let Target::App { port, .. } = to
            && gate.hooks_port() == Some(port)
            && hooks::could_be_called(request)
        {
            return Err(ProxyError::Hook);
        }
        Ok(Found { host, to, gate, _checked: Checked })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Steps;
    use super::*;

    #[tokio::test]
    async fn hooks_cannot_be_called_at_the_port_of_hooks() {
        let steps = Steps::new().await;
        let hook = "/aws/lambda-microvms/runtime/v1/suspend";
        for (port, path, refused) in
            [("9000", hook, true), ("9000", "/", false), ("8080", hook, false), ("8080", "/", false)]
        {
            let token = steps.host.token();
            let headers = [("x-aws-proxy-auth", token.as_str()), ("x-aws-proxy-port", port)];
            let request = steps.request_to(path, &headers);
            match steps.found(&request) {
                Ok(found) => assert!(!refused && found.gate.id() == "microvm-1", "{port} {path}"),
                Err(error) => assert!(refused && error == ProxyError::Hook, "{port} {path}: {error:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_microvm_that_is_not_there_is_not_found() {
        let steps = Steps::new().await;
        let token = steps.mint(|grant| grant.microvm_id = "microvm-2".to_owned());
        let request = steps.request(&[("x-aws-proxy-auth", &token)]);
        assert_eq!(steps.found(&request).unwrap_err(), ProxyError::Microvm);
    }
}
