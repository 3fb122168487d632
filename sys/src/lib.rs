//! Safe forms of system calls for which neither `std` nor `rustix` has one.
//!
//! The monitor, the guest OS and the test guest make system calls of their own; all other crates forbid `unsafe` code and call
//! this one.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Has the kernel kill the command's process (`SIGKILL`) when the thread that starts it ends, and so at the latest with this
/// process (`PR_SET_PDEATHSIG`, prctl(2)).
pub fn die_with_starter(command: &mut Command) {
    // SAFETY: between fork and exec only prctl runs, which is async-signal-safe and takes plain numbers.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Gives the command's process the descriptor, under the number that is returned. This process's copy is closed when the command
/// is dropped.
pub fn pass(command: &mut Command, descriptor: OwnedFd) -> RawFd {
    let number = descriptor.as_raw_fd();
    // SAFETY: between fork and exec only fcntl runs, which is async-signal-safe; the descriptor is open because the closure owns it.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(&descriptor, FdFlags::empty())?));
    }
    number
}

/// Puts this thread, and those that it starts from now on, into a new network namespace.
///
/// # Errors
/// The system call failed: for lack of the right to it (`EPERM`), or of memory.
pub fn new_network_namespace() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Puts this thread, and those that it starts from now on, into a new mount namespace, whose mounts propagate as before.
///
/// # Errors
/// The system call failed: for lack of the right to it (`EPERM`), or of memory.
pub fn new_mount_namespace() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no caller gives a flag that separates the threads' tables of descriptors.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Waits on the runtime until the descriptor can be read. That of a process (pidfd) can when the process has exited.
///
/// # Errors
/// The descriptor cannot be waited for, as that of a regular file, or the runtime ends.
#[cfg(feature = "runtime")]
pub async fn readable(descriptor: OwnedFd) -> io::Result<()> {
    use tokio::io::{Interest, unix::AsyncFd};
    // SAFETY: the descriptor is owned by the object that it is registered for, and is not closed or replaced before that is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    watched.readable().await?.retain_ready();
    Ok(())
}

/// Waits on the runtime until the descriptor has an error, like that of a connection whose other end is gone. Bytes that come
/// do not wake the task.
///
/// # Errors
/// The descriptor cannot be waited for, as that of a regular file, or the runtime ends.
#[cfg(feature = "runtime")]
pub async fn failed(descriptor: OwnedFd) -> io::Result<()> {
    use tokio::io::{Interest, unix::AsyncFd};
    // Errors are reported with any interest. With this one, nothing is reported for bytes.
    // SAFETY: the descriptor is owned by the object that it is registered for, and is not closed or replaced before that is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::PRIORITY) }?;
    watched.ready(Interest::ERROR).await?.retain_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::thread;

    use super::*;

    #[test]
    fn a_process_dies_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            die_with_starter(command.arg("1000"));
            command.spawn().unwrap()
        };
        let mut child = thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn a_process_has_what_it_was_given() {
        let (theirs, mut ours) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        let number = pass(&mut command, theirs.into());
        command.args(["-c", &format!("cat <&{number}")]);
        ours.write_all(b"read").unwrap();
        drop(ours);
        assert_eq!(command.output().unwrap().stdout, b"read");
    }

    #[cfg(feature = "runtime")]
    #[tokio::test]
    async fn what_can_be_read_is_waited_for() {
        let (theirs, mut ours) = io::pipe().unwrap();
        let waiting = tokio::spawn(readable(theirs.try_clone().unwrap().into()));
        ours.write_all(b"!").unwrap();
        waiting.await.unwrap().unwrap();
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(readable(file.into()).await.is_err());
    }
}
