//! The Landlock wall: a domain that handles every right that this kernel knows, and grants none of them.
//!
//! It complements the root wall and the system call filters, and covers what those do not see: if an io_uring request
//! opens a path or makes a TCP connection, that is not a system call, but Landlock checks it.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::privileges::no_new_privileges;
use super::sys::check_long;

/// `LANDLOCK_CREATE_RULESET_VERSION` (linux/landlock.h).
const CREATE_RULESET_VERSION: libc::c_uint = 1;

/// `struct landlock_ruleset_attr`; older kernels take a prefix of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Returns every right that ABI version `abi` knows, and how many bytes of the attributes that version reads.
/// (linux/landlock.h; Documentation/userspace-api/landlock.rst, "Compatibility")
fn everything(abi: libc::c_long) -> (Attributes, usize) {
    let file_rights: u32 = match abi {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        5.. => 16,
    };
    let handled_access_net = if abi >= 4 { 0b11 } else { 0 };
    let scoped = if abi >= 6 { 0b11 } else { 0 };
    let size = match abi {
        ..=3 => 8,
        4 | 5 => 16,
        6.. => 24,
    };
    (Attributes { handled_access_fs: (1 << file_rights) - 1, handled_access_net, scoped }, size)
}

/// Enters the domain. Returns the ABI version, or `None` when this kernel has no Landlock.
pub(super) fn enter() -> io::Result<Option<libc::c_long>> {
    let nothing = std::ptr::null::<Attributes>();
    let version = || {
        // SAFETY: querying the version takes a null pointer and a size of 0.
        check_long(unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION)
        })
    };
    let abi = match version() {
        Ok(abi) => abi,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let (attributes, size) = everything(abi);
    // SAFETY: `attributes` is at least `size` bytes long and outlives the call.
    let ruleset = check_long(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, 0)
    })?;
    let ruleset = libc::c_int::try_from(ruleset).map_err(io::Error::other)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    no_new_privileges()?;
    // SAFETY: no pointers.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(Some(abi))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_version_is_asked_for_a_right_that_it_does_not_know() {
        let asked = |abi| {
            let (attributes, size) = everything(abi);
            (attributes.handled_access_fs, attributes.handled_access_net, attributes.scoped, size)
        };
        assert_eq!(asked(1), (0x1fff, 0, 0, 8));
        assert_eq!(asked(2), (0x3fff, 0, 0, 8));
        assert_eq!(asked(3), (0x7fff, 0, 0, 8));
        assert_eq!(asked(4), (0x7fff, 3, 0, 16));
        assert_eq!(asked(5), (0xffff, 3, 0, 16));
        assert_eq!(asked(6), (0xffff, 3, 3, 24));
        assert_eq!(asked(9), asked(6));
    }
}
