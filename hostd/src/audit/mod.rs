//! The audit log: a line per call, in the format of CloudTrail's records (docs/behaviour.md, "Audit").
//!
//! ```text
//!  a call of a known caller ───► its account's queue ─┐
//!  …                                                  ├─► writer thread ─┬─► audit.jsonl
//!  a refusal of an unknown one ─► a queue of its own ─┘                  └─► unknown.jsonl
//! ```
//!
//! [`Audit`] queues lines of JSON, which one thread writes to files that are rotated when they are full, and syncs within a
//! second. A call that changes something is answered when its line is written; one that only reads does not wait for that.
//! Where the queue of an account is full, calls of this account wait for a while. Refusals of unknown callers have a
//! small file of their own, and no contents of requests, so that nobody without a key can push lines out of the log.
//!
//! A call never fails because its line could not be written: the failure is logged by the daemon and counted. Secrets are not
//! written: [`redact`] is applied to everything. Other modules use the same function.
//!
//! * `event` – an event and its line; `queue` – the queues; `writer` – the thread; `file` – a file with its rotation
//! * [`shells`] – shells at endpoints, which are no calls

pub mod config;
mod event;
mod file;
mod queue;
mod redact;
pub mod shells;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

pub use config::AuditConfig;
pub use event::{AuditEvent, Identity, Role};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use file::RotatedFile;
use queue::{Line, Queues, size};
pub use redact::{REDACTED, redact};
use writer::Writer;

use crate::clock::Clock;

/// How long a call waits for room in its account's queue, and then for the writer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files for the lines of unknown callers.
const UNKNOWN_FILES: u32 = 2;

/// The audit log. Clones are cheap and write to the same files.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: AuditConfig,
    clock: Clock,
    queues: Arc<Queues>,
    lost: Arc<AtomicU64>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queues.close();
    }
}

/// A line that was handed over. Dropping it does not take the line back; but one that has to wait for room is lost.
#[must_use = "a call that changes something waits until its line is written"]
pub struct Recorded(Step);

enum Step {
    /// There is nothing to wait for.
    Done,
    /// The line is queued.
    Queued(oneshot::Receiver<()>),
    /// The queue of the account is full.
    Full { audit: Audit, account: String, room: Arc<Semaphore>, line: Line, wait: bool },
}

impl Step {
    fn queued(notice: oneshot::Receiver<()>, wait: bool) -> Self {
        if wait { Self::Queued(notice) } else { Self::Done }
    }
}

impl Audit {
    /// Opens the audit log in `folder`, which is created if it is missing, and starts its thread. An incomplete line that a
    /// killed daemon has left is removed.
    ///
    /// # Errors
    /// The folder or a file cannot be used – the message contains its path –, or the thread cannot be started.
    pub fn open(folder: &Path, config: AuditConfig, clock: Clock) -> io::Result<Self> {
        let (queues, lost) = (Arc::new(Queues::new()), Arc::<AtomicU64>::default());
        let unknown_bytes = config.max_unknown_bytes / u64::from(UNKNOWN_FILES);
        let writer = Writer {
            queues: Arc::clone(&queues),
            known: RotatedFile::open(folder, "audit", config.max_file_bytes, config.max_files)?,
            unknown: RotatedFile::open(folder, "unknown", unknown_bytes, UNKNOWN_FILES)?,
            lost: Arc::clone(&lost),
        };
        thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared: Arc::new(Shared { config, clock, queues, lost }) })
    }

    /// Hands over the line of a call. The call is answered after [`Recorded::done`].
    pub fn record(&self, event: AuditEvent<'_>) -> Recorded {
        let config = &self.shared.config;
        if !config.enabled
            || (event.is_data() && !config.data_events)
            || (event.is_read_only() && !config.reads)
        {
            return Recorded::default();
        }
        let (operation, request_id) = (event.operation.to_owned(), event.request_id.to_owned());
        let (account, wait) = (event.identity.account.map(str::to_owned), !event.is_read_only());
        let bytes = event.line(self.shared.clock.now(), &Uuid::new_v4().to_string());
        let line = Line { bytes, operation, request_id };
        let Some(account) = account else {
            self.shared.queues.push_unknown(line);
            return Recorded::default();
        };
        let room = self.shared.queues.room(&account);
        match Arc::clone(&room).try_acquire_many_owned(size(&line)) {
            Ok(room) => Recorded::queued(self.shared.queues.push(&account, line, room), wait),
            Err(_) => Recorded(Step::Full { audit: self.clone(), account, room, line, wait }),
        }
    }

    /// Waits until everything that was handed over is written and durable.
    pub async fn flush(&self) {
        let _ = self.shared.queues.flush().await; // an error means that the writer has ended, which it does not before
    }

    /// Number of lines of known callers that could not be written since the log was opened.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, line: &Line) {
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
        let (operation, request_id) = (line.operation.as_str(), line.request_id.as_str());
        tracing::error!(
            operation,
            request_id,
            "a line of the audit log is lost: too many lines of its account wait to be written"
        );
    }
}

// === impl Recorded ===

impl Default for Recorded {
    /// Nothing to wait for.
    fn default() -> Self {
        Self(Step::Done)
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

impl Recorded {
    fn queued(notice: oneshot::Receiver<()>, wait: bool) -> Self {
        Self(Step::queued(notice, wait))
    }

    /// Waits until the line is in the kernel, if its call changes something, or is lost, which was logged then. Waits for
    /// some seconds at most.
    pub async fn done(mut self) {
        if let Step::Full { room, line, .. } = &self.0 {
            let waited = timeout(PATIENCE, Arc::clone(room).acquire_many_owned(size(line))).await;
            let Ok(Ok(permit)) = waited else { return }; // dropping it logs that it is lost
            if let Step::Full { audit, account, line, wait, .. } = std::mem::replace(&mut self.0, Step::Done)
            {
                self.0 = Step::queued(audit.shared.queues.push(&account, line, permit), wait);
            }
        }
        if let Step::Queued(notice) = &mut self.0
            && timeout(PATIENCE, notice).await.is_err()
        {
            tracing::warn!("a line of the audit log is not written yet, and its call is answered");
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Step::Full { audit, line, .. } = &self.0 {
            audit.lose(line);
        }
    }
}
