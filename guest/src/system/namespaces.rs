//! Namespaces as descriptors, and programs that are started in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::thread;

use libc::c_int;

use super::check;

/// Opens a namespace of a process: `mnt`, `uts`, `ipc`, `pid`, `net`.
///
/// # Errors
/// What the kernel said.
pub fn open(pid: libc::pid_t, kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?.into())
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// What the kernel said.
pub fn network_of_this_thread() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Has the calling thread enter a namespace of this kind (`CLONE_NEW…`); with `CLONE_NEWPID`, its future children.
///
/// # Errors
/// What the kernel said.
pub fn enter(namespace: impl AsFd, kind: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kind) }).map(drop)
}

/// Gives the calling thread namespaces of its own of these kinds (`CLONE_NEW…`).
///
/// # Errors
/// What the kernel said.
pub fn leave(kinds: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Does something on a thread of its own, which may change namespaces, and waits for it.
///
/// # Errors
/// What `work` says, or that no thread could be made.
pub fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work)?;
        worker.join().map_err(|_| io::Error::other("the thread died"))?
    })
}
