//! Ending monitors whose controller was killed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use hearth_vmm::client::{CONTROL_SOCKET, Client, ClientError};

/// How long a monitor has to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends the monitor whose run directory is `folder`, if one runs there, and waits until it has.
///
/// # Errors
/// What the system answers when it can neither be asked nor killed.
pub fn end(folder: &Path) -> io::Result<()> {
    let socket = folder.join(CONTROL_SOCKET);
    let client = match Client::connect(&socket) {
        Ok(client) => client,
        // Nobody listens: it has ended.
        Err(ClientError::Unreachable { .. }) => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Ok(status) = client.status() else { return Ok(()) };
    // The process cannot have ended and its number gone to another since: it has just answered, and is waited for here.
    let Some(process) = open_process(status.pid)? else { return Ok(()) };
    if client.status().is_err() {
        return Ok(());
    }
    let _ = client.shutdown(); // it may end meanwhile
    if !wait(&process, PATIENCE)? {
        kill(&process)?;
        wait(&process, PATIENCE)?;
    }
    let _ = fs::remove_file(&socket); // its folder is removed in any case
    Ok(())
}

/// A descriptor of a process; none if there is no such process.
fn open_process(pid: u32) -> io::Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open takes a process id and flags and touches no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the descriptor is new and nobody else's.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            error => Err(error),
        },
    }
}

/// Waits until a process has ended; whether it has.
fn wait(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `poll` is one valid entry for the length of the call.
    match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
        -1 => Err(io::Error::last_os_error()),
        count => Ok(count > 0),
    }
}

fn kill(process: &OwnedFd) -> io::Result<()> {
    let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: the descriptor is a process's, and no information goes with the signal.
    match unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, info, flags)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_monitor_has_no_orphan() {
        let folder = tempfile::tempdir().unwrap();
        end(folder.path()).unwrap();
    }

    #[test]
    fn a_process_is_killed_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = open_process(child.id()).unwrap().unwrap();
        assert!(!wait(&process, Duration::ZERO).unwrap());
        kill(&process).unwrap();
        assert!(wait(&process, Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }
}
