//! System calls that only PID 1 makes.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

/// How to stop the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// Power off: PSCI SYSTEM_OFF.
    PowerOff,
    /// Restart: PSCI SYSTEM_RESET.
    Restart,
}

/// Makes the C library return large blocks of memory to the kernel whenever they are freed; by default it starts to
/// keep them after a while.
pub(crate) fn return_freed_memory() {
    // SAFETY: takes no pointer, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10) };
}

/// Mounts a file system without a device. Errors are ignored: a later use of the file system fails with a better
/// message.
pub(crate) fn mount(kind: &str, folder: &str) {
    let _ = mount_device(kind, kind, folder);
}

/// Mounts `device` with a file system of this kind on `folder`, which is created if it is missing.
pub(crate) fn mount_device(device: &str, kind: &str, folder: &str) -> io::Result<()> {
    let _ = fs::create_dir_all(folder);
    let (device, kind, folder) = (CString::new(device)?, CString::new(kind)?, CString::new(folder)?);
    // SAFETY: all pointers are to strings that live until the call returns; no data is passed.
    check(unsafe { libc::mount(device.as_ptr(), folder.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) })
}

/// Unmounts the file system on `folder`; all of its data has then reached its device.
pub(crate) fn unmount(folder: &str) -> io::Result<()> {
    let folder = CString::new(folder)?;
    // SAFETY: the pointer is to a string that lives until the call returns.
    check(unsafe { libc::umount2(folder.as_ptr(), 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes a line to the console, if there is one.
pub(crate) fn console(line: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(format!("{line}\n").as_bytes());
    }
}

/// Returns the text after `word` on the kernel command line.
pub(crate) fn mode(word: &str) -> String {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().find_map(|part| part.strip_prefix(word)).unwrap_or_default().to_string()
}

/// Stops the machine after writing back dirty data; returns only when the kernel refuses.
pub(crate) fn shut_down(how: Ending) -> io::Error {
    let command = match how {
        Ending::PowerOff => libc::RB_POWER_OFF,
        Ending::Restart => libc::RB_AUTOBOOT,
    };
    // SAFETY: neither call takes a pointer.
    unsafe {
        libc::sync();
        libc::reboot(command);
    }
    io::Error::last_os_error()
}
