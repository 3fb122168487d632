//! Capabilities (capabilities(7)).

use std::io;

use crate::system::{check, check_long};

/// The capabilities of a container by default, the same as with Docker: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub const DEFAULT: u64 = 0x0000_0000_a804_25fb;

/// All capabilities. The kernel drops the bits that it does not know.
pub const ALL: u64 = u64::MAX;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves (linux/capability.h).
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Limits this thread, and the programs that it executes, to these capabilities; inheritable and ambient ones are cleared. The
/// thread must have CAP_SETPCAP.
///
/// # Errors
/// The kernel refused a change.
pub fn limit_to(capabilities: u64) -> io::Result<()> {
    for number in 0..64_u32 {
        let known = {
            // SAFETY: takes no pointer.
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number)) }
        };
        if known < 0 {
            break; // the kernel knows no more
        }
        if capabilities & (1 << number) == 0 {
            // SAFETY: takes no pointer.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) })?;
        }
    }
    let none: libc::c_ulong = 0;
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, none, none, none) })?;
    let (low, high) = (capabilities & u64::from(u32::MAX), capabilities >> 32);
    let half = |bits: u64| {
        let bits = u32::try_from(bits).unwrap_or_default();
        Half { effective: bits, permitted: bits, inheritable: 0 }
    };
    let header = Header { version: VERSION, pid: 0 };
    let halves = [half(low), half(high)];
    let (header, halves) = (&raw const header, &raw const halves);
    // SAFETY: the pointers are to a header and to the two halves that its version asks for; they live until the call returns.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header, halves) }).map(drop)
}
