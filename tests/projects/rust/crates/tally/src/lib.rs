//! A counter that threads share.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
