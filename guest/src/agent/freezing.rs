//! Freezing the app: from before a snapshot until the restored guest has its identity.
//!
//! ```text
//!   Freeze ─► groups frozen ─► output read ─► (log discarded) ─► response    from here on no line is written
//!   Identify ─► clock, entropy, host name, network, metadata, credentials, generation ─► groups thawed ─► response
//!   Thaw ─► groups thawed ─► response                                         a snapshot that was not taken
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_proto::guest::v1::Freeze;
use tokio::time::{sleep, timeout};

use super::{Agent, App, Container};
use crate::refusal::{Context as _, Refusal};
use crate::system::{check, wipe};

/// Deadline for all processes to be frozen. Only processes in uninterruptible sleep in the kernel take longer than an interruption.
/// They do not reach their program's code either, so a suspend does not wait longer for them.
const STAND_STILL: Duration = Duration::from_secs(2);
/// Deadline for the app's output to find room in the log. After it, the rest stays in the pipes, which are in the snapshot.
const OUTPUT: Duration = Duration::from_secs(1);
/// Interval between checks for unread output.
const LOOK: Duration = Duration::from_millis(1);

impl Agent {
    /// Freezes the app and every process that runs beside it.
    pub(super) async fn freeze(&self, request: Freeze) -> Result<(), Refusal> {
        // The lock is held by the start of an app. An app frozen during its start would keep it, and Identify waits for the same lock.
        let _making = self.making.lock().await;
        let container = self.container()?;
        container.frozen.store(true, Ordering::Release);
        let frozen = container.groups.freeze(STAND_STILL).await;
        if let Err(error) = frozen {
            container.thaw()?;
            return Err(Refusal::system("freezing the app", &error));
        }
        let app = self.state().app.clone();
        if let Some(app) = app {
            let read = async {
                while app.has_unread_output() {
                    sleep(LOOK).await;
                }
            };
            let _ = timeout(OUTPUT, read).await;
        }
        if request.forget {
            self.metadata.forget();
            wipe::stack_and_registers();
        }
        Ok(())
    }

    /// Thaws the app.
    pub(super) fn thaw(&self) -> Result<(), Refusal> {
        let container = self.state().container.clone();
        container.map_or(Ok(()), |container| container.thaw())
    }
}

impl Container {
    /// Whether the app has to be frozen.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Refuses an operation that would wait for a frozen app; `what` names it in the error message.
    pub(super) fn must_not_be_frozen(&self, what: &str) -> Result<(), Refusal> {
        if self.is_frozen() {
            let message = format!("{what} while the app is frozen: send Identify after a restore, else Thaw");
            return Err(Refusal::invalid(message));
        }
        Ok(())
    }

    /// Thaws the app. Every launch calls this, so it does nothing where nothing is frozen.
    pub(super) fn thaw(&self) -> Result<(), Refusal> {
        if self.is_frozen() {
            self.groups.thaw().or_refuse(|| "thawing the app")?;
            self.frozen.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl App {
    /// Whether a pipe holds output that is in no log record yet.
    fn has_unread_output(&self) -> bool {
        self.outputs.iter().any(|output| unread(output).is_ok_and(|bytes| bytes > 0))
    }
}

/// Bytes that wait in a pipe.
fn unread(pipe: impl AsFd) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is to a number that lives until the call returns.
    check(unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_pipe_holds_is_known() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(unread(&reader).unwrap(), 0);
        writer.write_all(b"line\n").unwrap();
        assert_eq!(unread(&reader).unwrap(), 5);
    }
}
