//! The sink for console output, which is bounded and never blocks a vCPU.
//!
//! Bytes collect in a small buffer that is written out at each end of line, when it is full, and 20 ms
//! after the first byte of an unfinished line (a prompt). A full pipe is not written to until it has room;
//! meanwhile the guest's output fills the buffer, and further output is lost. A notice in the output then reports
//! how many bytes were lost. A file takes a fixed number of bytes over its life, since nothing empties it.

use std::io::{self, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use super::{FLUSH, OUTPUT};
use crate::event_loop::{Interest, Poller};
use crate::rate_limiter::LimiterTimer;

/// Largest number of bytes that are held back.
pub(super) const BUFFER: usize = 4096;
/// Time for which an unfinished line is held back.
const FLUSH_DELAY: Duration = Duration::from_millis(20);

/// The sink for console output. Writing to it always succeeds.
#[derive(Debug)]
pub(super) struct Sink {
    output: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// Number of the guest's bytes that the output may still take; `None` where there is no limit.
    budget: Option<u64>,
    limit: u64,
    poller: Poller,
    timer: LimiterTimer,
    armed: bool,
    /// Whether the output has no room; the poller then reports when it has room again.
    blocked: bool,
    written: u64,
    dropped: u64,
    /// Number of bytes dropped since the last notice.
    unreported: u64,
}

impl Sink {
    pub(super) fn new(output: Option<OwnedFd>, max_bytes: u64, poller: Poller) -> io::Result<Self> {
        let mut budget = None;
        if let Some(fd) = &output {
            if is_file(fd)? {
                budget = Some(max_bytes);
            } else {
                set_non_blocking(fd)?;
            }
        }
        let timer = LimiterTimer::new()?;
        poller.add(&timer, FLUSH, Interest::READ)?;
        Ok(Self {
            output,
            buffer: Vec::with_capacity(BUFFER),
            budget,
            limit: max_bytes,
            poller,
            timer,
            armed: false,
            blocked: false,
            written: 0,
            dropped: 0,
            unreported: 0,
        })
    }

    /// Number of bytes written to the output: the guest's and those of notices.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Number of the guest's bytes that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn push(&mut self, byte: u8) {
        if self.output.is_none() || self.budget == Some(0) {
            self.dropped += 1;
            return;
        }
        if self.buffer.len() >= BUFFER {
            self.write_out();
            if self.buffer.len() >= BUFFER {
                self.dropped += 1;
                self.unreported += 1;
                return;
            }
        }
        self.buffer.push(byte);
        if let Some(budget) = &mut self.budget {
            *budget -= 1;
            if *budget == 0 {
                self.write_out();
                let limit = self.limit;
                self.notice(format_args!(
                    "console output reached its limit of {limit} bytes; the rest is dropped"
                ));
                return;
            }
        }
        if byte == b'\n' {
            self.write_out();
        } else if !self.armed && !self.blocked {
            self.armed = self.timer.arm(FLUSH_DELAY).is_ok();
        }
    }

    /// Adds a line of the monitor's own and writes it out. The line does not count against the budget.
    fn notice(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a vector never fails; the buffer exceeds its capacity by at most one line.
        let _ = writeln!(self.buffer, "\r\n[hearth: {text}]\r");
        self.write_out();
    }

    /// Writes out as much as the output takes.
    fn write_out(&mut self) {
        while !self.blocked && !self.buffer.is_empty() {
            let Some(output) = &self.output else { return };
            // SAFETY: the buffer lives across the call.
            let done =
                unsafe { libc::write(output.as_raw_fd(), self.buffer.as_ptr().cast(), self.buffer.len()) };
            match usize::try_from(done) {
                Ok(done) if done > 0 => {
                    self.written += done as u64;
                    self.buffer.drain(..done.min(self.buffer.len()));
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = self.poller.add(output, OUTPUT, Interest::WRITE).is_ok();
                    return;
                }
                // The reader is gone, or the disk is full: the output is discarded, and the guest continues.
                Ok(_) | Err(_) => {
                    self.dropped += self.buffer.len() as u64;
                    self.buffer.clear();
                    self.output = None;
                }
            }
        }
    }

    /// Handles the event that the output has room again or has no reader left.
    pub(super) fn writable(&mut self) {
        if let (true, Some(output)) = (self.blocked, &self.output) {
            let _ = self.poller.remove(output); // it was added when the output was blocked
            self.blocked = false;
            self.write_out();
            if !self.blocked && self.unreported > 0 {
                let lost = std::mem::take(&mut self.unreported);
                self.notice(format_args!(
                    "{lost} bytes of console output were lost: nobody read them in time"
                ));
            }
        }
    }

    /// Handles the expiry of the timer for an unfinished line.
    pub(super) fn flush_due(&mut self) {
        let _ = self.timer.clear(); // a timer that cannot be cleared fires again, harmlessly
        self.armed = false;
        self.write_out();
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        data.iter().for_each(|&byte| self.push(byte));
        Ok(data.len())
    }

    /// Does nothing, because the UART calls this after every byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes out the buffer, because the guest's last output is often the most important.
impl Drop for Sink {
    fn drop(&mut self) {
        self.write_out();
    }
}

fn is_file(fd: &OwnedFd) -> io::Result<bool> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `stat`.
    if unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it is written.
    let mode = unsafe { stat.assume_init() }.st_mode;
    Ok(mode & libc::S_IFMT == libc::S_IFREG)
}

fn set_non_blocking(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and neither command takes a pointer.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
