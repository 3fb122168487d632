//! Data that exists only in this guest's memory: a restore keeps it, and a restart loses it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A nonce and a counter.
#[derive(Debug, Default)]
pub(super) struct MemoryData {
    nonce: Mutex<Option<String>>,
    calls: AtomicU64,
}

impl MemoryData {
    /// `HEX →`: stores the nonce, and replaces an earlier one.
    pub(super) fn set_nonce(&self, nonce: &str) -> Result<String, String> {
        *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_string());
        Ok(String::new())
    }

    /// `→ HEX`: returns the nonce; an error if none was set.
    pub(super) fn nonce(&self) -> Result<String, String> {
        let nonce = self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone();
        nonce.ok_or_else(|| "no nonce was set".to_string())
    }

    /// `→ COUNT`: returns how often this command was called, including this call.
    pub(super) fn count(&self) -> Result<String, String> {
        Ok((self.calls.fetch_add(1, Ordering::SeqCst) + 1).to_string())
    }
}
