//! The interfaces of builds: the builder, and the receiver of their output and metrics.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::{BuildRequest, Step};
use hearth_model::build::Artifact;
use hearth_proto::microvms::v1::SnapshotBuild;

use crate::platform::LogTarget;

/// A build to carry out.
#[derive(Clone)]
pub struct Job {
    /// Identifies the files that the build makes.
    pub artifact: Artifact,
    /// The request to the image builder.
    pub request: BuildRequest,
}

impl std::fmt::Debug for Job {
    /// The request is left out: it contains the app's variables.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("artifact", &self.artifact).finish_non_exhaustive()
    }
}

/// Why a build failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BuildFailure {
    /// The `stateReason`, for the user.
    pub reason: String,
    /// Details for the operator. May contain paths of the host.
    pub detail: String,
}

/// Builds images.
#[async_trait]
pub trait Build: Send + Sync + 'static {
    /// Builds an image to a place where none exists. On success its files are complete and durable. Dropping the
    /// future stops the build.
    ///
    /// # Errors
    /// [`BuildFailure`]; in that case no valid files are left.
    async fn build(&self, job: &Job, sink: Sink) -> Result<SnapshotBuild, BuildFailure>;
}

/// A log stream that a build writes to.
pub trait LogSink: Send + Sync {
    /// Stores a line, without its line end. Must not block for long; a line that cannot be stored is lost.
    fn append(&self, time: SystemTime, stderr: bool, line: &[u8]);
}

/// Receives reports about builds: logs, metrics.
pub trait Report: Send + Sync + 'static {
    /// Opens a log stream for the duration of a build; none if that is not possible.
    fn log(&self, account: &str, target: &LogTarget) -> Option<Box<dyn LogSink>>;

    /// A step was finished.
    fn step(&self, step: Step, took: Duration);

    /// A build was finished.
    fn ended(&self, successful: bool, took: Duration);
}
