//! What a build tells while it goes on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::guest::v1::LogSource;

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The artifact is fetched and checked.
    Fetch,
    /// The builder microVM boots, and the artifact goes into it.
    StartBuilder,
    /// The Dockerfile is built.
    Build,
    /// The root disk is written.
    RootDisk,
    /// A microVM of the app boots, and the app starts.
    Start,
    /// The app gets ready.
    Ready,
    /// The snapshot is taken.
    Snapshot,
    /// A clone of the snapshot runs: `/validate`, the working set.
    Validate,
    /// Everything is made durable and gets its name.
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

/// Which log a line belongs to: each becomes a log stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// The output of the Dockerfile's steps.
    Build,
    /// The app before the snapshot.
    Snapshot,
    /// The app in the clone that is validated.
    Validate,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step has begun.
    Started(Step),
    /// A step has been done.
    Finished(Step, Duration),
    /// A line of a log.
    Log {
        /// Which log.
        stream: LogStream,
        /// Where the line was written to.
        source: LogSource,
        /// The line, without its end.
        line: Vec<u8>,
    },
    /// So many bytes of the artifact have come; of so many, where that is known.
    Fetched {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: Option<u64>,
    },
    /// The container is on the root disk.
    CodeInstalled {
        /// Bytes of its files: what a build is said to have made even where it fails later.
        bytes: u64,
    },
}

/// Takes events; called from several tasks, and must not block.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Event) + Send + Sync>);

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Events go to `take`.
    pub fn new(take: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        (self.0)(event);
    }

    /// Tells a line of a log.
    pub(super) fn log(&self, stream: LogStream, source: LogSource, line: &[u8]) {
        self.tell(Event::Log { stream, source, line: line.to_vec() });
    }

    /// Does a step, and tells of its beginning and end.
    pub(super) async fn step<T, E>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.tell(Event::Started(step));
        let started = Instant::now();
        let done = work.await?;
        self.tell(Event::Finished(step, started.elapsed()));
        Ok(done)
    }
}
