//! A rate limiter with the timer that expires when the next packet may pass.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use hearth_vmm_api::config::rate_limiter::RateLimiterConfig;

use super::super::DeviceError;
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
    pub(super) fn new(config: Option<RateLimiterConfig>) -> Result<Self, NetError> {
        let limiter = RateLimiter::of(config, monotonic_now())?;
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

    /// Changes the limit. A packet that waits is tried again by the device thread.
    ///
    /// # Errors
    /// When the limit is out of range, or the timer cannot be armed.
    pub(super) fn change(&mut self, config: Option<RateLimiterConfig>) -> Result<(), DeviceError> {
        if RateLimiter::change(&mut self.limiter, config, monotonic_now())? && self.waiting {
            let armed = self.timer.arm(Duration::ZERO);
            armed.map_err(DeviceError::backend("arming the network card's timer"))?;
        }
        Ok(())
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
