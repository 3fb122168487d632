//! Byte streams between us and the emulated metal: socket pairs whose far ends QEMU inherits as chardevs.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

/// Gives QEMU one end of a new stream as the chardev `id` and returns the other. The far end closes here when the
/// command is dropped, so a stream ends with QEMU.
pub(crate) fn open(qemu: &mut Command, id: &str) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let descriptor = theirs.as_raw_fd();
    qemu.args(["-chardev", &format!("socket,id={id},fd={descriptor}")]);
    // SAFETY: between fork and exec only fcntl runs, which is async-signal-safe; the descriptor is open because the
    // closure owns it.
    unsafe {
        qemu.pre_exec(move || match libc::fcntl(theirs.as_raw_fd(), libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    Ok(ours)
}

/// Copies a stream to one of our own outputs as it comes. When ours is closed the rest is dropped, so that the
/// command on the metal is not held up.
pub(crate) fn stream(mut from: UnixStream, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut open = true;
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            open = open && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
        }
    })
}
