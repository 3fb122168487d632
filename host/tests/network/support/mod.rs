//! A separate host for each test in a network namespace, an internet beside it, and guests that consist of frames.

mod guest;
mod outside;
mod world;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::Command;

pub(crate) use guest::{Answer, Guest};
pub(crate) use outside::Capture;
pub(crate) use world::World;

/// Timeout in milliseconds for events that must happen. Tests never wait for events that must not happen.
const PATIENCE: i32 = 20_000;

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
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry is given, and it lives across the call.
    let ready = unsafe { libc::poll(&raw mut entry, 1, PATIENCE) };
    assert!(ready >= 0, "{}", io::Error::last_os_error());
    assert_eq!(ready, 1, "no {what} came");
}
