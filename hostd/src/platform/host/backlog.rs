//! Lines that were received from a guest and are not stored yet, bounded in bytes.
//!
//! A guest decides how long its lines are, and a full disk how long they wait. So a line takes room as long as it waits, and no line is
//! read from the guest while there is none: the guest keeps it.

use std::sync::Arc;

use hearth_proto::guest::v1::LogRecord;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one guest's lines that wait. There is one more line beside them, which is being received.
pub(super) const ROOM: u32 = 512 << 10;
/// Bytes that a line takes besides its text.
const OVERHEAD: usize = 128;
/// Most lines that are stored at a time.
const BATCH: usize = 256;

/// A backlog without lines: its end for those that are received, and its end for those to be stored.
pub(super) fn backlog() -> (Received, Waiting) {
    let (sender, lines) = mpsc::unbounded_channel();
    (
        Received { sender, room: Arc::new(Semaphore::new(to_usize(ROOM))) },
        Waiting { lines, batch: Vec::new() },
    )
}

/// The end of a backlog for lines that are received.
#[derive(Debug)]
pub(super) struct Received {
    /// Bounded by `room`: each line in it has a permit.
    sender: UnboundedSender<(LogRecord, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// The end of a backlog for lines to be stored.
#[derive(Debug)]
pub(super) struct Waiting {
    lines: UnboundedReceiver<(LogRecord, OwnedSemaphorePermit)>,
    batch: Vec<(LogRecord, OwnedSemaphorePermit)>,
}

/// Lines that are stored together. Dropping it makes room for as many bytes.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) lines: Vec<LogRecord>,
    _room: Vec<OwnedSemaphorePermit>,
}

impl Received {
    /// Adds a line as soon as there is room for it; false if nobody stores lines any more.
    pub(super) async fn add(&self, line: LogRecord) -> bool {
        let bytes = u32::try_from(line.line.len().saturating_add(OVERHEAD)).unwrap_or(ROOM).min(ROOM);
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.room).acquire_many_owned(bytes).await else { return false };
        self.sender.send((line, permit)).is_ok()
    }
}

impl Waiting {
    /// The next lines; none after the last one.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        self.lines.recv_many(&mut self.batch, BATCH).await;
        let (lines, room): (Vec<_>, Vec<_>) = self.batch.drain(..).unzip();
        (!lines.is_empty()).then_some(Batch { lines, _room: room })
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn line(length: usize) -> LogRecord {
        LogRecord { line: vec![b'x'; length], ..LogRecord::default() }
    }

    /// Whether a line is added without waiting. A task of tokio's would have to wait now and then whether there is room or not.
    fn at_once(received: &Received, length: usize) -> bool {
        tokio::task::unconstrained(received.add(line(length))).now_or_never().is_some()
    }

    /// Adds lines of this length until one has to wait, and returns how many bytes wait before it.
    fn fill(received: &Received, length: usize) -> usize {
        let lines = (0..).take_while(|_| at_once(received, length)).count();
        lines * (length + OVERHEAD)
    }

    #[tokio::test]
    async fn lines_wait_within_a_bound_in_bytes_however_long_they_are() {
        for length in [0, 1, 1000, 100_000, 256 << 10] {
            let (received, mut waiting) = backlog();
            let bytes = fill(&received, length);
            assert!(bytes <= to_usize(ROOM) && bytes > to_usize(ROOM) / 2, "{bytes} of lines with {length}");
            // What is being stored still takes its room; what is stored does not.
            let batch = waiting.next().await.unwrap();
            assert!(!at_once(&received, length));
            drop(batch);
            assert!(at_once(&received, length));
        }
    }

    #[tokio::test]
    async fn a_line_that_is_longer_than_the_room_waits_alone() {
        let (received, mut waiting) = backlog();
        assert!(received.add(line(to_usize(ROOM) + 1)).await);
        assert!(!at_once(&received, 0));
        assert_eq!(waiting.next().await.unwrap().lines.len(), 1);
        drop(received);
        assert!(waiting.next().await.is_none());
    }
}
