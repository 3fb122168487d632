//! What a port of the app speaks.

use std::sync::{Arc, Mutex};

use crate::panics::poisoned;

/// The protocol of a connection to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum Protocol {
    /// HTTP/1.1 over plain TCP; the protocol that the app chooses over TLS.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Whether a port speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortScheme {
    Plain,
    Tls,
}

/// What is known of a port. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownScheme(Arc<Mutex<Option<PortScheme>>>);

impl KnownScheme {
    /// What the port speaks; `None` if it is not known.
    pub(super) fn get(&self) -> Option<PortScheme> {
        *self.0.lock().unwrap_or_else(poisoned)
    }

    pub(super) fn set(&self, scheme: Option<PortScheme>) {
        *self.0.lock().unwrap_or_else(poisoned) = scheme;
    }
}
