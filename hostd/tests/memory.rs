//! The store in memory keeps the contract of stores.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[macro_use]
mod contract;

use std::sync::Arc;

use hearth_hostd::store::{MemoryStore, Store};

fn make() -> (Arc<dyn Store>, ()) {
    (Arc::new(MemoryStore::new()), ())
}

contract_tests!(make);
