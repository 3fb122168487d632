//! Mounts and unmounts.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use super::{c_string, check};

/// Mounts a file system of this kind; `options` are specific to it (`mode=755`).
///
/// # Errors
/// A system call failed.
pub fn mount(
    source: &str,
    target: impl AsRef<Path>,
    kind: &str,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    raw(Some(&c_string(source)?), target.as_ref(), Some(&c_string(kind)?), flags, Some(&c_string(options)?))
}

/// Makes `source` visible at `target`, too (a bind mount).
///
/// # Errors
/// A system call failed.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
    raw(Some(&c_string(source.as_ref())?), target.as_ref(), None, libc::MS_BIND, None)
}

/// Makes the bind mount at `target` read-only, and keeps it without devices and set-user-ID programs.
///
/// # Errors
/// A system call failed.
pub fn make_read_only(target: impl AsRef<Path>) -> io::Result<()> {
    let flags = libc::MS_BIND
        | libc::MS_REMOUNT
        | libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC;
    raw(None, target.as_ref(), None, flags, None)
}

/// Makes the file system at `target` itself read-only, so that all of it has reached its device.
///
/// # Errors
/// A system call failed: with `EBUSY`, a file on the file system is open for writing.
pub fn remount_read_only(target: impl AsRef<Path>) -> io::Result<()> {
    raw(None, target.as_ref(), None, libc::MS_REMOUNT | libc::MS_RDONLY, None)
}

/// Moves a mount.
///
/// # Errors
/// A system call failed.
pub fn move_mount(source: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
    raw(Some(&c_string(source.as_ref())?), target.as_ref(), None, libc::MS_MOVE, None)
}

/// Separates this mount namespace from others: later mounts here are not seen there, nor the other way round.
///
/// # Errors
/// A system call failed.
pub fn make_private() -> io::Result<()> {
    raw(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None)
}

/// Unmounts; `flags` are `umount2`'s.
///
/// # Errors
/// A system call failed.
pub fn unmount(target: impl AsRef<Path>, flags: libc::c_int) -> io::Result<()> {
    let target = c_string(target.as_ref())?;
    // SAFETY: the pointer is to a string that lives until the call returns.
    check(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// Makes `root`, which must be a mount point, the root of this mount namespace, and unmounts the previous root.
///
/// # Errors
/// A system call failed.
pub fn pivot_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // The old root is stacked on top of the new one, from where it is unmounted: no folder for it is needed
    // (pivot_root(2), "pivot_root(".", ".")").
    // SAFETY: both pointers are to constant strings.
    super::check_long(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    unmount(".", libc::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// The mount points in a file like `/proc/self/mounts`, in the order of mounting.
#[must_use]
pub fn points(mounts: &str) -> Vec<PathBuf> {
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(|path| unescape(path).into()).collect()
}

/// Decodes the octal numbers that stand for spaces and the like (proc_pid_mounts(5), getmntent(3)).
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_string(), |path, (code, character)| path.replace(code, character))
}

fn raw(
    source: Option<&CString>,
    target: &Path,
    kind: Option<&CString>,
    flags: libc::c_ulong,
    options: Option<&CString>,
) -> io::Result<()> {
    let target = c_string(target)?;
    let pointer = |text: Option<&CString>| text.map_or(std::ptr::null(), |text| text.as_ptr());
    let (source, kind, options) = (pointer(source), pointer(kind), pointer(options));
    // SAFETY: each pointer is null or to a string that lives until the call returns.
    check(unsafe { libc::mount(source, target.as_ptr(), kind, flags, options.cast()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /a\\040b\\134c tmpfs rw 0 0\n";
        assert_eq!(points(mounts), [PathBuf::from("/"), PathBuf::from("/a b\\c")]);
    }
}
