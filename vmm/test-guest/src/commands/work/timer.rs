//! A timer that expires every 10 ms, and a clock that must not go backwards.

use hearth_test_guest::work::Kind;

use super::Going;
use crate::commands::failed;
use crate::commands::machine::nanoseconds;
use crate::commands::timers::Periodic;

/// Starts the thread. It counts wake-ups; one wake-up can stand for many expirations.
pub(super) fn start(going: &mut Going) -> Result<(), String> {
    let mut timer = Periodic::start().map_err(failed("starting a timer"))?;
    going.spawn(Kind::Timer, move |board| {
        let mut last = nanoseconds(libc::CLOCK_MONOTONIC);
        while !board.is_stopping() {
            let expirations = timer.wait().map_err(failed("waiting for the timer"))?;
            let now = nanoseconds(libc::CLOCK_MONOTONIC);
            if expirations == 0 || now < last {
                return Err(format!("{expirations} expirations while the clock went from {last} to {now}"));
            }
            last = now;
            board.done(Kind::Timer);
        }
        Ok(())
    })
}
