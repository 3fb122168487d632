//! The privileges wall: a separate user without capabilities, and no way to regain any privilege.

use std::io;

use super::sys::{check, check_long, prctl};

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h): 64-bit sets in two halves.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Highest capability number for which the sets have room.
const MAX_CAPABILITY: libc::c_ulong = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// One 32-bit half of the three sets, as `capget` and `capset` exchange them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

type Sets = [Half; 2];

fn capabilities() -> io::Result<Sets> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = Sets::default();
    // SAFETY: both structures are laid out as capget(2) requires for version 3 and outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn set_capabilities(sets: &Sets) -> io::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: both structures are laid out as capset(2) requires for version 3 and outlive the call.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    Ok(())
}

/// Runs `action` without effective capabilities, so that descriptors that it opens carry none.
pub(super) fn without_capabilities<T>(action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = capabilities()?;
    set_capabilities(&before.map(|half| Half { effective: 0, ..half }))?;
    let result = action();
    set_capabilities(&before)?;
    result
}

/// Ensures that no program executed from here on gains a privilege. This cannot be undone.
pub(super) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    Ok(())
}

/// Switches to `uid` and `gid` permanently. An error contains the step that failed.
pub(super) fn drop_to(uid: u32, gid: u32) -> Result<(), (&'static str, io::Error)> {
    let step = |action| move |error| (action, error);
    for capability in 0..=MAX_CAPABILITY {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            // The last capability that this kernel knows was reached.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(("empty the capability bounding set", error)),
        }
    }
    let clear_all = libc::c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    prctl(libc::PR_CAP_AMBIENT, clear_all, 0).map_err(step("clear the ambient capabilities"))?;
    // SAFETY: an empty list is not read from.
    check(unsafe { libc::setgroups(0, std::ptr::null()) }).map_err(step("drop the supplementary groups"))?;
    // SAFETY: no pointers; the caller is the process's only thread.
    check(unsafe { libc::setresgid(gid, gid, gid) }).map_err(step("change the group"))?;
    // SAFETY: no pointers; the caller is the process's only thread.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map_err(step("change the user"))?;
    set_capabilities(&Sets::default()).map_err(step("clear the capability sets"))?;
    no_new_privileges().map_err(step("forbid new privileges"))?;
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(step("forbid tracing and core dumps"))?;
    Ok(())
}

/// Describes the part of [`drop_to`] that did not take effect; `None` if all of it did.
pub(super) fn left_over(uid: u32, gid: u32) -> io::Result<Option<&'static str>> {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: three valid places for three numbers.
    check(unsafe { libc::getresuid(real, effective, saved) })?;
    let [real, effective, saved] = &mut gids;
    // SAFETY: three valid places for three numbers.
    check(unsafe { libc::getresgid(real, effective, saved) })?;
    // SAFETY: with a size of 0 the list is not written to.
    let groups = check(unsafe { libc::getgroups(0, std::ptr::null_mut()) })?;
    // SAFETY: no pointers. The call must fail; if it succeeds the caller gives up.
    let regained = unsafe { libc::setresuid(0, 0, 0) } == 0;
    let found = [
        (uids != [uid; 3], "the user did not change"),
        (gids != [gid; 3], "the group did not change"),
        (groups != 0, "supplementary groups are left"),
        (regained, "root could be regained"),
        (capabilities()? != Sets::default(), "capabilities are left"),
        (prctl(libc::PR_CAPBSET_READ, 0, 0)? != 0, "the capability bounding set is not empty"),
        (prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0)? != 1, "new privileges are not forbidden"),
        (prctl(libc::PR_GET_DUMPABLE, 0, 0)? != 0, "the process can be traced"),
    ];
    Ok(found.into_iter().find_map(|(wrong, what)| wrong.then_some(what)))
}
