//! Namespaces as descriptors, and threads that work in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::thread;

use libc::c_int;

use super::check;

/// Opens a namespace of a process: `mnt`, `uts`, `ipc`, `pid`, `net`.
///
/// # Errors
/// A system call failed.
pub fn open(pid: libc::pid_t, kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?.into())
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// A system call failed.
pub fn network_of_this_thread() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Moves the calling thread into a namespace of this kind (`CLONE_NEW…`); with `CLONE_NEWPID`, its future children.
///
/// # Errors
/// A system call failed.
pub fn enter(namespace: impl AsFd, kind: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kind) }).map(drop)
}

/// Gives the calling thread new namespaces of these kinds (`CLONE_NEW…`).
///
/// # Errors
/// A system call failed.
pub fn leave(kinds: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Runs `work` on a new thread, which may change its namespaces, and waits for it.
///
/// # Errors
/// The error of `work`, or no thread could be made.
pub fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work)?;
        worker.join().map_err(|_| io::Error::other("the thread died"))?
    })
}
