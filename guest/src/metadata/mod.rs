//! The instance metadata service (docs/behaviour.md, "Credentials and metadata"): IMDSv2 on 169.254.169.254.
//!
//! What it says comes from the host: credentials are pushed, and [forgotten](Store::forget) before a snapshot that others go on
//! from. Nothing that held them, or a token, is freed without being overwritten. It listens, as the DNS stub does, in a network namespace of the
//! agent's own ([`network`]), so that it takes no port from the app.

mod answers;
mod granted;
pub mod network;
mod server;
mod tokens;

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_proto::guest::v1::Metadata;

pub use granted::Granted;
pub use server::serve;

/// Where it listens.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// On which port.
pub const PORT: u16 = 80;

/// What the service knows.
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
    credentials: Option<Granted>,
    address: Option<Ipv4Addr>,
}

impl Store {
    /// The guest's id.
    pub fn set_id(&self, microvm_id: String) {
        self.change(|facts| facts.microvm_id = microvm_id);
    }

    /// Region, account and image.
    pub fn set_metadata(&self, metadata: Metadata) {
        self.change(|facts| facts.metadata = metadata);
    }

    /// The role's credentials; none: there is no role.
    pub fn set_credentials(&self, credentials: Option<Granted>) {
        self.change(|facts| facts.credentials = credentials);
    }

    /// The address of the guest's network card.
    pub fn set_address(&self, address: Option<Ipv4Addr>) {
        self.change(|facts| facts.address = address);
    }

    /// Forgets what is said of this guest alone: its id, its credentials, the tokens that it gave out. What is true of all guests
    /// of its image stays.
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
