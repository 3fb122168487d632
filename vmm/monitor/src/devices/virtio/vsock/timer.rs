//! One timer for all the deadlines of the device.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// A one-shot timer descriptor, set for the earliest of the deadlines that were passed to it.
#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    /// Makes a timer that is not set.
    ///
    /// # Errors
    /// The error that `timerfd_create` returns.
    pub(super) fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, armed: None })
    }

    /// Makes the timer expire at `deadline`, or earlier if it is set for an earlier deadline already.
    ///
    /// # Errors
    /// The error that `timerfd_settime` returns.
    pub(super) fn arm(&mut self, deadline: Instant) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return Ok(());
        }
        // Zero would stop the timer instead of making it expire at once.
        let delay = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(delay.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(delay.subsec_nanos().cast_signed()),
        };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `setting` lives across the call; no old setting is requested.
        let result = unsafe {
            libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.armed = Some(deadline);
        Ok(())
    }

    /// Acknowledges the expiry: the timer is not set afterwards.
    pub(super) fn acknowledge(&mut self) {
        let mut expirations = 0u64;
        // SAFETY: the read fills the eight bytes of `expirations`. It fails only when the timer has not expired,
        // and setting it again is harmless then.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut expirations).cast(), size_of::<u64>()) };
        self.armed = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
