//! The thread that writes the audit log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::file::RotatedFile;
use super::queue::{Queued, Queues};

/// Time after which a line that is written is durable, too: what a loss of power may cost.
const SYNC: Duration = Duration::from_secs(1);

/// Writes all lines of the queues into the files.
pub(super) struct Writer {
    pub(super) queues: Arc<Queues>,
    /// The lines of known callers.
    pub(super) known: RotatedFile,
    /// The lines of unknown callers.
    pub(super) unknown: RotatedFile,
    /// Number of lines of known callers that could not be written.
    pub(super) lost: Arc<AtomicU64>,
}

impl Writer {
    /// Runs until the queues are closed and empty.
    pub(super) fn run(mut self) {
        let mut unsynced: Option<Instant> = None;
        loop {
            let work = self.queues.work(unsynced.map(|since| SYNC.saturating_sub(since.elapsed())));
            if !(work.known.is_empty() && work.unknown.is_empty()) {
                unsynced.get_or_insert_with(Instant::now);
            }
            for queued in work.known {
                let Queued { line, written, .. } = queued;
                if let Err(error) = self.known.append(&line.bytes) {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    let (operation, request_id) = (line.operation, line.request_id);
                    tracing::error!(operation, request_id, %error, "a line of the audit log is lost");
                }
                let _ = written.send(()); // a call that only reads does not wait
            }
            let mut failed = None;
            for queued in work.unknown {
                failed = self.unknown.append(&queued.line.bytes).err().or(failed);
            }
            if let Some(error) = failed {
                tracing::error!(%error, "refusals of unknown callers are not in the audit log");
            }
            if work.skipped > 0 {
                let count = work.skipped;
                tracing::warn!(
                    count,
                    "refusals of unknown callers are not in the audit log: too many came at once"
                );
            }
            let due = unsynced.is_some_and(|since| since.elapsed() >= SYNC);
            if due || work.closed || !work.flushes.is_empty() {
                unsynced = None;
                for file in [&self.known, &self.unknown] {
                    if let Err(error) = file.sync() {
                        tracing::error!(%error, "lines of the audit log may be lost if the power fails");
                    }
                }
            }
            for flushed in work.flushes {
                let _ = flushed.send(()); // nobody waits for it any more
            }
            if work.closed {
                return;
            }
        }
    }
}
