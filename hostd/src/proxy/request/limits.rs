//! The fifth step: what the microVM and its account may take at most, and the limits of the microVM's memory class where
//! traffic is limited. A connection with a place among those of its microVM may be idle from then on.

use std::sync::Arc;

use super::super::error::ProxyError;
use super::super::limiter::{Limiter, Limits};
use super::super::peer::Peer;
use super::super::shares::{Shares, Underway};
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
    /// The place of the exchange, until it is over.
    pub(super) underway: Underway,
    _checked: Checked,
}

#[derive(Debug)]
struct Checked;

/// Counts connections and requests.
#[derive(Debug)]
pub(super) struct Admission {
    shares: Arc<Shares>,
    /// Present if traffic is limited by memory class.
    limits: Option<Arc<Limits>>,
}

impl Admission {
    /// Counts with these limits.
    pub(super) fn new(shares: Arc<Shares>, limits: Option<Arc<Limits>>) -> Self {
        Self { shares, limits }
    }

    /// Counts a request and its connection.
    ///
    /// # Errors
    /// [`ProxyError::Share`], [`ProxyError::TooMany`].
    pub(super) fn admit(&self, found: Found, peer: &Peer) -> Result<Admitted, ProxyError> {
        let Found { host, to, gate, .. } = found;
        let seat = peer.seat(&self.shares, &gate)?;
        let limiter = self.limits.as_ref().map(|limits| limits.of(&gate));
        if let Some(limiter) = &limiter {
            peer.count(limiter)?;
        }
        peer.authorise();
        if let Some(limiter) = &limiter {
            limiter.request()?;
        }
        let underway = seat.request()?;
        Ok(Admitted { host, to, gate, limiter, underway, _checked: Checked })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::limiter::Class;
    use super::super::super::shares::ShareTaken;
    use super::super::super::shares::config::EndpointConnections;
    use super::super::tests::Steps;
    use super::*;

    fn admission(limited: bool) -> Admission {
        let shares = Arc::new(Shares::new(EndpointConnections::default()));
        Admission::new(shares, limited.then(Arc::default))
    }

    #[tokio::test]
    async fn connections_are_counted_once_and_their_requests_each_time() {
        let steps = Steps::new().await;
        let class = Class::of(512);
        let connections = usize::try_from(class.connections).unwrap();
        let admission = admission(true);
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
    async fn only_a_request_with_a_place_authorises_the_connection() {
        let steps = Steps::new().await;
        let shares = EndpointConnections { per_microvm: Some(1), ..EndpointConnections::default() };
        let admission = Admission::new(Arc::new(Shares::new(shares)), None);
        let request = steps.good();
        let (first, second) = (steps.another_peer(), steps.another_peer());
        let refused = steps.found(&steps.request(&[("x-aws-proxy-port", "80")])).unwrap_err();
        assert!(refused == ProxyError::Unauthenticated && !first.is_authorised());
        for _ in 0..2 {
            admission.admit(steps.found(&request).unwrap(), &first).unwrap();
            let refused = admission.admit(steps.found(&request).unwrap(), &second).unwrap_err();
            assert_eq!(refused, ProxyError::Share(ShareTaken::MicrovmConnections(1)));
            assert!(first.is_authorised() && !second.is_authorised());
        }
        drop(first);
        admission.admit(steps.found(&request).unwrap(), &second).unwrap();
        assert!(second.is_authorised());
    }

    #[tokio::test]
    async fn without_limits_nothing_is_counted() {
        let steps = Steps::new().await;
        let (request, peer) = (steps.good(), steps.another_peer());
        let admission = admission(false);
        for _ in 0..1000 {
            let found = steps.found(&request).unwrap();
            assert!(admission.admit(found, &peer).unwrap().limiter.is_none());
        }
    }
}
