//! Hearth's own operations, beside those of AWS.
//!
//! * `status` – GetHostStatus
//! * `logs` – ListLogGroups, ListLogStreams, ReadLogs, TailLogs
//! * `watch` – WatchEvents, WatchBuild
//! * [`artifacts`] – the bucket that holds what clients upload; `upload` – PutArtifact; `objects` – ListArtifacts,
//!   GetArtifact, DeleteArtifact, and PutArtifact as S3 has it
//! * [`backup`] – BackUpStore
//! * [`stream`] – responses that are streams

pub mod artifacts;
pub mod backup;
mod logs;
pub(crate) mod objects;
mod status;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod upload;
mod watch;

use hearth_proto::host::v1::HostStatus;
use tokio::sync::watch::Receiver;

use self::artifacts::Artifacts;
use self::backup::Backups;
use crate::events::Events;
use crate::logs::Logs;

/// The components of Hearth's own operations.
pub struct HostParts {
    /// Logs.
    pub logs: Logs,
    /// State changes.
    pub events: Events,
    /// The local bucket.
    pub artifacts: Artifacts,
    /// The store's backups.
    pub backups: Backups,
    /// Returns the current status of the host, for an account.
    pub status: Box<dyn Fn(&str) -> HostStatus + Send + Sync>,
    /// Becomes true when the daemon shuts down, which also ends streams.
    pub shutdown: Receiver<bool>,
}

/// A number in a message.
fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
