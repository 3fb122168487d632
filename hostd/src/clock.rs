//! The time.
//!
//! Stored times are wall-clock times; waiting uses tokio's timers. In tests both stand still and jump together: a
//! [`Clock::simulated`] follows tokio's clock, which `#[tokio::test(start_paused = true)]` advances when all tasks
//! wait.
// This module computes with times that clients send: nothing may overflow, and no index be out of range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use tokio::time::Instant;

/// The source of the current time.
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
            Some((start, since)) => start.checked_add(since.elapsed()).unwrap_or(start),
            None => SystemTime::now(),
        }
    }

    /// The current time plus `wait`; the current time if the sum cannot be represented.
    #[must_use]
    pub fn after(&self, wait: Duration) -> SystemTime {
        let now = self.now();
        now.checked_add(wait).unwrap_or(now)
    }

    /// The current time to the millisecond, as it is stored and returned to clients.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.now())
    }

    /// Waits until `time`; returns at once if it has passed. Jumps of the host's clock are noticed within a minute.
    pub async fn sleep_until(&self, time: SystemTime) {
        const LOOK: Duration = Duration::from_secs(60);
        while let Ok(left) = time.duration_since(self.now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

/// Converts a time, truncated to the millisecond.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (seconds, nanos) = (millis / 1000, (millis % 1000).saturating_mul(1_000_000));
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// Valid seconds of timestamps since 1970: from the beginning of the year 1 to the end of 9999
/// (google/protobuf/timestamp.proto).
pub const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// Valid nanoseconds of timestamps, which count forward.
pub const NANOS: std::ops::RangeInclusive<i32> = 0..=999_999_999;

/// Whether both fields of a timestamp are in range.
#[must_use]
pub fn is_valid(timestamp: &Timestamp) -> bool {
    SECONDS.contains(&timestamp.seconds) && NANOS.contains(&timestamp.nanos)
}

/// Converts a timestamp; a time before 1970 becomes 1970. A value out of range becomes the nearest valid time;
/// requests contain none, since the constraints refuse them.
#[must_use]
pub fn time(timestamp: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.seconds.min(*SECONDS.end())).unwrap_or_default();
    let nanos = match timestamp.seconds {
        0.. => u32::try_from(timestamp.nanos.clamp(*NANOS.start(), *NANOS.end())).unwrap_or_default(),
        _ => 0,
    };
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)).unwrap_or(UNIX_EPOCH)
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

    #[test]
    fn every_timestamp_stands_for_a_time() {
        let last = UNIX_EPOCH + Duration::new(253_402_300_799, 999_999_999);
        for (seconds, nanos, expected) in [
            (i64::MAX, 2_000_000_000, last),
            (i64::MAX, i32::MIN, UNIX_EPOCH + Duration::from_secs(253_402_300_799)),
            (253_402_300_799, i32::MAX, last),
            (0, -1, UNIX_EPOCH),
            (-1, 999_999_999, UNIX_EPOCH),
            (i64::MIN, i32::MAX, UNIX_EPOCH),
            (1, 1, UNIX_EPOCH + Duration::new(1, 1)),
        ] {
            assert_eq!(time(&Timestamp { seconds, nanos }), expected, "{seconds} {nanos}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_jumps_with_the_timers() {
        let start = UNIX_EPOCH + Duration::from_secs(1000);
        let clock = Clock::simulated(start);
        clock.sleep_until(start + Duration::from_secs(28_800)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(28_800));
    }
}
