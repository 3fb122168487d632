//! Wrappers for system calls that several walls use.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Turns the `-1` of a libc call into the error behind it.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Turns the `-1` of a raw system call into the error behind it.
pub(super) fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls `prctl` with arguments that are all plain numbers.
pub(super) fn prctl(
    option: libc::c_int,
    arg2: libc::c_ulong,
    arg3: libc::c_ulong,
) -> io::Result<libc::c_int> {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers, no pointers.
    check(unsafe { libc::prctl(option, arg2, arg3, UNUSED, UNUSED) })
}

/// Converts `path` into a C string for a system call.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// `mount(2)` without a file system type or data.
pub(super) fn mount(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the strings outlive the call; a null source, type and data are allowed for these operations.
    check(unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })?;
    Ok(())
}

/// `unshare(2)`.
pub(super) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; the caller is the process's only thread.
    check(unsafe { libc::unshare(namespaces) })?;
    Ok(())
}
