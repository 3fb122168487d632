//! The root wall: a separate mount namespace that contains one empty, read-only folder and nothing else.

use std::ffi::CStr;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::sys::{c_path, check, check_long, mount, unshare};

/// How the old root was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootMethod {
    /// By `pivot_root`, after which the old root was unmounted: it can no longer be reached.
    Pivoted,
    /// The folder was mounted over the old root. This is for a kernel whose root is still its initramfs, which cannot
    /// be pivoted away from. The old root is out of reach, but remains mounted below.
    MovedOver,
}

/// Describes why a folder cannot become a root; `None` if it can.
pub(super) fn folder_problem(path: &Path) -> Option<String> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(error.to_string()),
    };
    if !path.is_absolute() {
        return Some("it is not an absolute path".into());
    }
    if !metadata.is_dir() {
        return Some("it is not a folder".into());
    }
    if metadata.uid() != 0 || metadata.gid() != 0 || metadata.mode() & 0o022 != 0 {
        let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
        return Some(format!(
            "it belongs to {uid}:{gid} with mode {mode:o}, not to root alone with mode 755"
        ));
    }
    match std::fs::read_dir(path).map(|mut entries| entries.next()) {
        Ok(None) => None,
        Ok(Some(Ok(entry))) => Some(format!("it is not empty: {} is in it", entry.file_name().display())),
        Ok(Some(Err(error))) | Err(error) => Some(error.to_string()),
    }
}

/// Replaces the host's file system tree by the folder at `path`. An error contains the step that failed.
pub(super) fn enter(path: &Path) -> Result<RootMethod, (&'static str, io::Error)> {
    let step = |action| move |error| (action, error);
    let folder = c_path(path).map_err(step("name the root folder"))?;
    let read_only = libc::MS_BIND
        | libc::MS_REMOUNT
        | libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC;
    unshare(libc::CLONE_NEWNS).map_err(step("make a mount namespace"))?;
    mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE).map_err(step("make the mounts private"))?;
    mount(Some(&folder), &folder, libc::MS_BIND).map_err(step("mount the root folder on itself"))?;
    mount(None, &folder, read_only).map_err(step("make the root folder read-only"))?;
    change_folder(&folder).map_err(step("change into the root folder"))?;
    let method = match pivot() {
        Ok(()) => RootMethod::Pivoted,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            move_over().map_err(step("mount the root folder over the initramfs"))?;
            RootMethod::MovedOver
        }
        Err(error) => return Err(("pivot the root", error)),
    };
    change_folder(c"/").map_err(step("change into the new root"))?;
    Ok(method)
}

fn change_folder(path: &CStr) -> io::Result<()> {
    // SAFETY: the string outlives the call.
    check(unsafe { libc::chdir(path.as_ptr()) })?;
    Ok(())
}

/// Swaps the roots in place (`pivot_root(2)`, "pivot_root(".", ".")"): the old root ends up mounted over the
/// new one, and is unmounted from there.
fn pivot() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: both strings are static.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: the string is static.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    Ok(())
}

fn move_over() -> io::Result<()> {
    mount(Some(c"."), c"/", libc::MS_MOVE)?;
    // SAFETY: the string is static.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_a_root_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, reason) in [
            (folder.path().join("missing"), "No such file"),
            (file, "not a folder"),
            ("src".into(), "not an absolute path"),
        ] {
            let problem = folder_problem(&path).unwrap();
            assert!(problem.contains(reason), "{path:?}: {problem}");
        }
    }
}
