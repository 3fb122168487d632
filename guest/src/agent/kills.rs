//! Processes that the kernel kills because the microVM has no memory left: the app's log has a line for each.
//!
//! A killed process often says nothing itself, and its exit status of 137 is that of any SIGKILL. The kernel's log says which it was.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use hearth_agent_protocol::kernel_log;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::logs::Ring;

/// The kernel's log: one record for each `read`.
const LOG: &str = "/dev/kmsg";
/// Longest record in bytes (`CONSOLE_EXT_LOG_MAX`, kernel/printk/internal.h).
const RECORD: usize = 8 << 10;

/// Follows the kernel's log from now on, and adds the lines. Returns only with an error.
pub(super) async fn follow(ring: Arc<Ring>) -> io::Result<Infallible> {
    let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(LOG)?;
    log.seek(SeekFrom::End(0))?;
    // SAFETY: a file is open, and the same one, as long as it lives.
    let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }?;
    loop {
        let mut ready = log.readable().await?;
        // Allocated only while there is something to read: an idle guest's memory is in every snapshot.
        let mut buffer = vec![0; RECORD];
        loop {
            match ready.try_io(|log| log.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => {
                    if let Some(name) = kernel_log::killed(&buffer[..length]) {
                        let line = format!("hearth: {name} was killed: the microVM has no memory left");
                        ring.add_killed(line, name).await;
                    }
                }
                // EPIPE: records were overwritten before they were read; the next read goes on after them.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => break,
            }
        }
    }
}
