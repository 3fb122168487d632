//! Output that waits to be written: in the order in which it came, pieces of one stream as one.
//!
//! It needs no bound of its own: the server sends no more than the window.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A stream of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Stdout.
    Stdout,
    /// Stderr.
    Stderr,
}

/// What waits, and whether nothing more comes.
type Pieces = (VecDeque<(Target, Vec<u8>)>, bool);

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: Mutex<Pieces>,
    changed: Notify,
}

impl Queue {
    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends bytes.
    pub(super) fn push(&self, target: Target, bytes: &[u8]) {
        let pieces = &mut self.pieces().0;
        match pieces.back_mut() {
            Some((last, piece)) if *last == target => piece.extend_from_slice(bytes),
            _ => pieces.push_back((target, bytes.to_vec())),
        }
        self.changed.notify_one();
    }

    /// Nothing is appended any more.
    pub(super) fn end(&self) {
        self.pieces().1 = true;
        self.changed.notify_one();
    }

    /// The next bytes, once there are some; none after the end. For one caller at a time.
    pub(super) async fn next(&self) -> Option<(Target, Vec<u8>)> {
        loop {
            {
                let (pieces, ended) = &mut *self.pieces();
                if let Some(piece) = pieces.pop_front() {
                    return Some(piece);
                }
                if *ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_in_their_order_and_those_of_one_stream_together() {
        let queue = Queue::default();
        let (out, err) = (Target::Stdout, Target::Stderr);
        for (target, bytes) in [(out, "a"), (out, "b"), (err, "c"), (out, "d")] {
            queue.push(target, bytes.as_bytes());
        }
        queue.end();
        for expected in [(out, "ab"), (err, "c"), (out, "d")] {
            assert_eq!(queue.next().await, Some((expected.0, expected.1.as_bytes().to_vec())));
        }
        assert_eq!(queue.next().await, None);
    }
}
