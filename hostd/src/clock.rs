//! The time.
//!
//! What is stored is wall-clock time; what waits, waits with tokio's timers. In tests both stand still and jump together: a
//! [`Clock::simulated`] follows tokio's clock, which `#[tokio::test(start_paused = true)]` advances when everything waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use tokio::time::Instant;

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    simulated: Option<(SystemTime, Instant)>,
}

impl Clock {
    /// The host's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { simulated: None }
    }

    /// A clock that begins at `start` and goes on with tokio's.
    #[must_use]
    pub fn simulated(start: SystemTime) -> Self {
        Self { simulated: Some((start, Instant::now())) }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match self.simulated {
            Some((start, since)) => start + since.elapsed(),
            None => SystemTime::now(),
        }
    }

    /// The time now, to the millisecond: as it is stored and answered.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.now())
    }

    /// Waits until `time`; not at all when it has passed. Follows jumps of the host's clock within a minute.
    pub async fn sleep_until(&self, time: SystemTime) {
        const LOOK: Duration = Duration::from_secs(60);
        while let Ok(left) = time.duration_since(self.now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// A time to the millisecond.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (seconds, nanos) = (millis / 1000, (millis % 1000) * 1_000_000);
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// The time that a timestamp stands for; 1970 for what is before it.
#[must_use]
pub fn time(timestamp: &Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(timestamp.seconds).unwrap_or_default());
    UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(timestamp.nanos).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_to_the_millisecond() {
        let at = UNIX_EPOCH + Duration::from_nanos(1_786_817_864_601_234_567);
        assert_eq!(timestamp(at), Timestamp { seconds: 1_786_817_864, nanos: 601_000_000 });
        assert_eq!(time(&timestamp(at)), UNIX_EPOCH + Duration::from_millis(1_786_817_864_601));
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_jumps_with_the_timers() {
        let start = UNIX_EPOCH + Duration::from_secs(1000);
        let clock = Clock::simulated(start);
        clock.sleep_until(start + Duration::from_secs(28_800)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(28_800));
    }
}
