//! How long each step of an operation took.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_model::id::MicrovmId;
use hearth_proto::vmm::v1::Step;

/// An operation on a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimedOperation {
    /// The microVM was made from its image.
    Launch,
    /// The microVM was made from its suspended state.
    Resume,
    /// The microVM was saved and terminated.
    Suspend,
    /// The microVM was found running after a restart of the daemon.
    Adopt,
    /// The microVM was terminated and removed.
    Discard,
}

impl fmt::Display for TimedOperation {
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

/// The steps of an operation with their durations, in order.
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

    /// A timeline that began at this time.
    pub(super) fn since(started: Instant) -> Self {
        Self { started, last: started, steps: Vec::new() }
    }

    /// When the timeline began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Ends a step: the time since the last one is recorded under this name.
    pub(super) fn done(&mut self, step: &str) {
        let now = Instant::now();
        self.steps.push((step.to_owned(), now.duration_since(self.last)));
        self.last = now;
    }

    /// Adds the monitor's own steps of the last step, as `PART/STEP`.
    pub(super) fn parts(&mut self, part: &str, steps: &[Step]) {
        let step = |step: &Step| (format!("{part}/{}", step.name), Duration::from_nanos(step.nanoseconds));
        self.steps.extend(steps.iter().map(step));
    }

    /// The steps with their durations. A name with a slash is a part of the step before it.
    #[must_use]
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }

    /// Time from the start to the last step.
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

/// The report of an operation that has finished.
#[derive(Debug)]
pub struct OperationReport<'a> {
    /// The operation.
    pub operation: TimedOperation,
    /// Id of the microVM.
    pub microvm: &'a MicrovmId,
    /// Whether the operation succeeded.
    pub succeeded: bool,
    /// The duration of each step.
    pub timeline: &'a Timeline,
}

/// Receives reports, for metrics. It must not block.
#[derive(Clone)]
pub struct TimelineObserver(Arc<dyn Fn(&OperationReport<'_>) + Send + Sync>);

impl TimelineObserver {
    /// An observer that calls `observe`.
    pub fn new(observe: impl Fn(&OperationReport<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    /// Passes a report on, and writes a line to the log.
    pub(super) fn notify(&self, report: &OperationReport<'_>) {
        let OperationReport { operation, microvm, succeeded, timeline } = report;
        if *succeeded {
            tracing::info!(%operation, %microvm, %timeline, "microVM");
        } else {
            tracing::warn!(%operation, %microvm, %timeline, "microVM: it failed");
        }
        (self.0)(report);
    }
}

impl Default for TimelineObserver {
    fn default() -> Self {
        Self::new(|_| ())
    }
}

impl fmt::Debug for TimelineObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimelineObserver").finish_non_exhaustive()
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
