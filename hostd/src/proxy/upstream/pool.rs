//! The connections to apps, which are reused.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::Dial;
use super::first::send_first;
use super::scheme::{KnownScheme, Protocol};
use crate::driver::gate::Gate;
use crate::panics::poisoned;
use crate::platform::{ConnectError, Guest};
use crate::proxy::body::{Meter, RequestBody, Upload};
use crate::proxy::error::ProxyError;
use crate::proxy::limiter::Limiter;

/// How long idle connections are kept: shorter than apps keep them (Node and uvicorn 5 s). Otherwise an app could close
/// a connection while a request is being sent on it.
const KEEP: Duration = Duration::from_secs(4);
/// Greatest number of idle connections to one port: as many as there may be concurrent requests. With fewer, each
/// further request would open and close a connection of its own.
const KEEP_MAX: usize = 1024;
/// Flow-control windows of HTTP/2 for data from the app, in bytes, for each stream and each connection. The one of a
/// connection is large enough for 256 streams whose clients do not read: they hold up no other.
const WINDOWS: (u32, u32) = (64 << 10, 16 << 20);
/// Greatest size of what is read from an app at once, and of what waits for an app that does not read, in bytes. The app's
/// headers have to fit, too.
const BUFFER: usize = 64 << 10;
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

    /// Sends a request to a port of the app. Target and headers are already those that the app is to receive.
    ///
    /// # Errors
    /// The error for the client when the app does not respond.
    pub(in crate::proxy) async fn send(
        &self,
        gate: &Arc<Gate>,
        limiter: Option<&Arc<Limiter>>,
        port: u16,
        protocol: Protocol,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let meter = || Meter::new(gate, limiter);
        let connections = self.port(port);
        let client = connections.client(protocol);
        let response = match connections.known.get() {
            Some(_) => {
                let (head, body) = request.into_parts();
                client.request(Request::from_parts(head, Upload::body(meter(), body))).await
            }
            None => send_first(client, &connections.dial, &connections.known, &meter, request).await,
        };
        response.map_err(|error| {
            // Another app may listen at this port next, which speaks something else, or none.
            connections.known.set(None);
            if error.is_connect() {
                self.ports.lock().unwrap_or_else(poisoned).by_number.remove(&port);
            }
            tracing::debug!(
                microvm = gate.id(),
                port,
                error = &error as &dyn Error,
                "the app did not answer"
            );
            unanswered(&error)
        })
    }
}

/// The error for the client.
fn unanswered(error: &ClientError) -> ProxyError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<ConnectError>() {
            return refused.into();
        }
        cause = error.source();
    }
    ProxyError::App
}

/// The connections to one port.
#[derive(Debug)]
struct Port {
    http1: Client<Dial, Upload>,
    http2: Client<Dial, Upload>,
    /// Opens connections that are not kept.
    dial: Dial,
    known: KnownScheme,
}

impl Port {
    fn new(guest: &Weak<dyn Guest>, port: u16) -> Self {
        let known = KnownScheme::default();
        let dial = |protocol| Dial::new(Weak::clone(guest), port, protocol, known.clone());
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP)
            .pool_max_idle_per_host(KEEP_MAX)
            .set_host(false)
            .http1_max_buf_size(BUFFER)
            .http2_max_send_buf_size(BUFFER)
            .http2_initial_stream_window_size(WINDOWS.0)
            .http2_initial_connection_window_size(WINDOWS.1);
        let http1 = builder.build(dial(Protocol::Http1));
        let http2 = builder.http2_only(true).build(dial(Protocol::Http2));
        let dial = dial(Protocol::Http1);
        Self { http1, http2, dial, known }
    }

    fn client(&self, protocol: Protocol) -> &Client<Dial, Upload> {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
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
        upstream.port(TLS).known.set(Some(PortScheme::Plain));
        assert_eq!(world.get(&upstream, TLS, Protocol::Http1).await.unwrap_err(), ProxyError::App);
        assert_eq!(world.get(&upstream, TLS, Protocol::Http1).await.unwrap(), 200);
        assert_eq!(upstream.known_scheme(TLS), Some(PortScheme::Tls));
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
