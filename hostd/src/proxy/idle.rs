//! When nothing has passed for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The last time that something has passed.
#[derive(Debug)]
pub(super) struct Idle {
    began: Instant,
    /// In milliseconds since it began.
    last: AtomicU64,
}

impl Idle {
    /// Something passes now.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Something passes now.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// Returns when nothing has passed for this time.
    pub(super) async fn over(&self, longest: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = last.checked_add(longest).and_then(|end| self.began.checked_add(end));
            let Some(end) = end else { return std::future::pending().await };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_touch_begins_the_time_anew() {
        const LONGEST: Duration = Duration::from_secs(10);
        let idle = Idle::new();
        let began = Instant::now();
        let touching = async {
            for _ in 0..5 {
                tokio::time::sleep(LONGEST - Duration::from_secs(1)).await;
                idle.touch();
            }
        };
        tokio::join!(idle.over(LONGEST), touching);
        assert_eq!(began.elapsed(), 5 * (LONGEST - Duration::from_secs(1)) + LONGEST);
    }
}
