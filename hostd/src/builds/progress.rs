//! The events of a build, for clients that watch it.
//!
//! A [`Progress`] keeps the latest events of a build, within bounds. Any number of [`Watch`]es read them, each at its
//! own pace. A reader that is too slow misses the oldest events, and delays nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_proto::host::v1::{BuildEvent, build_event::Event};
use hearth_proto::microvms::v1::GetMicrovmImageBuildResponse;
use prost::Message as _;
use prost_types::Timestamp;
use tokio::sync::watch;

use crate::panics::poisoned;

/// Most events that are kept.
const EVENTS: usize = 4096;
/// Most bytes of all kept events together.
const BYTES: usize = 4 << 20;

/// The events of a build under way.
#[derive(Debug)]
pub struct Progress {
    history: Mutex<History>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct History {
    /// Number of events so far.
    count: u64,
    /// The kept events with their numbers.
    events: VecDeque<(u64, BuildEvent)>,
    bytes: usize,
    closed: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { history: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Progress {
    /// Adds an event, and notifies all watches.
    pub(super) fn publish(&self, time: Timestamp, event: Event) {
        let mut history = self.lock();
        // The progress of a download replaces its last progress.
        let is_fetched = |event: &(u64, BuildEvent)| matches!(event.1.event, Some(Event::Fetched(_)));
        if matches!(event, Event::Fetched(_)) && history.events.back().is_some_and(is_fetched) {
            history.drop_last();
        }
        history.add(BuildEvent { time: Some(time), event: Some(event) });
        drop(history);
        self.changed.send_replace(());
    }

    /// Marks the end of the events: watches return none after the last one.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    /// A watch that begins with the first kept event.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        Watch { progress: Arc::clone(self), next: 0, changed: self.changed.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(poisoned)
    }
}

// === impl History ===

impl History {
    fn add(&mut self, event: BuildEvent) {
        self.bytes += event.encoded_len();
        self.events.push_back((self.count, event));
        self.count += 1;
        while (self.events.len() > EVENTS || self.bytes > BYTES) && self.events.len() > 1 {
            if let Some((_, oldest)) = self.events.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.encoded_len());
            }
        }
    }

    fn drop_last(&mut self) {
        if let Some((_, last)) = self.events.pop_back() {
            self.bytes = self.bytes.saturating_sub(last.encoded_len());
        }
    }

    /// The first event with this number or a higher one.
    fn from(&self, number: u64) -> Option<&(u64, BuildEvent)> {
        self.events.get(self.events.partition_point(|(other, _)| *other < number))
    }
}

/// A reader of a build's events.
#[derive(Debug)]
pub struct Watch {
    progress: Arc<Progress>,
    next: u64,
    changed: watch::Receiver<()>,
}

impl Watch {
    /// The watch of a build that has finished: contains the final event only.
    pub(super) fn finished(time: Timestamp, build: GetMicrovmImageBuildResponse) -> Self {
        let progress = Arc::new(Progress::default());
        progress.publish(time, Event::Ended(build));
        progress.close();
        progress.watch()
    }

    /// Waits for the next event. None at the end: after the build's final event, or when the daemon stops.
    pub async fn next(&mut self) -> Option<BuildEvent> {
        loop {
            self.changed.mark_unchanged();
            {
                let history = self.progress.lock();
                if let Some((number, event)) = history.from(self.next) {
                    self.next = number + 1;
                    return Some(event.clone());
                }
                if history.closed {
                    return None;
                }
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// Converts the watch into a stream of its events.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = BuildEvent> + Send {
        futures_util::stream::unfold(self, |mut watch| async {
            let event = watch.next().await?;
            Some((event, watch))
        })
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::host::v1::{ArtifactProgress, LogEvent};

    use super::*;

    fn line(text: &str) -> Event {
        Event::Log(LogEvent { message: text.to_owned(), ..Default::default() })
    }

    async fn rest(mut watch: Watch) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = watch.next().await {
            events.extend(event.event);
        }
        events
    }

    #[tokio::test]
    async fn a_late_watch_gets_past_and_future_events() {
        let progress = Arc::new(Progress::default());
        progress.publish(Timestamp::default(), line("one"));
        let mut watch = progress.watch();
        assert_eq!(watch.next().await.unwrap().event, Some(line("one")));
        let later = tokio::spawn(rest(watch));
        tokio::task::yield_now().await;
        progress.publish(Timestamp::default(), line("two"));
        progress.close();
        assert_eq!(later.await.unwrap(), [line("two")]);
        assert_eq!(rest(progress.watch()).await, [line("one"), line("two")]);
    }

    #[tokio::test]
    async fn a_slow_watch_misses_the_oldest_events() {
        let progress = Arc::new(Progress::default());
        let watch = progress.watch();
        let text = "x".repeat(BYTES / 4);
        for number in 0..10 {
            progress.publish(Timestamp::default(), line(&format!("{number}{text}")));
        }
        progress.close();
        let events = rest(watch).await;
        assert_eq!(events.len(), 3, "three fit");
        assert_eq!(events[2], line(&format!("9{text}")));
    }

    #[tokio::test]
    async fn only_the_latest_progress_of_a_download_is_kept() {
        let progress = Arc::new(Progress::default());
        let fetched = |bytes| Event::Fetched(ArtifactProgress { bytes, total: None });
        progress.publish(Timestamp::default(), line("begin"));
        let mut watch = progress.watch();
        watch.next().await.unwrap();
        for bytes in 1..=3 {
            progress.publish(Timestamp::default(), fetched(bytes));
        }
        progress.publish(Timestamp::default(), line("end"));
        progress.close();
        assert_eq!(rest(watch).await, [fetched(3), line("end")]);
        assert_eq!(rest(progress.watch()).await, [line("begin"), fetched(3), line("end")]);
    }
}
