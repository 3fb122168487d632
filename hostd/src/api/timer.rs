//! The time that a request's body has: as a whole, and between its parts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Two deadlines of a body. Whoever reads the body asks for the second one only while there is no part. It counts from the first time that
/// there was none: a pause of the reader, like that of a busy disk, is not held against the client.
#[derive(Debug)]
pub(super) struct Timer {
    longest: Duration,
    /// Whether the reader waits for a part.
    waits: bool,
    idle: Pin<Box<Sleep>>,
    whole: Pin<Box<Sleep>>,
}

impl Timer {
    /// `longest`: longest time without a part; `whole`: longest time until the end.
    pub(super) fn new(longest: Duration, whole: Duration) -> Self {
        Self { longest, waits: false, idle: Box::pin(sleep(longest)), whole: Box::pin(sleep(whole)) }
    }

    /// A part has come.
    pub(super) fn part(&mut self) {
        self.waits = false;
    }

    /// Ready when no part has come for too long.
    pub(super) fn idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.waits {
            self.waits = true;
            let now = Instant::now();
            self.idle.as_mut().reset(now.checked_add(self.longest).unwrap_or(now));
        }
        self.idle.as_mut().poll(context)
    }

    /// Ready when the body takes too long.
    pub(super) fn whole(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.whole.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_a_part_counts() {
        let mut timer = Timer::new(10 * SECOND, 1000 * SECOND);
        for _ in 0..3 {
            // The reader has the disk write what came, for longer than a client may be silent.
            advance(60 * SECOND).await;
            assert!(poll_fn(|context| timer.idle(context)).now_or_never().is_none());
            advance(9 * SECOND).await;
            assert!(poll_fn(|context| timer.idle(context)).now_or_never().is_none());
            timer.part();
        }
        assert!(poll_fn(|context| timer.idle(context)).now_or_never().is_none());
        advance(11 * SECOND).await;
        assert!(poll_fn(|context| timer.idle(context)).now_or_never().is_some());
        assert!(poll_fn(|context| timer.whole(context)).now_or_never().is_none());
        advance(1000 * SECOND).await;
        assert!(poll_fn(|context| timer.whole(context)).now_or_never().is_some());
    }
}
