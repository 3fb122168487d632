//! How the end of a machine is reported: the first thread that detects it records the reason and wakes the control
//! thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// Why the vCPUs must not continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest requested a restart.
    Restart,
    /// The guest did something after which the machine cannot continue.
    GuestError(String),
    /// The monitor or the host failed.
    MonitorError(String),
}

/// The place where threads report the end of the machine; its descriptor is readable when there is a report.
#[derive(Debug)]
pub struct ShutdownSignal {
    reason: Mutex<Option<ShutdownReason>>,
    event: EventFd,
}

impl ShutdownSignal {
    /// Makes a signal without a report.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { reason: Mutex::new(None), event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)? })
    }

    /// Reports the end of the machine; only the first report counts.
    pub fn report(&self, reason: ShutdownReason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        let _ = self.event.write(1); // fails only when it is signalled already
    }

    /// Whether there is a report.
    #[must_use]
    pub fn is_reported(&self) -> bool {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes the report, if there is one, and resets the signal.
    pub fn take(&self) -> Option<ShutdownReason> {
        let _ = self.event.read(); // fails only when nothing was reported
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl AsFd for ShutdownSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `event`, which the borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}
