//! The descriptors wall: of the inherited descriptors, the monitor keeps stdout, stderr and the control socket.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use super::CONTROL_FD;
use super::sys::check;

/// Takes ownership of the control socket that was inherited as descriptor `fd`.
pub(super) fn adopt_control(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::other("0, 1 and 2 are stdin, stdout and stderr"));
    }
    // SAFETY: no pointers; the call fails if the number is not open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and the launcher passed its ownership to this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes all but stdout, stderr and the control socket, points stdin at `/dev/null`, and gives the control
/// socket the number [`CONTROL_FD`].
pub(super) fn keep_only(control: OwnedFd) -> io::Result<OwnedFd> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    replace(&null, libc::STDIN_FILENO)?;
    for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: no pointers; the call fails if the number is not open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            replace(&null, fd)?;
        }
    }
    if null.as_raw_fd() <= libc::STDERR_FILENO {
        // A standard stream was closed, so `/dev/null` was opened under its number: keep it open.
        let _ = null.into_raw_fd();
    } else {
        drop(null);
    }
    let kept = control.as_raw_fd();
    close_range(CONTROL_FD, kept - 1)?;
    close_range(kept + 1, RawFd::MAX)?;
    if kept == CONTROL_FD {
        return Ok(control);
    }
    // SAFETY: no pointers; nothing owns CONTROL_FD, since it was just closed.
    let moved = check(unsafe { libc::dup3(kept, CONTROL_FD, libc::O_CLOEXEC) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

fn replace(null: &std::fs::File, fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; a standard stream is replaced by one of the same number.
    check(unsafe { libc::dup2(null.as_raw_fd(), fd) })?;
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no pointers. Nothing owns the descriptors: the process has not yet run any code that opened a descriptor
    // and keeps it.
    check(unsafe { libc::close_range(first.unsigned_abs(), last.unsigned_abs(), 0) })?;
    Ok(())
}
