//! Background work that runs until it is stopped. Whatever a guest is doing when it is paused, saved, restored or moved
//! in time must continue afterwards as if nothing had happened. Each kind of work checks all that it does and counts it
//! on a [`Board`]; a thread that detects an error records it there and stops.
//!
//! * [`block`] – random requests to a disk, by two threads
//! * [`tcp`] – messages and answers over one connection through the loopback
//! * [`timer`] – a timer that expires every 10 ms
//! * [`pty`] – lines and answers through a pseudo-terminal
//! * [`files`] – files on an ext4 file system

mod block;
mod files;
mod pty;
mod tcp;
mod timer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hearth_test_guest::work::{Board, Kind};

use super::failed;

/// Stack size of the threads in bytes.
const STACK: usize = 128 * 1024;
/// How long a thread sleeps after a piece of work that does not wait for anything, so that other threads can run.
const REST: Duration = Duration::from_millis(1);
/// Timeout of [`Work::check`]. The host's timeout is longer, so that it receives the reason.
const CHECK_TIMEOUT: Duration = Duration::from_secs(240);

/// The work that is in progress.
#[derive(Debug, Default)]
pub(super) struct Work(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    /// Whether all kinds but [`files`] have been started.
    started: bool,
    /// Whether [`files`] have been started.
    mounted: bool,
}

impl Going {
    fn spawn(
        &mut self,
        kind: Kind,
        run: impl FnOnce(&Board) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let board = Arc::clone(&self.board);
        board.begin(kind);
        let run = move || {
            if let Err(reason) = run(&board) {
                board.fail(kind, &reason);
            }
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn(run);
        self.threads.push(thread.map_err(failed("starting a thread"))?);
        Ok(())
    }
}

impl Work {
    /// `DEVICE →`: starts all kinds but [`files`]. The first MiBs of the disk are overwritten.
    pub(super) fn start(&self, device: &str) -> Result<String, String> {
        let mut going = self.lock();
        if std::mem::replace(&mut going.started, true) {
            return Err("the work was started already".to_string());
        }
        block::start(&mut going, device)?;
        tcp::start(&mut going)?;
        timer::start(&mut going)?;
        pty::start(&mut going)?;
        Ok(String::new())
    }

    /// `DEVICE →`: mounts the disk's ext4 file system on `/mnt` and starts [`files`] in it.
    pub(super) fn mount(&self, device: &str) -> Result<String, String> {
        let mut going = self.lock();
        if going.mounted {
            return Err("a file system is mounted already".to_string());
        }
        files::mount(device)?;
        going.mounted = true;
        files::start(&mut going)?;
        Ok(String::new())
    }

    /// `→ STATUS` (see [`hearth_test_guest::work::Status`]): returns the progress, with or without errors.
    pub(super) fn status(&self) -> Result<String, String> {
        Ok(self.lock().board.status().to_string())
    }

    /// `→ STATUS`: waits until all active kinds have made progress since the call. Fails if there is an error, old or
    /// new, or no progress.
    pub(super) fn check(&self) -> Result<String, String> {
        let going = self.lock();
        if going.threads.is_empty() {
            return Err("no work was started".to_string());
        }
        let board = Arc::clone(&going.board);
        drop(going);
        board.wait_for_progress(CHECK_TIMEOUT).map(|status| status.to_string())
    }

    /// `→ STATUS`: stops all work and unmounts the file system; the work can be started again afterwards.
    pub(super) fn stop(&self) -> Result<String, String> {
        let mut going = self.lock();
        going.board.stop();
        for thread in going.threads.drain(..) {
            thread.join().map_err(|_| "a thread panicked")?;
        }
        if going.mounted {
            files::unmount()?;
        }
        let status = std::mem::take(&mut *going).board.status();
        Ok(status.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Going> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sleeps after a piece of work.
fn rest() {
    thread::sleep(REST);
}
