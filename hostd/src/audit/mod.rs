//! The audit log: a line per call, in the format of CloudTrail's records (docs/behaviour.md, "Audit").
//!
//! [`Audit`] writes lines of JSON to a file that is rotated when it is full; a number of earlier files is kept. A call
//! never fails because its line could not be written: the failure is logged by the daemon and counted. Secrets are not
//! written: [`redact`] is applied to everything. Other modules use the same function.

pub mod config;
mod event;
mod file;
mod redact;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub use config::AuditConfig;
pub use event::{AuditEvent, Identity, Role};
use uuid::Uuid;

use file::RotatedFile;
pub use redact::{REDACTED, redact};

use crate::clock::Clock;
use crate::panics::poisoned;

/// The audit log. Clones are cheap and write to the same file.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: AuditConfig,
    clock: Clock,
    file: Mutex<RotatedFile>,
    lost: AtomicU64,
}

impl Audit {
    /// Opens the audit log in `folder`, which is created if it is missing. An incomplete line that a killed daemon has
    /// left is removed.
    ///
    /// # Errors
    /// The folder or the file cannot be used; the message contains its path.
    pub fn open(folder: &Path, config: AuditConfig, clock: Clock) -> io::Result<Self> {
        let file = RotatedFile::open(folder, config.max_file_bytes, config.max_files)?;
        let shared = Shared { config, clock, file: Mutex::new(file), lost: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Writes the line of a call. The line has reached the kernel when this returns, unless [`Self::lost`] has grown.
    pub fn record(&self, event: AuditEvent<'_>) {
        let config = &self.shared.config;
        if !config.enabled
            || (event.is_data() && !config.data_events)
            || (event.is_read_only() && !config.reads)
        {
            return;
        }
        let (operation, request_id) = (event.operation, event.request_id);
        let line = event.line(self.shared.clock.now(), &Uuid::new_v4().to_string());
        let written = self.shared.file.lock().unwrap_or_else(poisoned).append(&line);
        if let Err(error) = written {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(operation, request_id, %error, "a line of the audit log is lost");
        }
    }

    /// Number of lines that could not be written since the log was opened.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}
