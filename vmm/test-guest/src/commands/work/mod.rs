//! Work in the background, for ever: whatever is going on in a guest when it is paused, saved, restored or
//! moved in time must go on afterwards as if nothing had happened. Each kind checks all that it does and counts
//! it on a [`Board`]; a thread that finds something wrong says so there and ends.
//!
//! * [`block`] – random requests to a disk, two at a time
//! * [`tcp`] – messages there and back over one connection through the loopback
//! * [`timer`] – a timer that expires every 10 ms
//! * [`pty`] – lines there and back through a pseudo-terminal
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

/// Stack of the threads.
const STACK: usize = 128 * 1024;
/// How long a thread rests after a piece of work that nothing else holds up, so that others get to run.
const REST: Duration = Duration::from_millis(1);
/// When [`Work::check`] gives up. The host has more patience, so that it hears why.
const PATIENCE: Duration = Duration::from_secs(240);

/// The work that is going on.
#[derive(Debug, Default)]
pub(super) struct Work(Mutex<Going>);

#[derive(Debug, Default)]
struct Going {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    /// All but [`files`] have been started.
    started: bool,
    /// [`files`] have been started.
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
    /// `DEVICE →`: starts everything but [`files`]. The first MiBs of the disk are overwritten.
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

    /// `→ STATUS` (see [`hearth_test_guest::work::Status`]): how far the work has come, errors or not.
    pub(super) fn status(&self) -> Result<String, String> {
        Ok(self.lock().board.status().to_string())
    }

    /// `→ STATUS`: waits until all that goes on has come further since the call; an error, old or new, is an
    /// error, and so is standstill.
    pub(super) fn check(&self) -> Result<String, String> {
        let going = self.lock();
        if going.threads.is_empty() {
            return Err("no work was started".to_string());
        }
        let board = Arc::clone(&going.board);
        drop(going);
        board.wait_for_progress(PATIENCE).map(|status| status.to_string())
    }

    /// `→ STATUS`: ends it all and unmounts the file system; afterwards it can be started anew.
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

/// Rests after a piece of work.
fn rest() {
    thread::sleep(REST);
}
