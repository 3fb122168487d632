//! A rate limiter with the timer that expires when the next packet may pass.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use hearth_vmm_api::config::rate_limiter::RateLimiterConfig;

use super::error::NetError;
use crate::rate_limiter::{LimiterTimer, RateLimiter, monotonic_now};

/// The limit of one direction. It outlives resets of the device, so a driver cannot evade it with a reset.
#[derive(Debug)]
pub(super) struct Throttle {
    limiter: Option<RateLimiter>,
    timer: LimiterTimer,
    waiting: bool,
    /// Number of times that a packet had to wait.
    pub(super) throttled: u64,
}

impl Throttle {
    pub(super) fn new(config: Option<&RateLimiterConfig>) -> Result<Self, NetError> {
        // Without a limit, no packet costs a read of the clock.
        let limited = config.filter(|&config| *config != RateLimiterConfig::default());
        let limiter = limited.map(|config| RateLimiter::new(config, monotonic_now())).transpose()?;
        let timer = LimiterTimer::new().map_err(NetError::Descriptors)?;
        Ok(Self { limiter, timer, waiting: false, throttled: 0 })
    }

    /// Whether the direction waits for its timer.
    pub(super) fn waiting(&self) -> bool {
        self.waiting
    }

    /// Whether a packet of `bytes` bytes may pass now. If not, arms the timer for the time at which it may.
    ///
    /// # Errors
    /// When the timer cannot be armed.
    pub(super) fn admit(&mut self, bytes: usize) -> io::Result<bool> {
        let Some(limiter) = &mut self.limiter else { return Ok(true) };
        let now = monotonic_now();
        let Err(wait) = limiter.consume(now, bytes as u64, 1) else { return Ok(true) };
        self.timer.arm(wait.delay(now))?;
        self.waiting = true;
        self.throttled += 1;
        Ok(false)
    }

    /// Handles the expiry of the timer: the packet may be tried again.
    ///
    /// # Errors
    /// When the timer cannot be disarmed.
    pub(super) fn expired(&mut self) -> io::Result<()> {
        self.waiting = false;
        self.timer.clear()
    }
}

impl AsFd for Throttle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
