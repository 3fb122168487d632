//! A host of the test's own in a network namespace, an internet beside it, and guests made of frames.

mod guest;
mod outside;
mod world;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::Command;

pub(crate) use guest::{Answer, Guest};
pub(crate) use outside::Capture;
pub(crate) use world::World;

/// How long something that must happen may take, in milliseconds. Nothing that must not happen is waited for.
const PATIENCE: i32 = 20_000;

/// Runs a line of words that must succeed and returns what it printed.
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
