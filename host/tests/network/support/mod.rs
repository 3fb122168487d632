//! A separate host for each test in a network namespace, an internet beside it, and guests that consist of frames.

mod guest;
mod outside;
mod world;

use std::os::fd::BorrowedFd;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use guest::{Answer, Guest};
pub(crate) use outside::Capture;
pub(crate) use world::World;

/// Timeout for events that must happen. Tests never wait for events that must not happen.
const EVENT_TIMEOUT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Runs a command line, which must succeed, and returns its stdout.
pub(crate) fn run(line: &str) -> String {
    let words = line.split_whitespace().collect::<Vec<_>>();
    let output =
        Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something can be read.
fn wait_for(file: BorrowedFd<'_>, what: &str) {
    let ready = poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&EVENT_TIMEOUT)).unwrap();
    assert_eq!(ready, 1, "no {what} came");
}
