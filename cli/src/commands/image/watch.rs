//! Watches a build: steps with times, and the lines that build and app write.

use std::time::Duration;

use clap::Args;
use hearth_model::arn::resource_name;
use hearth_proto::host::v1::build_event::Event;
use hearth_proto::host::v1::{BuildEvent, LogEvent, WatchBuildRequest};
use hearth_proto::microvms::v1::build_state::Value as BuildState;
use hearth_proto::microvms::v1::{GetMicrovmImageBuildResponse, SnapshotBuild};
use prost_types::Timestamp;
use tokio::time::Instant;

use super::super::Context;
use crate::error::Failure;
use crate::interrupt::Interrupt;
use crate::live::{Live, OutputStream};
use crate::out::{bytes, printable};

/// Interval at which the time of the current step is updated on a terminal.
const TICK: Duration = Duration::from_millis(200);
const NANOS: i128 = 1_000_000_000;

/// Watch a build: what has happened, then what happens, until it has ended
///
/// The exit status is 1 when the build fails. Ctrl-C stops watching; the build goes on.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Name or ARN of the image
    image: String,
    /// The version; the one that is being built, else the newest, unless given
    version: Option<String>,
}

impl Watch {
    pub(super) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let arn = context.client.image(&self.image).await?;
        let follow = Follow { arn: &arn, version: self.version.as_deref() };
        match follow.until_built(context, OutputStream::Stdout, context.out.json).await {
            Err(Failure::Interrupted(_)) => Ok(()),
            other => other,
        }
    }
}

/// The build to follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follow<'a> {
    pub(super) arn: &'a str,
    pub(super) version: Option<&'a str>,
}

impl Follow<'_> {
    /// Prints the build's progress until it has ended; with `json`, also its events as JSON on stdout. A failed build is an error.
    pub(super) async fn until_built(
        self,
        context: &Context,
        stream: OutputStream,
        json: bool,
    ) -> Result<(), Failure> {
        let name = resource_name(self.arn);
        let what = format!("watch the build of {name}");
        let request = WatchBuildRequest {
            image_identifier: Some(self.arn.to_owned()),
            image_version: self.version.map(str::to_owned),
        };
        let mut interrupt = Interrupt::listen()?;
        let client = &context.client;
        let mut host = client.host();
        let mut events = client.call(&*what, host.watch_build(request)).await?;
        let mut progress = Progress::new(stream, context.out.quiet);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let event = tokio::select! {
                event = client.next(&what, &mut events) => event?,
                () = interrupt.wait() => {
                    progress.live.clear()?;
                    return Err(Failure::Interrupted(format!("the build goes on: hearth image watch {name}")));
                }
                _ = tick.tick() => {
                    progress.tick()?;
                    continue;
                }
            };
            let Some(event) = event else {
                progress.live.clear()?;
                return Err(Failure::failed(format!(
                    "the daemon has ended the watch before the build's end; go on with `hearth image watch {name}`"
                )));
            };
            if json {
                context.out.json_line(&event)?;
            } else {
                progress.print(&event)?;
            }
            if let Some(Event::Ended(build)) = &event.event {
                return build_result(build);
            }
        }
    }
}

fn build_result(build: &GetMicrovmImageBuildResponse) -> Result<(), Failure> {
    if build.build_state() == BuildState::Successful {
        return Ok(());
    }
    let name = resource_name(&build.image_arn);
    let reason = build.state_reason.as_deref().unwrap_or("no reason is given").trim_end_matches('.');
    Err(Failure::failed(format!(
        "the build of {name} {} failed: {reason}; see its log with `hearth logs --image {name}`, \
         then try again with `hearth image update {name} …`",
        build.image_version
    )))
}

/// Progress of a build, printed for people.
struct Progress {
    live: Live,
    quiet: bool,
    /// Time of the first event.
    first: Option<Timestamp>,
    /// The current step, and when its start was received.
    step: Option<(String, Instant)>,
    /// Progress of the artifact's fetch.
    fetched: String,
}

impl Progress {
    fn new(stream: OutputStream, quiet: bool) -> Self {
        Self { live: Live::new(stream), quiet, first: None, step: None, fetched: String::new() }
    }

    fn print(&mut self, event: &BuildEvent) -> Result<(), Failure> {
        let clock = self.clock(event.time);
        match &event.event {
            _ if self.quiet => Ok(()),
            Some(Event::StepStarted(step)) => {
                let step = printable(step);
                if !self.live.is_terminal() {
                    self.live.line(&format!("{clock} {step} …"))?;
                }
                self.step = Some((step, Instant::now()));
                self.fetched.clear();
                self.tick()
            }
            Some(Event::StepFinished(step)) => {
                self.step = None;
                let took = seconds(i128::from(step.duration_ns));
                let mark = self.live.mark(true);
                self.live.line(&format!("{clock} {mark} {} ({took} s)", printable(&step.name)))
            }
            Some(Event::Log(line)) => {
                self.live.dim(&log_line(line))?;
                self.tick()
            }
            Some(Event::Fetched(progress)) => {
                let of = progress.total.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
                self.fetched = format!("  {}{of}", bytes(progress.bytes));
                self.tick()
            }
            Some(Event::Ended(build)) => {
                let good = build.build_state() == BuildState::Successful;
                let mark = self.live.mark(good);
                let sizes = build.snapshot_build.as_ref().map(sizes).unwrap_or_default();
                let state = build.build_state().as_str_name();
                self.live.line(&format!("{clock} {mark} {state}{sizes}"))
            }
            None => Ok(()),
        }
    }

    /// Updates the current step's time, on a terminal.
    fn tick(&mut self) -> Result<(), Failure> {
        match &self.step {
            Some((step, since)) if !self.quiet => {
                let text =
                    format!("           … {step}  {:.1} s{}", since.elapsed().as_secs_f64(), self.fetched);
                self.live.show(&text)
            }
            _ => Ok(()),
        }
    }

    /// The time since the start of the build.
    fn clock(&mut self, time: Option<Timestamp>) -> String {
        let Some(time) = time else { return " ".repeat(10) };
        let first = *self.first.get_or_insert(time);
        let nanos = |time: Timestamp| i128::from(time.seconds) * NANOS + i128::from(time.nanos);
        format!("[{:>6} s]", seconds(nanos(time) - nanos(first)))
    }
}

/// Nanoseconds as seconds with one decimal.
fn seconds(nanos: i128) -> String {
    let tenths = nanos.max(0) / (NANOS / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn log_line(line: &LogEvent) -> String {
    // Streams of builds have names like 2026/01/31[1.0]snapshot-BUILD; the word before the hyphen is the kind.
    let stream = line.log_stream.rsplit([']', '/']).next().unwrap_or_default();
    let stream = stream.split('-').next().unwrap_or_default();
    let name = if stream.is_empty() { &line.source } else { stream };
    printable(&format!("           {name} | {}", line.message))
}

fn sizes(sizes: &SnapshotBuild) -> String {
    let parts = [
        ("memory", sizes.memory_snapshot_size_in_bytes),
        ("code", sizes.code_install_size_in_bytes),
        ("disk", sizes.disk_snapshot_size_in_bytes),
    ];
    let known =
        parts.into_iter().filter_map(|(name, size)| size.map(|size| format!("{name} {}", bytes(size))));
    let known: Vec<_> = known.collect();
    if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_first_event() {
        let mut progress = Progress::new(OutputStream::Stdout, true);
        let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
        assert_eq!(progress.clock(at(10, 0)), "[   0.0 s]");
        assert_eq!(progress.clock(at(22, 350_000_000)), "[  12.3 s]");
        assert_eq!(progress.clock(at(9, 0)), "[   0.0 s]");
        assert_eq!(progress.clock(None), "          ");
    }
}
