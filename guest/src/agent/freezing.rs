//! The app stands still: before a snapshot, until whoever is restored from it knows who it is.
//!
//! ```text
//!   Freeze ─► groups frozen ─► output read ─► (forgotten) ─► answered        from here on no line is written
//!   Identify ─► clock, chance, host name, network, metadata, credentials ─► groups thawed ─► answered
//!   Thaw ─► groups thawed ─► answered                                         a snapshot that was not taken
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

/// How long processes have to stand still. Only those that sleep in the kernel, uninterruptibly, take longer than it takes to
/// interrupt them. They do not reach their program any more either, so they are not worth more of a suspend's time.
const STAND_STILL: Duration = Duration::from_secs(2);
/// How long what the app has written may wait for room in the log. Then it stays in the pipes, which are in the snapshot.
const OUTPUT: Duration = Duration::from_secs(1);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(1);

impl Agent {
    /// Has the app, and all that runs beside it, stand still.
    pub(super) async fn freeze(&self, request: Freeze) -> Result<(), Refusal> {
        // An app that is being started would be waited for, and nobody could be identified meanwhile.
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

    /// Has it go on.
    pub(super) fn thaw(&self) -> Result<(), Refusal> {
        let container = self.state().container.clone();
        container.map_or(Ok(()), |container| container.thaw())
    }
}

impl Container {
    /// Whether the app is to stand still.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Refuses what would wait for a frozen app; `what` is that.
    pub(super) fn must_not_be_frozen(&self, what: &str) -> Result<(), Refusal> {
        if self.is_frozen() {
            let message = format!("{what} while the app is frozen: send Identify after a restore, else Thaw");
            return Err(Refusal::invalid(message));
        }
        Ok(())
    }

    /// Has the app go on. A launch pays for this, so it is nothing where nothing is frozen.
    pub(super) fn thaw(&self) -> Result<(), Refusal> {
        if self.is_frozen() {
            self.groups.thaw().or_refuse(|| "thawing the app")?;
            self.frozen.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl App {
    /// Whether there is output that is in no record yet.
    fn has_unread_output(&self) -> bool {
        self.outputs.iter().any(|output| unread(output).is_ok_and(|bytes| bytes > 0))
    }
}

/// Bytes in a pipe.
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
