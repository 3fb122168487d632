//! Periodic timers.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use super::failed;
use super::machine::nanoseconds;

/// The period of the timers.
const PERIOD_NS: libc::c_long = 10_000_000;

/// A timer that expires every 10 ms of the monotonic clock.
#[derive(Debug)]
pub(super) struct Periodic(File);

impl Periodic {
    /// Starts the timer.
    pub(super) fn start() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made by the call above and nothing else owns it.
        let timer = unsafe { File::from_raw_fd(timer) };
        let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the setting lives until the call returns; the old one is not requested.
        let result =
            unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(timer)) }
    }

    /// Waits until the timer has expired; returns how often it has expired since the last call.
    pub(super) fn wait(&mut self) -> io::Result<u64> {
        let mut expirations = [0; 8];
        self.0.read_exact(&mut expirations)?;
        Ok(u64::from_ne_bytes(expirations))
    }
}

/// `MILLISECONDS → WAKEUPS EXPIRATIONS`: runs for this time of the monotonic clock; returns how often a thread that
/// waits for a 10 ms timer woke up, and how often the timer expired.
pub(super) fn storm(milliseconds: i64) -> Result<String, String> {
    let end = nanoseconds(libc::CLOCK_MONOTONIC) + milliseconds.saturating_mul(1_000_000);
    let mut timer = Periodic::start().map_err(failed("starting a timer"))?;
    let (mut wakeups, mut expirations) = (0_u64, 0);
    while nanoseconds(libc::CLOCK_MONOTONIC) < end {
        expirations += timer.wait().map_err(failed("waiting for a timer"))?;
        wakeups += 1;
    }
    Ok(format!("{wakeups} {expirations}"))
}
