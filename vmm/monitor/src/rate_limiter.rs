//! Rate limits for block and net devices: token buckets for bytes and for operations.
//!
//! A bucket holds at most `size` tokens, starts full and regains `size` tokens over each refill interval,
//! spread evenly. A one-time burst is spent before anything else and is never refilled. A request that costs
//! more than a whole bucket waits until the bucket is full and then passes in overdraft: the debt is
//! paid back at the refill rate before anything else passes. So no request starves, and in any period of
//! `t` seconds a bucket lets through at most `size + burst + t × rate` and one overdraft.
//!
//! The caller passes the time in ([`monotonic_now`] in production), so tests run on simulated time. Levels are
//! kept in token-nanoseconds, which makes refilling exact at any rate: rounding loses nothing, however
//! often a device calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use hearth_vmm_api::config::rate_limiter::{BucketConfig, MAX_REFILL_MS, RateLimiterConfig};

const NANOS_PER_MS: u64 = 1_000_000;

/// Why a rate limiter could not be set up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RateLimiterError {
    /// The bucket's size is 0, so nothing would ever pass.
    #[error("rate limiter: a bucket of size 0 lets nothing through; give a size of at least 1, or no bucket")]
    ZeroSize,
    /// The interval is zero or too long.
    #[error("rate limiter: refill interval {0} ms is out of range; it must be 1 to {MAX_REFILL_MS} ms")]
    RefillOutOfRange(u64),
}

/// The result for a request that has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The monotonic time at which the same request passes, if nothing else takes tokens before then.
    pub until: Duration,
}

impl Wait {
    /// Time from `now` to `until`; zero if that has passed.
    #[must_use]
    pub fn delay(&self, now: Duration) -> Duration {
        self.until.saturating_sub(now)
    }
}

/// The monotonic clock (`CLOCK_MONOTONIC`), as [`RateLimiter::consume`] expects it.
#[must_use]
pub fn monotonic_now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; CLOCK_MONOTONIC exists on every Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A token bucket; the module's documentation describes its rules.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    size: i128,
    interval: i128,
    burst: u64,
    /// Fill level in token-nanoseconds: tokens × `interval`. Negative after an overdraft. Each nanosecond adds `size`.
    level: i128,
    refilled: Duration,
}

impl TokenBucket {
    /// Makes a full bucket.
    ///
    /// # Errors
    /// [`RateLimiterError`] when the size or the interval is out of range.
    pub fn new(config: BucketConfig, now: Duration) -> Result<Self, RateLimiterError> {
        if config.size == 0 {
            return Err(RateLimiterError::ZeroSize);
        }
        if !(1..=MAX_REFILL_MS).contains(&config.refill_ms) {
            return Err(RateLimiterError::RefillOutOfRange(config.refill_ms));
        }
        // At most 2^64 × 2^47: levels and costs stay far from the ends of an i128.
        let interval = i128::from(config.refill_ms * NANOS_PER_MS);
        let size = i128::from(config.size);
        Ok(Self { size, interval, burst: config.one_time_burst, level: size * interval, refilled: now })
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled).as_nanos();
        let gained = i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(self.size);
        self.level = self.level.saturating_add(gained).min(self.size * self.interval);
        self.refilled = self.refilled.max(now);
    }

    /// Whether `cost` tokens can be taken. The caller has refilled the bucket.
    fn check(&self, cost: u64) -> Result<(), Wait> {
        let beyond_burst = cost.saturating_sub(self.burst);
        if beyond_burst == 0 {
            return Ok(());
        }
        let needed = i128::from(beyond_burst).min(self.size) * self.interval;
        let missing = needed - self.level;
        if missing <= 0 {
            return Ok(());
        }
        let nanos = missing / self.size + i128::from(missing % self.size != 0);
        let delay = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Err(Wait { until: self.refilled.saturating_add(delay) })
    }

    /// Takes `cost` tokens that [`Self::check`] granted: the burst first, then the bucket, into debt if necessary.
    fn take(&mut self, cost: u64) {
        let from_burst = cost.min(self.burst);
        self.burst -= from_burst;
        self.level -= i128::from(cost - from_burst) * self.interval;
    }

    /// Takes `cost` tokens at time `now`, or reports when they will be available. Time never runs backwards here: a
    /// `now` earlier than that of a previous call counts as the latest time seen.
    ///
    /// # Errors
    /// [`Wait`] when the bucket does not hold enough; nothing is taken then.
    pub fn consume(&mut self, now: Duration, cost: u64) -> Result<(), Wait> {
        self.refill(now);
        self.check(cost)?;
        self.take(cost);
        Ok(())
    }
}

/// Limits on bytes and operations together: a request passes when both buckets allow it.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    config: RateLimiterConfig,
    bytes: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Makes a limiter with full buckets.
    ///
    /// # Errors
    /// [`RateLimiterError`] when a size or an interval is out of range.
    pub fn new(config: &RateLimiterConfig, now: Duration) -> Result<Self, RateLimiterError> {
        let bucket = |config: Option<BucketConfig>| config.map(|c| TokenBucket::new(c, now)).transpose();
        Ok(Self { config: *config, bytes: bucket(config.bytes)?, ops: bucket(config.ops)? })
    }

    /// Makes a limiter with full buckets, or none if the configuration limits nothing: then no request costs a look at the
    /// clock.
    ///
    /// # Errors
    /// [`RateLimiterError`] when a size or an interval is out of range.
    pub fn of(config: Option<RateLimiterConfig>, now: Duration) -> Result<Option<Self>, RateLimiterError> {
        let limited = config.filter(|config| *config != RateLimiterConfig::default());
        limited.map(|config| Self::new(&config, now)).transpose()
    }

    /// Changes `limiter` to this configuration, with full buckets. A limiter that has it already stays as it is, so that
    /// setting a limit again lets nothing through. Returns whether it was changed.
    ///
    /// # Errors
    /// [`RateLimiterError`] when a size or an interval is out of range; nothing is changed then.
    pub fn change(
        limiter: &mut Option<Self>,
        config: Option<RateLimiterConfig>,
        now: Duration,
    ) -> Result<bool, RateLimiterError> {
        let changed = Self::of(config, now)?;
        if changed.as_ref().map(|limiter| limiter.config) == limiter.as_ref().map(|limiter| limiter.config) {
            return Ok(false);
        }
        *limiter = changed;
        Ok(true)
    }

    /// Lets a request of `bytes` bytes that counts as `ops` operations through at time `now`, or reports when it
    /// may be tried again.
    ///
    /// # Errors
    /// [`Wait`] when either bucket does not hold enough; nothing is taken from either then.
    pub fn consume(&mut self, now: Duration, bytes: u64, ops: u64) -> Result<(), Wait> {
        let mut until = None;
        for (bucket, cost) in [(&mut self.bytes, bytes), (&mut self.ops, ops)] {
            let Some(bucket) = bucket else { continue };
            bucket.refill(now);
            if let Err(wait) = bucket.check(cost) {
                until = until.max(Some(wait.until));
            }
        }
        if let Some(until) = until {
            return Err(Wait { until });
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.ops {
            bucket.take(ops);
        }
        Ok(())
    }
}

/// A timer to register with the device's [`crate::event_loop::Poller`]: its descriptor becomes readable on expiry.
#[derive(Debug)]
pub struct LimiterTimer(OwnedFd);

impl LimiterTimer {
    /// Makes a timer that is not armed.
    ///
    /// # Errors
    /// The error that `timerfd_create` returns (out of descriptors).
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable after `delay` (at least a nanosecond), once. Replaces an earlier arming.
    ///
    /// # Errors
    /// The error that `timerfd_settime` returns.
    pub fn arm(&self, delay: Duration) -> io::Result<()> {
        let delay = delay.max(Duration::from_nanos(1));
        self.set(libc::timespec {
            tv_sec: libc::time_t::try_from(delay.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: delay.subsec_nanos().into(),
        })
    }

    /// Disarms the timer and discards an expiry: the descriptor is not readable until the timer is armed again.
    ///
    /// # Errors
    /// The error that `timerfd_settime` returns.
    pub fn clear(&self) -> io::Result<()> {
        self.set(libc::timespec { tv_sec: 0, tv_nsec: 0 })
    }

    fn set(&self, value: libc::timespec) -> io::Result<()> {
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: `spec` lives across the call, and no old value is requested. Setting resets the expiry count.
        let result =
            unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for LimiterTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event_loop::{EventLoop, Interest};

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(size: u64, one_time_burst: u64, refill_ms: u64) -> BucketConfig {
        BucketConfig { size, one_time_burst, refill_ms }
    }

    #[test]
    fn buckets_that_make_no_sense_are_refused_by_name() {
        let refused = |config| TokenBucket::new(config, SECOND).unwrap_err();
        assert_eq!(refused(bucket(0, 5, 100)), RateLimiterError::ZeroSize);
        assert_eq!(refused(bucket(1, 0, 0)), RateLimiterError::RefillOutOfRange(0));
        let message = refused(bucket(1, 0, u64::MAX)).to_string();
        assert!(message.contains(&u64::MAX.to_string()) && message.contains("86400000"), "{message}");
    }

    #[test]
    fn the_burst_is_spent_first_and_never_comes_back() {
        let mut bucket = TokenBucket::new(bucket(10, 5, 1000), SECOND).unwrap();
        assert_eq!(bucket.consume(SECOND, 15), Ok(()));
        assert_eq!(bucket.consume(SECOND, 1), Err(Wait { until: SECOND + SECOND / 10 }));
        assert_eq!(bucket.consume(100 * SECOND, 10), Ok(()));
        assert_eq!(bucket.consume(100 * SECOND, 1), Err(Wait { until: 100 * SECOND + SECOND / 10 }));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_back() {
        let mut bucket = TokenBucket::new(bucket(10, 0, 1000), SECOND).unwrap();
        assert_eq!(bucket.consume(SECOND, 1), Ok(()));
        let wait = bucket.consume(SECOND, 30).unwrap_err();
        assert_eq!(wait.delay(SECOND), SECOND / 10);
        assert_eq!(bucket.consume(wait.until, 30), Ok(()));
        // Twenty tokens of debt and one to spend: 2.1 seconds.
        assert_eq!(bucket.consume(wait.until, 1).unwrap_err().delay(wait.until), SECOND * 21 / 10);
        assert_eq!(bucket.consume(wait.until, 0), Ok(()), "what costs nothing never waits");
    }

    #[test]
    fn a_request_passes_only_when_both_buckets_let_it_and_takes_from_neither_otherwise() {
        let config = RateLimiterConfig { bytes: Some(bucket(100, 0, 1000)), ops: Some(bucket(1, 0, 500)) };
        let mut limiter = RateLimiter::new(&config, SECOND).unwrap();
        assert_eq!(limiter.consume(SECOND, 50, 1), Ok(()));
        assert_eq!(limiter.consume(SECOND, 50, 1).unwrap_err().delay(SECOND), SECOND / 2);
        assert_eq!(limiter.consume(SECOND, 50, 0), Ok(()), "the refused request left the bytes alone");
        let now = SECOND + SECOND / 2;
        assert_eq!(limiter.consume(now, 51, 1).unwrap_err().delay(now), SECOND / 100);
        let mut unlimited = RateLimiter::new(&RateLimiterConfig::default(), SECOND).unwrap();
        assert_eq!(unlimited.consume(SECOND, u64::MAX, u64::MAX), Ok(()));
    }

    #[test]
    fn a_limit_that_is_set_again_keeps_its_level_and_another_one_is_full() {
        let limit = |size| Some(RateLimiterConfig { bytes: Some(bucket(size, 0, 1000)), ops: None });
        let mut limiter = RateLimiter::of(limit(10), SECOND).unwrap();
        let consume = |limiter: &mut Option<RateLimiter>, bytes| {
            limiter.as_mut().map_or(Ok(()), |limiter| limiter.consume(SECOND, bytes, 1))
        };
        assert_eq!(consume(&mut limiter, 10), Ok(()));
        assert!(!RateLimiter::change(&mut limiter, limit(10), SECOND).unwrap());
        assert!(consume(&mut limiter, 1).is_err(), "nothing is let through by setting it again");
        assert!(RateLimiter::change(&mut limiter, limit(20), SECOND).unwrap());
        assert_eq!((consume(&mut limiter, 20), consume(&mut limiter, 1).is_err()), (Ok(()), true));
        RateLimiter::change(&mut limiter, limit(0), SECOND).unwrap_err();
        assert!(consume(&mut limiter, 1).is_err(), "what is refused changes nothing");
        for none in [None, Some(RateLimiterConfig::default())] {
            RateLimiter::change(&mut limiter, none, SECOND).unwrap();
            assert!(limiter.is_none());
        }
    }

    #[test]
    fn an_armed_timer_wakes_the_loop_once_and_a_cleared_one_never() {
        let mut events = EventLoop::new().unwrap();
        let timer = LimiterTimer::new().unwrap();
        events.poller(3).add(&timer, 1, Interest::READ).unwrap();
        timer.arm(Duration::ZERO).unwrap();
        assert_eq!(events.wait(-1, |ready| assert_eq!((ready.device, ready.token), (3, 1))).unwrap(), 1);
        timer.clear().unwrap();
        timer.arm(Duration::MAX).unwrap();
        assert_eq!(events.wait(0, |_| panic!("cleared, and then armed for never")).unwrap(), 0);
    }

    #[test]
    fn the_monotonic_clock_does_not_run_backwards() {
        let before = monotonic_now();
        assert!(before > Duration::ZERO && monotonic_now() >= before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 8192 } else { 256 }))]

        /// For any sequence of requests, the tokens that pass stay within size + burst + rate × time and the largest
        /// overdraft, and a request that waits until the reported time passes.
        #[test]
        fn no_sequence_gets_more_than_its_share_and_every_request_gets_through(
            size in 1..1u64 << 40, burst in 0..1u64 << 40, refill_ms in 1..100_000u64,
            steps in proptest::collection::vec((0..1u64 << 42, 0..10_000_000_000u64, any::<bool>()), 1..60),
        ) {
            let start = Duration::from_secs(1000);
            let mut bucket = TokenBucket::new(bucket(size, burst, refill_ms), start).unwrap();
            let (mut now, mut total, mut overdraft) = (start, 0u128, 0u128);
            for (cost, pause, patient) in steps {
                now += Duration::from_nanos(pause);
                let mut passed = bucket.consume(now, cost);
                if let (Err(wait), true) = (passed, patient) {
                    prop_assert!(wait.until > now);
                    now = wait.until;
                    passed = bucket.consume(now, cost);
                    prop_assert_eq!(passed, Ok(()));
                }
                if passed.is_ok() {
                    total += u128::from(cost);
                    overdraft = overdraft.max(u128::from(cost.saturating_sub(size)));
                }
                let interval = u128::from(refill_ms) * 1_000_000;
                let refilled = (now - start).as_nanos() * u128::from(size) / interval;
                prop_assert!(total <= u128::from(size) + u128::from(burst) + refilled + overdraft);
            }
        }

        /// No configuration, cost or clock value causes an overflow, and a wait is always until a later time.
        #[test]
        fn extreme_values_neither_overflow_nor_block_for_ever(
            size in 1..=u64::MAX, burst in any::<u64>(), refill_ms in 1..=MAX_REFILL_MS,
            steps in proptest::collection::vec(
                (prop_oneof![any::<u64>(), Just(u64::MAX)], prop_oneof![any::<u64>(), Just(u64::MAX)]), 1..40),
        ) {
            let mut bucket = TokenBucket::new(bucket(size, burst, refill_ms), Duration::ZERO).unwrap();
            for (cost, seconds) in steps {
                let now = Duration::from_secs(seconds);
                if let Err(wait) = bucket.consume(now, cost) {
                    prop_assert!(wait.until > now || now < bucket.refilled || wait.until == Duration::MAX);
                }
            }
        }
    }
}
