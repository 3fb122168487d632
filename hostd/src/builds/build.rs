//! The interfaces of builds: the builder, and the receiver of their output and metrics.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hearth_image_builder::build::event::Sink;
use hearth_image_builder::build::{BuildError, BuildRequest, Step};
use hearth_image_builder::failure::FailureCode;
use hearth_model::build::ImageBuild;
use hearth_proto::microvms::v1::SnapshotBuild;

use crate::disk::DiskError;
use crate::driver::Full;
use crate::platform::LogTarget;

/// A build to carry out.
#[derive(Clone)]
pub struct Job {
    /// Identifies the files that the build makes.
    pub build: ImageBuild,
    /// The request to the image builder.
    pub request: BuildRequest,
}

impl std::fmt::Debug for Job {
    /// The request is left out: it contains the app's variables.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("build", &self.build).finish_non_exhaustive()
    }
}

/// Why a build failed. The messages are for the operator and may contain paths of the host; the user reads
/// [`BuildFailure::reason`].
#[derive(Debug, thiserror::Error)]
pub enum BuildFailure {
    /// The image builder did not build the image.
    #[error(transparent)]
    Builder(#[from] BuildError),
    /// The folder for the build's files could not be made durable.
    #[error("making {path}: {source}", path = .path.display())]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The build has used up its attempts; contains their number.
    #[error(
        "hearthd has ended {0} times during this build: by a panic of it, which its log tells of, or because it was killed"
    )]
    GivenUp(u32),
    /// The host's memory was taken for so long that the build has not begun.
    #[error("the build waited {waited} s for memory: {full}", waited = .waited.as_secs())]
    Memory {
        /// How long it waited.
        waited: Duration,
        /// What was free at the end.
        full: Full,
    },
    /// The disk has no room for the build, or its account may take no more of it.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl BuildFailure {
    /// The `stateReason`, with what this project adds to AWS's sentences if `details` is true. It reveals nothing about this host.
    #[must_use]
    pub fn reason(&self, details: bool) -> String {
        let platform = FailureCode::InternalPlatformError.sentence();
        match self {
            Self::Builder(error) if details => error.state_reason(),
            Self::Builder(error) => error.measured_reason(),
            Self::Memory { waited, full } => format!(
                "{platform} The build waited {} s for {} MiB of the host's memory, which microVMs and other builds take. Build again \
                 later.",
                waited.as_secs(),
                full.needed_mib
            ),
            Self::Folder { .. } => platform.to_owned(),
            // How full the host is is its operator's business.
            Self::Disk(DiskError::Full { .. }) => {
                format!(
                    "{platform} The host's disk is full. Delete what is not needed, or build again later."
                )
            }
            Self::Disk(DiskError::Quota(mib)) => {
                format!(
                    "The account may take {mib} MiB of the host's disk. Delete what is not needed, and build again."
                )
            }
            Self::GivenUp(tries) => format!(
                "{platform} The build began {tries} times, and each time the host's daemon ended before the build did. It is not tried again."
            ),
        }
    }
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
pub trait BuildLog: Send + Sync {
    /// Stores a line, without its line end. Must not block for long; a line that cannot be stored is lost.
    fn append(&self, time: SystemTime, stderr: bool, line: &[u8]);
}

/// Observes builds: logs, metrics.
pub trait BuildObserver: Send + Sync + 'static {
    /// Opens a log stream for the duration of a build; none if that is not possible.
    fn open_log(&self, account: &str, target: &LogTarget) -> Option<Box<dyn BuildLog>>;

    /// A step was finished.
    fn step_finished(&self, step: Step, took: Duration);

    /// A build was finished.
    fn build_finished(&self, successful: bool, took: Duration);
}
