//! What everybody may take of the endpoints, at most and always, so that nobody's flood takes the place of others.
//!
//! | Who | What is bounded | Above it |
//! |---|---|---|
//! | a client without a valid token (`crate::api::connections::unknown`) | connections | the connection is closed at once |
//! | a microVM, and an account with all its microVMs | connections; requests, WebSockets and shells under way | the request gets 429 |
//! | an account, and a connection ([`bytes`]) | bytes that one side has sent and the other has not taken | the sender waits; new uploads and shells get 429 |
//!
//! A connection belongs to one microVM: that of the host that it was opened for. Its [`Seat`] is found once, with the first
//! valid token; each further request changes atomic numbers only.
//!
//! * [`config`] – `[endpoint.connections]` of the configuration

pub mod bytes;
pub mod config;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use self::bytes::Gauge;
use self::config::EndpointConnections;
use crate::driver::gate::Gate;
use crate::panics::poisoned;

/// Something that may not be taken, since others of the same microVM or account have as much as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareTaken {
    /// Connections of the microVM.
    #[error(
        "The microVM has {0} connections to its endpoint, which is the limit (endpoint.connections.per_microvm); close some, then \
         open a new one"
    )]
    MicrovmConnections(usize),
    /// Connections of the account.
    #[error(
        "The account's microVMs have {0} connections to their endpoints, which is the limit (endpoint.connections.per_account); \
         close some, then open a new one"
    )]
    AccountConnections(usize),
    /// Requests of the microVM.
    #[error(
        "{0} requests, WebSockets and shells of the microVM are under way, which is the limit \
         (endpoint.connections.requests_per_microvm); try again when some have ended"
    )]
    MicrovmRequests(usize),
    /// Requests of the account.
    #[error(
        "{0} requests, WebSockets and shells of the account's microVMs are under way, which is the limit \
         (endpoint.connections.requests_per_account); try again when some have ended"
    )]
    AccountRequests(usize),
    /// Bytes of the account.
    #[error(
        "The account's clients may have sent, or not have taken, {} MiB, which is the limit (endpoint.connections.buffered_mib_per_account): \
         each request over HTTP/2 whose length is not known counts 2 MiB until its body ends; try again when some have ended", .0 >> 20
    )]
    AccountBytes(usize),
}

impl ShareTaken {
    /// The name of the limit in the metrics.
    #[must_use]
    pub fn limit(self) -> &'static str {
        match self {
            Self::MicrovmConnections(_) => "microvm_connections",
            Self::AccountConnections(_) => "account_connections",
            Self::MicrovmRequests(_) => "microvm_requests",
            Self::AccountRequests(_) => "account_requests",
            Self::AccountBytes(_) => "account_bytes",
        }
    }
}

/// A number with a limit.
#[derive(Debug)]
struct Count {
    now: AtomicUsize,
    most: usize,
}

impl Count {
    fn new(most: usize) -> Self {
        Self { now: AtomicUsize::new(0), most }
    }

    /// Counts one more, unless there are as many as there may be.
    fn enter(&self) -> bool {
        let more = |now: usize| (now < self.most).then(|| now.saturating_add(1));
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the microVMs of an account have taken.
#[derive(Debug)]
struct Account {
    connections: Count,
    requests: Count,
    bytes: Gauge,
    microvms: Mutex<HashMap<String, Weak<Microvm>>>,
}

/// What a microVM has taken.
#[derive(Debug)]
struct Microvm {
    id: String,
    connections: Count,
    requests: Count,
    account: Arc<Account>,
}

/// What all accounts and microVMs with open connections have taken. All threads share it.
#[derive(Debug)]
pub(super) struct Shares {
    config: EndpointConnections,
    accounts: Mutex<HashMap<String, Weak<Account>>>,
}

impl Shares {
    pub(super) fn new(config: EndpointConnections) -> Self {
        Self { config, accounts: Mutex::default() }
    }

    fn account(&self, name: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(poisoned);
        living(&mut accounts, name, || Account {
            connections: Count::new(self.config.of_account()),
            requests: Count::new(self.config.requests_per_account),
            bytes: Gauge::new(self.config.buffered()),
            microvms: Mutex::default(),
        })
    }

    fn microvm(&self, gate: &Gate) -> Arc<Microvm> {
        let account = self.account(gate.account());
        let mut microvms = account.microvms.lock().unwrap_or_else(poisoned);
        living(&mut microvms, gate.id(), || Microvm {
            id: gate.id().to_owned(),
            connections: Count::new(self.config.of_microvm()),
            requests: Count::new(self.config.requests_per_microvm),
            account: Arc::clone(&account),
        })
    }

    /// Counts a connection to a microVM, until the seat is dropped.
    ///
    /// # Errors
    /// [`ShareTaken`]: the microVM or its account has too many.
    pub(super) fn enter(&self, gate: &Gate) -> Result<Arc<Seat>, ShareTaken> {
        let microvm = self.microvm(gate);
        if !microvm.connections.enter() {
            return Err(ShareTaken::MicrovmConnections(microvm.connections.most));
        }
        if !microvm.account.connections.enter() {
            microvm.connections.leave();
            return Err(ShareTaken::AccountConnections(microvm.account.connections.most));
        }
        Ok(Arc::new(Seat { microvm, bytes: Gauge::of_connection(), uploads: AtomicUsize::new(0) }))
    }

    /// Bytes of an account that one side has sent and the other has not taken.
    #[cfg(test)]
    pub(super) fn buffered(&self, account: &str) -> usize {
        self.account(account).bytes.held()
    }
}

/// The entry of a name; a new one if nothing refers to the old one any more.
fn living<T>(entries: &mut HashMap<String, Weak<T>>, name: &str, new: impl FnOnce() -> T) -> Arc<T> {
    if let Some(found) = entries.get(name).and_then(Weak::upgrade) {
        return found;
    }
    // Others that are gone are removed here: new entries are rare compared to requests.
    entries.retain(|_, entry| entry.strong_count() > 0);
    let entry = Arc::new(new());
    entries.insert(name.to_owned(), Arc::downgrade(&entry));
    entry
}

/// The place of a connection that has sent a valid token, among those of its microVM and its account.
#[derive(Debug)]
pub(super) struct Seat {
    microvm: Arc<Microvm>,
    /// Bytes of responses.
    bytes: Gauge,
    /// Bytes that requests may have sent before they are read, if each had a window of its own.
    uploads: AtomicUsize,
}

impl Seat {
    /// Whether the place is for this microVM.
    pub(super) fn is_for(&self, gate: &Gate) -> bool {
        self.microvm.id == gate.id()
    }

    /// Counts a request, WebSocket or shell, until the returned value is dropped.
    ///
    /// # Errors
    /// [`ShareTaken`]: the microVM or its account has too many.
    pub(super) fn request(self: &Arc<Self>) -> Result<Underway, ShareTaken> {
        let Microvm { requests, account, .. } = &*self.microvm;
        if !requests.enter() {
            return Err(ShareTaken::MicrovmRequests(requests.most));
        }
        if !account.requests.enter() {
            requests.leave();
            return Err(ShareTaken::AccountRequests(account.requests.most));
        }
        Ok(Underway(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.microvm.connections.leave();
        self.microvm.account.connections.leave();
    }
}

/// A request, WebSocket or shell that is under way.
#[derive(Debug)]
pub(super) struct Underway(Arc<Seat>);

impl Underway {
    /// The place of its connection.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.0
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.microvm.requests.leave();
        self.0.microvm.account.requests.leave();
    }
}
