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
/// Flow-control windows of HTTP/2 for data from the app, in bytes, for each stream and each connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

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
    ports: Mutex<HashMap<u16, Arc<Port>>>,
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
        Arc::clone(ports.entry(port).or_insert_with(|| Arc::new(Port::new(&self.guest, port))))
    }

    /// What a port is known to speak.
    #[cfg(test)]
    pub(super) fn known_scheme(&self, port: u16) -> Option<super::scheme::PortScheme> {
        self.ports.lock().unwrap().get(&port).and_then(|port| port.known.get())
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
            if error.is_connect() {
                // Another app may listen at this port next, or none.
                connections.known.set(None);
                self.ports.lock().unwrap_or_else(poisoned).remove(&port);
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
    use super::super::tests::{PLAIN, World};
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
    async fn connections_are_used_again_and_a_port_that_refuses_is_forgotten() {
        let world = World::new().await;
        let upstream = Upstreams::default().of("microvm-1", &world.guest().await);
        for _ in 0..5 {
            assert_eq!(world.get(&upstream, PLAIN, Protocol::Http1).await.unwrap(), 200);
        }
        assert_eq!(world.connections(PLAIN), 1);
        assert_eq!(world.get(&upstream, 1, Protocol::Http1).await.unwrap_err(), ProxyError::App);
        assert!(!upstream.ports.lock().unwrap().contains_key(&1));
    }
}
