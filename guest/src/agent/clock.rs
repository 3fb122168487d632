//! The guest's wall clock, which follows the host's.
//!
//! Guest and host count time with the same counter, but the host's clock is corrected by NTP, at up to 500 µs a second, and is set. So the
//! agent compares the two from time to time, through the PTP clock that KVM has (Documentation/virt/kvm/arm/ptp_kvm.rst in the kernel).
//!
//! Whoever keeps the clock in the microVM itself – an NTP client of an app with all capabilities – says so to the kernel, and the agent leaves it alone.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::system::check;

/// The host's clock.
const HOST: &str = "/dev/ptp0";
/// Time between two comparisons.
const INTERVAL: Duration = Duration::from_secs(16);
/// Differences in nanoseconds below this one are left alone: reading a clock takes some time, too.
const UNSEEN: i64 = 1_000_000;
/// Differences in nanoseconds from this one on are made up for at once, smaller ones at 500 µs a second (`MAX_TICKADJ`).
const STEP: i64 = 500_000_000;
/// Times from the host are this late in nanoseconds at most.
const LATE: i64 = 10_000_000_000;
/// `ADJ_OFFSET_SINGLESHOT` and `STA_UNSYNC` (linux/timex.h).
const SINGLE_SHOT: libc::c_uint = 0x8001;
const UNSYNCHRONISED: libc::c_int = 0x40;

/// The wall clock.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// Once it is followed. Where the host has no such clock, the guest's runs by itself.
    host: OnceLock<File>,
    /// How many nanoseconds the guest's clock is kept ahead of the host's: as many as the host has said.
    ahead: AtomicI64,
}

/// What is done about a difference.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    None,
    Slew,
    Step,
}

impl Correction {
    fn of(difference: i64) -> Self {
        match difference.abs() {
            ..UNSEEN => Self::None,
            UNSEEN..STEP => Self::Slew,
            _ => Self::Step,
        }
    }
}

impl WallClock {
    /// Sets the clock to a time that the host says, in nanoseconds since 1970, and keeps it as far from the host's.
    pub(super) fn set(&self, nanoseconds: i64) -> io::Result<()> {
        write(nanoseconds)?;
        let ahead = self.host_time().map_or(0, |host| nanoseconds.saturating_sub(host));
        let is_late = (-LATE..LATE).contains(&ahead);
        self.ahead.store(if is_late { 0 } else { ahead }, Ordering::Relaxed);
        Ok(())
    }

    /// Corrects the clock from time to time, for ever. Returns only if there is no clock to follow.
    pub(super) async fn follow(&self) -> io::Result<Infallible> {
        let host = File::open(HOST)?;
        self.host.get_or_init(|| host);
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Nobody could do anything about an error here, and the next attempt may succeed.
            let _ = self.correct();
        }
    }

    fn correct(&self) -> io::Result<()> {
        let Some(host) = self.host_time() else { return Ok(()) };
        let right = host.saturating_add(self.ahead.load(Ordering::Relaxed));
        let difference = right.saturating_sub(read(libc::CLOCK_REALTIME)?);
        match Correction::of(difference) {
            Correction::None => Ok(()),
            _ if is_kept_by_others()? => Ok(()),
            Correction::Slew => slew(difference),
            Correction::Step => write(right),
        }
    }

    /// None on a host whose KVM has no such clock, which may be another one than that of the snapshot.
    fn host_time(&self) -> Option<i64> {
        // A dynamic POSIX clock (clock_getres(2), "Dynamic clocks").
        read((!self.host.get()?.as_raw_fd() << 3) | 3).ok()
    }
}

/// Nanoseconds since 1970.
fn read(clock: libc::clockid_t) -> io::Result<i64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a time that lives until the call returns.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

fn write(nanoseconds: i64) -> io::Result<()> {
    let time = libc::timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    // SAFETY: the pointer is to a time that lives until the call returns.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) }).map(drop)
}

/// Has the kernel make up for a difference little by little; it replaces what is left of an earlier one.
fn slew(difference: i64) -> io::Result<()> {
    adjust(SINGLE_SHOT, difference / 1_000).map(drop)
}

/// Whether another program keeps the clock.
fn is_kept_by_others() -> io::Result<bool> {
    Ok(adjust(0, 0)?.status & UNSYNCHRONISED == 0)
}

fn adjust(modes: libc::c_uint, offset: i64) -> io::Result<libc::timex> {
    // SAFETY: all of its fields are numbers, of which zero is one.
    let mut values: libc::timex = unsafe { std::mem::zeroed() };
    (values.modes, values.offset) = (modes, offset);
    // SAFETY: the pointer is to values that live until the call returns.
    check(unsafe { libc::adjtimex(&raw mut values) })?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_made_up_for_slowly() {
        for (difference, correction) in [
            (0, Correction::None),
            (999_999, Correction::None),
            (-1_000_000, Correction::Slew),
            (499_999_999, Correction::Slew),
            (500_000_000, Correction::Step),
            (i64::MIN + 1, Correction::Step),
        ] {
            assert_eq!(Correction::of(difference), correction, "{difference}");
        }
    }

    #[test]
    fn clocks_are_read_in_nanoseconds() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let read = read(libc::CLOCK_REALTIME).unwrap();
        assert!(i128::from(read) - i128::try_from(now.as_nanos()).unwrap() < 60_000_000_000);
        assert!(self::read(-1).is_err());
        adjust(0, 0).unwrap();
    }
}
