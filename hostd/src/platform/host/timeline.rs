//! How long each step of an operation took.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::vmm::v1::Step;

/// What was done to a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Made from its image.
    Launch,
    /// Made from its suspended state.
    Resume,
    /// Saved and ended.
    Suspend,
    /// Found running, after a restart of the daemon.
    Adopt,
    /// Ended and removed.
    Discard,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launch => "launch",
            Self::Resume => "resume",
            Self::Suspend => "suspend",
            Self::Adopt => "adopt",
            Self::Discard => "discard",
        })
    }
}

/// Steps in the order in which they were done.
#[derive(Debug)]
pub struct Timeline {
    started: Instant,
    last: Instant,
    steps: Vec<(String, Duration)>,
}

impl Timeline {
    pub(super) fn start() -> Self {
        Self::since(Instant::now())
    }

    /// One that began at this time.
    pub(super) fn since(started: Instant) -> Self {
        Self { started, last: started, steps: Vec::new() }
    }

    /// When it began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// What was done since the last step has this name.
    pub(super) fn done(&mut self, step: &str) {
        let now = Instant::now();
        self.steps.push((step.to_owned(), now.duration_since(self.last)));
        self.last = now;
    }

    /// Adds what the monitor says of its part of the last step, as `PART/STEP`.
    pub(super) fn parts(&mut self, part: &str, steps: &[Step]) {
        let step = |step: &Step| (format!("{part}/{}", step.name), Duration::from_nanos(step.nanoseconds));
        self.steps.extend(steps.iter().map(step));
    }

    /// The steps with their durations. Those with a slash are parts of the step before.
    #[must_use]
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }

    /// From the start to the last step.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.last.duration_since(self.started)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: &Duration| time.as_secs_f64() * 1000.0;
        write!(f, "{:.2} ms", milliseconds(&self.total()))?;
        for (index, (step, time)) in self.steps.iter().enumerate() {
            write!(f, "{}{step} {:.2}", if index == 0 { " (" } else { ", " }, milliseconds(time))?;
        }
        if self.steps.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What is told about an operation that has ended.
#[derive(Debug)]
pub struct Report<'a> {
    /// Which.
    pub operation: Operation,
    /// Of which microVM.
    pub microvm: &'a str,
    /// Whether it came to its end.
    pub succeeded: bool,
    /// How long it took.
    pub timeline: &'a Timeline,
}

/// Who is told: for metrics. It must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&Report<'_>) + Send + Sync>);

impl Observer {
    /// One that calls `told`.
    pub fn new(told: impl Fn(&Report<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Tells, and writes the line for the log.
    pub(super) fn tell(&self, report: &Report<'_>) {
        let Report { operation, microvm, succeeded, timeline } = report;
        if *succeeded {
            tracing::info!(%operation, %microvm, %timeline, "microVM");
        } else {
            tracing::warn!(%operation, %microvm, %timeline, "microVM: it failed");
        }
        (self.0)(report);
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_names_every_step_and_the_parts_of_the_monitors() {
        let mut timeline = Timeline::start();
        assert!(!timeline.to_string().contains('('));
        timeline.done("monitor");
        timeline.done("restore");
        timeline.parts("restore", &[Step { name: "memory".into(), nanoseconds: 1_500_000 }]);
        let text = timeline.to_string();
        assert!(text.contains("monitor ") && text.ends_with("restore/memory 1.50)"), "{text}");
        let names: Vec<&str> = timeline.steps().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["monitor", "restore", "restore/memory"]);
    }
}
