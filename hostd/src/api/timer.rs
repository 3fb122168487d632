//! The time that a request's body has: as a whole, and between its parts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Two deadlines of a body. Whoever reads the body asks for the second one only while there is no part, so that a pause
/// of the reader is not held against the client.
#[derive(Debug)]
pub(super) struct Timer {
    longest: Duration,
    idle: Pin<Box<Sleep>>,
    whole: Pin<Box<Sleep>>,
}

impl Timer {
    /// `longest`: longest time without a part; `whole`: longest time until the end.
    pub(super) fn new(longest: Duration, whole: Duration) -> Self {
        Self { longest, idle: Box::pin(sleep(longest)), whole: Box::pin(sleep(whole)) }
    }

    /// A part has come.
    pub(super) fn part(&mut self) {
        let now = Instant::now();
        self.idle.as_mut().reset(now.checked_add(self.longest).unwrap_or(now));
    }

    /// Ready when no part has come for too long.
    pub(super) fn idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.idle.as_mut().poll(context)
    }

    /// Ready when the body takes too long.
    pub(super) fn whole(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.whole.as_mut().poll(context)
    }
}
