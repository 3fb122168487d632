//! Writes the output of microVMs and builds to the log store.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_image_builder::build::Step;
use hearth_proto::guest::v1::{LogRecord, LogSource};
use hearth_proto::host::v1::Event;

use crate::builds;
use crate::clock::Clock;
use crate::events::Events;
use crate::logs::{Line, Logs, Source, Writer};
use crate::metrics::{Metrics, Outcome};
use crate::platform::LogTarget;
use crate::platform::host::{LogSink, LogWriter};

/// What an event has as the state of a microVM in which a process was killed because no memory was left. It runs on.
const OUT_OF_MEMORY: &str = "OUT_OF_MEMORY";

/// The log store, as a destination of output.
#[derive(Debug)]
pub(super) struct LogOutput {
    logs: Logs,
    metrics: Metrics,
    events: Events,
    clock: Clock,
}

impl LogOutput {
    pub(super) fn new(logs: Logs, metrics: Metrics, events: Events, clock: Clock) -> Self {
        Self { logs, metrics, events, clock }
    }
}

/// Writes the lines of one microVM.
#[derive(Debug)]
struct MicrovmLog(Writer);

impl LogSink for LogOutput {
    fn open(&self, account: &str, target: &LogTarget, microvm: &str) -> Result<Arc<dyn LogWriter>, String> {
        // Each guest numbers its own lines, and several guests may write to one stream.
        let writer = self.logs.writer_of(account, &target.group, &target.stream, microvm);
        Ok(Arc::new(MicrovmLog(writer.map_err(|error| error.to_string())?)))
    }

    fn killed(&self, account: &str, microvm: &str, process: &str) {
        self.metrics.memory_kill();
        let event = Event {
            time: Some(self.clock.timestamp()),
            kind: "microvm".to_owned(),
            resource: microvm.to_owned(),
            to_state: OUT_OF_MEMORY.to_owned(),
            reason: Some(format!("{process} was killed: the microVM has no memory left")),
            ..Event::default()
        };
        self.events.publish(account, event);
    }
}

impl LogWriter for MicrovmLog {
    fn last_sequence(&self) -> u64 {
        self.0.last_sequence()
    }

    fn append(&self, line: &LogRecord) -> Result<(), String> {
        let source = match line.source() {
            LogSource::Stderr | LogSource::Agent => Source::Stderr,
            LogSource::Stdout | LogSource::Unspecified => Source::Stdout,
        };
        let timestamp = UNIX_EPOCH + Duration::from_nanos(line.timestamp_ns);
        let line = Line { timestamp, source, sequence: line.sequence, message: &line.line };
        self.0.append(line).map_err(|error| error.to_string())
    }

    fn notice(&self, text: &str) -> Result<(), String> {
        let (timestamp, message) = (SystemTime::now(), text.as_bytes());
        let line = Line { timestamp, source: Source::Stderr, sequence: 0, message };
        self.0.append(line).map_err(|error| error.to_string())
    }
}

/// Writes the lines of one build to one stream.
struct BuildLogWriter(Writer);

impl builds::BuildLog for BuildLogWriter {
    fn append(&self, time: SystemTime, stderr: bool, line: &[u8]) {
        let source = if stderr { Source::Stderr } else { Source::Stdout };
        if let Err(error) = self.0.append(Line { timestamp: time, source, sequence: 0, message: line }) {
            tracing::warn!(%error, "a line of a build is lost");
        }
    }
}

impl builds::BuildObserver for LogOutput {
    fn open_log(&self, account: &str, target: &LogTarget) -> Option<Box<dyn builds::BuildLog>> {
        match self.logs.writer(account, &target.group, &target.stream) {
            Ok(writer) => Some(Box::new(BuildLogWriter(writer))),
            Err(error) => {
                tracing::warn!(%error, "the output of a build cannot be stored");
                None
            }
        }
    }

    fn step_finished(&self, step: Step, took: Duration) {
        self.metrics.build_step(&step.to_string(), took);
    }

    fn build_finished(&self, successful: bool, took: Duration) {
        let outcome = if successful { Outcome::Succeeded } else { Outcome::Failed };
        self.metrics.built(outcome, took);
    }
}
