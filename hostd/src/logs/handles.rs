//! Limits the number of open files.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use super::lock;
use super::writer::Stream;

/// The streams whose files are open for appending, in the order in which they were opened.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    open: Mutex<VecDeque<Weak<Stream>>>,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// Records that a stream has opened its file, and closes files of other streams while too many are open. A stream
    /// that is being written at this moment is left open, and so is the one that was just opened.
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
