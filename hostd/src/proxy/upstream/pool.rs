//! The connections to apps, which are reused.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, Weak};

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::port::Port;
use super::repeat::causes;
use super::scheme::Protocol;
use super::send::Sending;
use crate::driver::gate::Gate;
use crate::panics::poisoned;
use crate::platform::{ConnectError, Guest};
use crate::proxy::body::{Meter, RequestBody};
use crate::proxy::error::ProxyError;
use crate::proxy::limiter::Limiter;
use crate::proxy::shares::Seat;

/// Greatest number of ports of a process of which it is remembered what they speak. A client may name all that there are.
const PORTS: usize = 64;

/// The connections to all apps.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Upstreams {
    by_id: Mutex<HashMap<String, Arc<Upstream>>>,
}

impl Upstreams {
    /// The connections to the app of a microVM's process.
    #[must_use]
    pub(in crate::proxy) fn of(&self, id: &str, guest: &Arc<dyn Guest>) -> Arc<Upstream> {
        let mut by_id = self.by_id.lock().unwrap_or_else(poisoned);
        if let Some(upstream) = by_id.get(id).filter(|upstream| upstream.is_of(guest)) {
            return Arc::clone(upstream);
        }
        // Entries of ended processes are removed here, because new processes are rare compared to requests.
        by_id.retain(|_, upstream| upstream.guest.strong_count() > 0);
        let upstream = Arc::new(Upstream::new(guest));
        by_id.insert(id.to_owned(), Arc::clone(&upstream));
        upstream
    }
}

/// The connections to the app of one process of a microVM.
#[derive(Debug)]
pub(in crate::proxy) struct Upstream {
    guest: Weak<dyn Guest>,
    ports: Mutex<Ports>,
}

/// The ports that were used last.
#[derive(Debug, Default)]
struct Ports {
    /// Each port, and when it was used.
    by_number: HashMap<u16, (Arc<Port>, u64)>,
    /// Number of uses.
    uses: u64,
}

impl Ports {
    fn get(&mut self, number: u16, new: impl FnOnce() -> Port) -> Arc<Port> {
        self.uses = self.uses.wrapping_add(1);
        if let Some((port, used)) = self.by_number.get_mut(&number) {
            *used = self.uses;
            return Arc::clone(port);
        }
        let oldest = self.by_number.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
        if let Some(oldest) = oldest.filter(|_| self.by_number.len() >= PORTS) {
            self.by_number.remove(&oldest); // requests that are under way are answered all the same
        }
        let port = Arc::new(new());
        self.by_number.insert(number, (Arc::clone(&port), self.uses));
        port
    }
}

impl Upstream {
    fn new(guest: &Arc<dyn Guest>) -> Self {
        Self { guest: Arc::downgrade(guest), ports: Mutex::default() }
    }

    fn is_of(&self, guest: &Arc<dyn Guest>) -> bool {
        std::ptr::addr_eq(self.guest.as_ptr(), Arc::as_ptr(guest))
    }

    fn port(&self, port: u16) -> Arc<Port> {
        let mut ports = self.ports.lock().unwrap_or_else(poisoned);
        ports.get(port, || Port::new(&self.guest, port))
    }

    /// What a port is known to speak.
    #[cfg(test)]
    pub(super) fn known_scheme(&self, port: u16) -> Option<super::scheme::PortScheme> {
        self.ports.lock().unwrap().by_number.get(&port).and_then(|(port, _)| port.known.get())
    }

    /// Sends a request to a port of the app. Target and headers are already those that the app is to receive. `seat`: the
    /// place of the client's connection.
    ///
    /// # Errors
    /// The error for the client when the app does not respond.
    pub(in crate::proxy) async fn send(
        &self,
        gate: &Arc<Gate>,
        limiter: Option<&Arc<Limiter>>,
        seat: Option<&Arc<Seat>>,
        (port, protocol): (u16, Protocol),
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let connections = self.port(port);
        let sending = Sending::new(&connections, protocol, request, seat, || Meter::new(gate, limiter));
        sending.send().await.map_err(|error| {
            if error.is_connect() {
                // Another app may listen at this port next, which speaks something else, or none.
                self.ports.lock().unwrap_or_else(poisoned).by_number.remove(&port);
            }
            tracing::debug!(
                microvm = gate.id(),
                port,
                error = &error as &dyn Error,
                "the app did not answer"
            );
            let refused = causes(&error).find_map(|cause| cause.downcast_ref::<ConnectError>());
            refused.map_or(ProxyError::App, ProxyError::from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::scheme::PortScheme;
    use super::super::tests::{PLAIN, TLS, World};
    use super::*;

    #[tokio::test]
    async fn each_process_has_connections_of_its_own() {
        let world = World::new().await;
        let upstreams = Upstreams::default();
        let first = world.guest().await;
        let upstream = upstreams.of("microvm-1", &first);
        assert!(Arc::ptr_eq(&upstream, &upstreams.of("microvm-1", &first)));
        world.restart(first).await;
        let second = world.guest().await;
        assert!(!Arc::ptr_eq(&upstream, &upstreams.of("microvm-1", &second)));
        drop(upstreams.of("microvm-2", &second));
        assert_eq!(upstreams.by_id.lock().unwrap().len(), 2);
        world.restart(second).await;
        drop(upstreams.of("microvm-3", &world.guest().await));
        assert_eq!(upstreams.by_id.lock().unwrap().len(), 1, "those of ended processes are gone");
    }

    #[tokio::test]
    async fn the_ports_that_were_used_last_are_known() {
        let world = World::new().await;
        let upstream = Upstreams::default().of("microvm-1", &world.guest().await);
        let used = upstream.port(PLAIN);
        for number in 10_000..10_000 + 3 * u16::try_from(PORTS).unwrap() {
            let port = upstream.port(number);
            assert!(Arc::ptr_eq(&port, &upstream.port(number)));
            assert!(Arc::ptr_eq(&used, &upstream.port(PLAIN)), "it is used again and again");
        }
        assert_eq!(upstream.ports.lock().unwrap().by_number.len(), PORTS);
        assert_eq!(upstream.known_scheme(10_000), None);
    }

    #[tokio::test]
    async fn a_port_that_does_not_speak_what_it_spoke_is_found_out_anew() {
        let world = World::new().await;
        let upstream = Upstreams::default().of("microvm-1", &world.guest().await);
        // An app without TLS was at the port before.
        upstream.port(TLS).known.found(PortScheme::Plain);
        assert_eq!(world.get(&upstream, TLS, Protocol::Http1).await.unwrap(), 200);
        assert_eq!(upstream.known_scheme(TLS), Some(PortScheme::Tls));
        // And the other way about.
        upstream.port(PLAIN).known.found(PortScheme::Tls);
        assert_eq!(world.get(&upstream, PLAIN, Protocol::Http1).await.unwrap(), 200);
        assert_eq!(upstream.known_scheme(PLAIN), Some(PortScheme::Plain));
    }

    #[tokio::test]
    async fn connections_are_used_again_and_a_port_that_refuses_is_forgotten() {
        let world = World::new().await;
        let upstream = Upstreams::default().of("microvm-1", &world.guest().await);
        for _ in 0..5 {
            assert_eq!(world.get(&upstream, PLAIN, Protocol::Http1).await.unwrap(), 200);
        }
        assert_eq!(world.connections(PLAIN), 1);
        assert_eq!(world.get(&upstream, 1, Protocol::Http1).await.unwrap_err(), ProxyError::App);
        assert!(!upstream.ports.lock().unwrap().by_number.contains_key(&1));
    }
}
