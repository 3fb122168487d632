//! How many files are open.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use super::lock;
use super::writer::Stream;

/// The streams whose files are open for appending, those opened first in front.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    open: Mutex<VecDeque<Weak<Stream>>>,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// Notes that a stream has opened its file, and closes others' while there are too many. A stream that is being written at this
    /// moment, like the one itself, is let be.
    pub(super) fn opened(&self, stream: &Arc<Stream>) {
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(stream));
        for _ in 0..open.len() {
            if open.len() <= self.max {
                break;
            }
            let Some(oldest) = open.pop_front() else { break };
            if oldest.upgrade().is_some_and(|stream| !stream.close_file()) {
                open.push_back(oldest);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.open).len()
    }
}
