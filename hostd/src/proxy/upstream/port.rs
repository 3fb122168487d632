//! The connections to one port of the app, which are reused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::Dial;
use super::scheme::{Known, Protocol};
use crate::platform::Guest;
use crate::proxy::headers;
use crate::proxy::upload::Upload;

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

/// The connections to one port.
#[derive(Debug)]
pub(super) struct Port {
    http1: Client<Dial, Upload>,
    http2: Client<Dial, Upload>,
    /// Opens a connection for each request.
    alone: Client<Dial, Upload>,
    /// Opens connections for questions.
    pub(super) dial: Dial,
    pub(super) known: Arc<Known>,
    /// Whether the app has closed a kept connection when a request came.
    closes: AtomicBool,
}

impl Port {
    pub(super) fn new(guest: &Weak<dyn Guest>, port: u16) -> Self {
        let known = Arc::default();
        let dial = |protocol| Dial::new(Weak::clone(guest), port, protocol, Arc::clone(&known));
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP)
            .pool_max_idle_per_host(KEEP_MAX)
            .set_host(false)
            .http1_max_buf_size(BUFFER)
            .http1_max_headers(headers::MOST)
            .http2_max_header_list_size(headers::list_size(BUFFER))
            .http2_max_send_buf_size(BUFFER)
            .http2_initial_stream_window_size(WINDOWS.0)
            .http2_initial_connection_window_size(WINDOWS.1);
        let http1 = builder.build(dial(Protocol::Http1));
        let alone = builder.clone().pool_max_idle_per_host(0).build(dial(Protocol::Http1));
        let http2 = builder.http2_only(true).build(dial(Protocol::Http2));
        let dial = dial(Protocol::Http1);
        Self { http1, http2, alone, dial, known, closes: AtomicBool::new(false) }
    }

    /// The client for a request; `alone`: whether the request has to have a connection of its own.
    pub(super) fn client(&self, protocol: Protocol, alone: bool) -> &Client<Dial, Upload> {
        match protocol {
            Protocol::Http1 if alone => &self.alone,
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }

    /// Whether the app has closed a kept connection when a request came.
    pub(super) fn closes(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    /// Remembers that it has.
    pub(super) fn has_closed(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }
}
