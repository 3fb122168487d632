//! What builds are made by, and who is told of them.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::{BuildRequest, Step};
use hearth_proto::microvms::v1::SnapshotBuild;

use crate::platform::{Artifact, LogTarget};

/// What is to be built, and where.
#[derive(Clone)]
pub struct Job {
    /// The files that it makes.
    pub artifact: Artifact,
    /// What is to be built.
    pub request: BuildRequest,
}

impl std::fmt::Debug for Job {
    /// Without the request: it holds the app's variables.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("artifact", &self.artifact).finish_non_exhaustive()
    }
}

/// Why nothing was built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BuildFailure {
    /// The `stateReason`: for the user.
    pub reason: String,
    /// What exactly, for the operator. May hold paths of the host.
    pub detail: String,
}

/// Builds images.
#[async_trait]
pub trait Build: Send + Sync + 'static {
    /// Builds an image where nothing is; its files are there as a whole when this is done, and durable. Dropping the future ends
    /// the build.
    ///
    /// # Errors
    /// [`BuildFailure`]; nothing that counts is left then.
    async fn build(&self, job: &Job, sink: Sink) -> Result<SnapshotBuild, BuildFailure>;
}

/// A log stream that a build writes to.
pub trait LogSink: Send + Sync {
    /// Stores a line, without its end. Must not block for long; a line that cannot be stored is lost.
    fn append(&self, time: SystemTime, stderr: bool, line: &[u8]);
}

/// Takes what is to be known of builds outside: logs, metrics.
pub trait Report: Send + Sync + 'static {
    /// Opens a log stream for as long as a build goes on; none when that is not possible.
    fn log(&self, account: &str, target: &LogTarget) -> Option<Box<dyn LogSink>>;

    /// A step was done.
    fn step(&self, step: Step, took: Duration);

    /// A build has ended.
    fn ended(&self, successful: bool, took: Duration);
}
