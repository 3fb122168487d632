//! The fifth step: the limits of the microVM's endpoint, where traffic is limited.

use std::sync::Arc;

use super::super::error::ProxyError;
use super::super::limiter::{Limiter, Limits};
use super::super::peer::Peer;
use super::host::Host;
use super::microvm::Found;
use super::port::Target;
use crate::driver::gate::Gate;

/// A request within the limits.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) host: Host,
    pub(super) to: Target,
    pub(super) gate: Arc<Gate>,
    /// Limits the bytes of the exchange.
    pub(super) limiter: Option<Arc<Limiter>>,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Counts connections and requests.
#[derive(Debug)]
pub(super) struct Admission(Option<Arc<Limits>>);

impl Admission {
    /// Counts with these limits; without any, everything is admitted.
    pub(super) fn new(limits: Option<Arc<Limits>>) -> Self {
        Self(limits)
    }

    /// Counts a request and its connection.
    ///
    /// # Errors
    /// [`ProxyError::TooMany`].
    pub(super) fn admit(&self, found: Found, peer: &Peer) -> Result<Admitted, ProxyError> {
        let Found { host, to, gate, .. } = found;
        let limiter = self.0.as_ref().map(|limits| limits.of(&gate));
        if let Some(limiter) = &limiter {
            peer.count(limiter)?;
            limiter.request()?;
        }
        Ok(Admitted { host, to, gate, limiter, _checked: Checked })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::limiter::Class;
    use super::super::tests::Steps;
    use super::*;

    #[tokio::test]
    async fn connections_are_counted_once_and_their_requests_each_time() {
        let steps = Steps::new().await;
        let class = Class::of(512);
        let connections = usize::try_from(class.connections).unwrap();
        let admission = Admission::new(Some(Arc::default()));
        let request = steps.good();
        let peers: Vec<_> = (0..connections).map(|_| steps.another_peer()).collect();
        for peer in &peers {
            assert!(admission.admit(steps.found(&request).unwrap(), peer).unwrap().limiter.is_some());
        }
        let one_more = admission.admit(steps.found(&request).unwrap(), &steps.another_peer());
        assert_eq!(one_more.unwrap_err(), ProxyError::TooMany);
        drop(peers);
        let peer = steps.another_peer();
        let refused = (0..10 * class.requests)
            .filter(|_| admission.admit(steps.found(&request).unwrap(), &peer).is_err())
            .count();
        assert!(refused > 0, "requests are limited on one connection");
    }

    #[tokio::test]
    async fn without_limits_nothing_is_counted() {
        let steps = Steps::new().await;
        let (request, peer) = (steps.good(), steps.another_peer());
        for _ in 0..1000 {
            let found = steps.found(&request).unwrap();
            assert!(Admission::new(None).admit(found, &peer).unwrap().limiter.is_none());
        }
    }
}
