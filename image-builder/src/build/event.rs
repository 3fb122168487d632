//! Events of a build under way.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::guest::v1::LogSource;

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The artifact is fetched and checked.
    Fetch,
    /// The builder microVM boots, and receives the artifact.
    StartBuilder,
    /// The steps of the Dockerfile run.
    Build,
    /// The root disk is written.
    RootDisk,
    /// A microVM of the app boots, and the app starts.
    Start,
    /// The app is called until it is ready.
    Ready,
    /// The snapshot is taken.
    Snapshot,
    /// A clone of the snapshot runs: `/validate`, recording of the working set.
    Validate,
    /// All files are made durable, and the image gets its name.
    Commit,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch => "fetch the artifact",
            Self::StartBuilder => "start the builder microVM",
            Self::Build => "build the container image",
            Self::RootDisk => "write the root disk",
            Self::Start => "boot and start the app",
            Self::Ready => "wait until the app is ready",
            Self::Snapshot => "take the snapshot",
            Self::Validate => "validate a clone, record the working set",
            Self::Commit => "commit",
        })
    }
}

/// The log that a line belongs to: each becomes a separate log stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// The output of the Dockerfile's steps.
    Build,
    /// The app before the snapshot.
    Snapshot,
    /// The app in the clone that is validated.
    Validate,
}

/// An event of a build.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step was started.
    Started(Step),
    /// A step was completed, after this time.
    Finished(Step, Duration),
    /// A line was written to a log.
    Log {
        /// The log.
        stream: LogStream,
        /// Stdout or stderr.
        source: LogSource,
        /// The line, without its newline.
        line: Vec<u8>,
    },
    /// Bytes of the artifact were received.
    Fetched {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in total, if known.
        total: Option<u64>,
    },
    /// The container's files were written to the root disk.
    CodeInstalled {
        /// Bytes of the files: reported for the build even if a later step fails.
        bytes: u64,
    },
}

/// Receives events. It is called from several tasks, and must not block.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Event) + Send + Sync>);

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// A sink that passes events to `take`.
    pub fn new(take: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Reports an event.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports a line of a log.
    pub(super) fn log(&self, stream: LogStream, source: LogSource, line: &[u8]) {
        self.send(Event::Log { stream, source, line: line.to_vec() });
    }

    /// Runs a step, and reports its start and, if it succeeds, its completion.
    pub(super) async fn step<T, E>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.send(Event::Started(step));
        let started = Instant::now();
        let done = work.await?;
        self.send(Event::Finished(step, started.elapsed()));
        Ok(done)
    }
}
