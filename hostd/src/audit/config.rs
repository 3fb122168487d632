//! Configuration of the audit log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::Problem;

/// A JSON line for each call, in `audit` in `data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Whether calls are audited at all.
    pub enabled: bool,
    /// Whether running, suspending, resuming and terminating microVMs, making tokens and opening shells are; CloudTrail
    /// does on request only.
    pub data_events: bool,
    /// Whether calls that change nothing are.
    pub reads: bool,
    /// Bytes after which a new file is begun.
    #[schemars(range(min = 1_048_576))]
    pub max_file_bytes: u64,
    /// Files that are kept; the oldest go.
    #[schemars(range(min = 1, max = 1000))]
    pub max_files: u32,
    /// Bytes of the lines about refused calls of unknown callers, which are in files of their own; the oldest go.
    #[schemars(range(min = 1_048_576))]
    pub max_unknown_bytes: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            data_events: true,
            reads: true,
            max_file_bytes: 64 << 20,
            max_files: 16,
            max_unknown_bytes: 8 << 20,
        }
    }
}

impl AuditConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// The problem.
    pub fn check(&self) -> Result<(), Problem> {
        if self.max_file_bytes < 1 << 20 {
            return Err(Problem::new("audit.max_file_bytes", "write at least 1048576"));
        }
        if !(1..=1000).contains(&self.max_files) {
            return Err(Problem::new("audit.max_files", "write 1 to 1000"));
        }
        if self.max_unknown_bytes < 1 << 20 {
            return Err(Problem::new("audit.max_unknown_bytes", "write at least 1048576"));
        }
        Ok(())
    }
}
