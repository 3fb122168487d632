//! What is audited, and how much of it is kept.

use serde::{Deserialize, Serialize};

/// `[audit]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Whether calls are audited at all. Default: true.
    pub enabled: bool,
    /// Whether running, suspending, resuming and terminating microVMs and making tokens are audited; CloudTrail does on request only.
    /// Default: true.
    pub data_events: bool,
    /// Whether calls that change nothing are audited. Default: true.
    pub reads: bool,
    /// Bytes after which a new file is begun. Default: 67108864 (64 MiB).
    pub max_file_bytes: u64,
    /// Files that are kept, the one that is written included; the oldest go. Default: 16.
    pub max_files: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { enabled: true, data_events: true, reads: true, max_file_bytes: 64 << 20, max_files: 16 }
    }
}

impl AuditConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// What is wrong, naming the key.
    pub fn check(&self) -> Result<(), String> {
        if self.max_file_bytes < 1 << 20 {
            return Err("audit.max_file_bytes must be at least 1048576".into());
        }
        if !(1..=1000).contains(&self.max_files) {
            return Err("audit.max_files must be 1 to 1000".into());
        }
        Ok(())
    }
}
