//! The system calls that the standard library lacks, and helpers that are built of them.

pub mod cgroup;
pub mod devices;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod reaper;
pub mod sockets;
pub mod sysctl;
pub mod vsock;
pub mod wipe;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use libc::{c_int, c_long};

/// The result of a system call that returns −1 when it fails.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The result of `syscall`, which returns −1 when it fails.
pub(crate) fn check_long(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that a system call has just made, or the error.
pub(crate) fn descriptor(result: c_int) -> io::Result<OwnedFd> {
    let raw = check(result)?;
    // SAFETY: the call that returned it made it for its caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A path or text as a string for the kernel.
pub(crate) fn c_string(text: impl AsRef<std::ffi::OsStr>) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    Ok(CString::new(text.as_ref().as_bytes())?)
}

/// A file in memory that holds these bytes, to be read from its beginning.
///
/// # Errors
/// A system call failed.
pub fn file_in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    // SAFETY: the name is a string that lives until the call returns.
    let file = descriptor(unsafe { libc::memfd_create(c"hearth-job".as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Another descriptor for the same open file, which programs do not inherit.
pub(crate) fn duplicate(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned()
}

/// Sends a signal to a process, or to a group of processes where `pid` is negative.
///
/// # Errors
/// A system call failed.
pub fn kill(pid: libc::pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Sets the size of a terminal's window in the kernel.
///
/// # Errors
/// A system call failed.
pub fn set_window_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let descriptor = terminal.as_fd().as_raw_fd();
    // SAFETY: the pointer is to a size that lives until the call returns.
    check(unsafe { libc::ioctl(descriptor, libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// The text of a file, of which at most `limit` bytes are read.
///
/// # Errors
/// The file cannot be read. Bytes that are not UTF-8 are replaced and are no error.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
