//! System calls for sparse files that the standard library does not offer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Offset of the next data or hole (`whence` is `SEEK_DATA` or `SEEK_HOLE`) at or after `offset`; `None` when there is
/// none.
///
/// # Errors
/// The error that `lseek` returns.
pub(crate) fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: no pointers; the descriptor is the file's own.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
}

/// Copies up to `length` bytes at offset `at` to the same offset in another file; shares the blocks instead of copying
/// them where the file system supports that. Returns the number of bytes copied.
///
/// # Errors
/// The error that `copy_file_range` returns; [`is_unsupported`] recognises those that mean that the host cannot copy
/// between these files at all.
pub(crate) fn copy_range(from: &File, into: &File, at: u64, length: u64) -> io::Result<u64> {
    let offset = libc::off64_t::try_from(at).map_err(io::Error::other)?;
    let (mut read_at, mut write_at) = (offset, offset);
    let length = usize::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the offsets live through the call; the descriptors are the files' own.
    let copied = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut read_at, into.as_raw_fd(), &mut write_at, length, 0)
    };
    u64::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// Whether an error means that the file system or the kernel does not support the operation on these files.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [libc::EOPNOTSUPP, libc::EXDEV, libc::EINVAL, libc::ENOSYS, libc::ENOTTY];
    error.raw_os_error().is_some_and(|error| unsupported.contains(&error))
}
