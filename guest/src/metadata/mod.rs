//! The instance metadata service (docs/behaviour.md, "Credentials and metadata"): IMDSv2 on 169.254.169.254.
//!
//! Its content comes from the host: credentials are pushed, and [forgotten](Store::forget) before a snapshot from which other
//! guests are restored. Memory that held credentials or a token is overwritten before it is freed. Like the DNS stub, the service
//! listens in a network namespace of the agent's own ([`network`]), so that it takes no port from the app.

mod credentials;
mod documents;
pub mod network;
mod server;
mod tokens;

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_proto::guest::v1::Metadata;

pub use credentials::SecretCredentials;
pub use server::serve;

/// Address on which the service listens.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Port on which the service listens.
pub const PORT: u16 = 80;

/// The state of the service.
#[derive(Debug, Default)]
pub struct Store {
    facts: Mutex<Facts>,
    tokens: Mutex<tokens::Tokens>,
}

#[derive(Debug, Default)]
struct Facts {
    /// Empty before Identify.
    microvm_id: String,
    metadata: Metadata,
    credentials: Option<SecretCredentials>,
    address: Option<Ipv4Addr>,
}

impl Store {
    /// Sets the microVM's id.
    pub fn set_id(&self, microvm_id: String) {
        self.change(|facts| facts.microvm_id = microvm_id);
    }

    /// Sets region, account and image.
    pub fn set_metadata(&self, metadata: Metadata) {
        self.change(|facts| facts.metadata = metadata);
    }

    /// Sets the role's credentials; without them, the service lists no role.
    pub fn set_credentials(&self, credentials: Option<SecretCredentials>) {
        self.change(|facts| facts.credentials = credentials);
    }

    /// Sets the address of the guest's network card.
    pub fn set_address(&self, address: Option<Ipv4Addr>) {
        self.change(|facts| facts.address = address);
    }

    /// Forgets what belongs to this guest alone: its id, its credentials, the tokens that it gave out. What all guests of its image
    /// share stays.
    pub fn forget(&self) {
        self.change(|facts| {
            facts.microvm_id = String::new();
            facts.credentials = None;
        });
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens::Tokens::default();
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts());
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
