//! Reaps children and orphans, and reports the exit of a child to the task that waits for it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::guest::v1::Exited;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// The processes that are reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every child: this is PID 1, which becomes the parent of orphans.
    All,
    /// Only the children that are waited for: this process has other children.
    Own,
}

/// Waits for children.
///
/// A child must be [watched](Self::watch) before the thread that runs the reaper's task goes on, otherwise its exit may be reaped
/// first and lost. The agent has one such thread, and awaits nothing between starting a child and watching it.
#[derive(Debug, Clone)]
pub struct Reaper {
    scope: Scope,
    waiting: Arc<Mutex<HashMap<libc::pid_t, oneshot::Sender<Exited>>>>,
}

impl Reaper {
    /// Starts to reap, on a task of the current runtime.
    ///
    /// # Errors
    /// The signal of terminating children cannot be received.
    pub fn start(scope: Scope) -> io::Result<Self> {
        let reaper = Self { scope, waiting: Arc::default() };
        let mut ended = signal(SignalKind::child())?;
        let task = reaper.clone();
        tokio::spawn(async move {
            loop {
                task.reap();
                if ended.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Watches a child. The receiver gets its exit.
    pub fn watch(&self, pid: libc::pid_t) -> oneshot::Receiver<Exited> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(pid, sender);
        receiver
    }

    fn reap(&self) {
        match self.scope {
            Scope::All => while self.reap_one(-1) {},
            Scope::Own => {
                let own: Vec<_> = self.lock().keys().copied().collect();
                for pid in own {
                    self.reap_one(pid);
                }
            }
        }
    }

    fn reap_one(&self, which: libc::pid_t) -> bool {
        let mut status = 0;
        // SAFETY: the pointer is to a number that lives until the call returns.
        let pid = unsafe { libc::waitpid(which, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return false;
        }
        if let Some(waiting) = self.lock().remove(&pid) {
            // The receiver may have been dropped.
            let _ = waiting.send(exited(status));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<libc::pid_t, oneshot::Sender<Exited>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decodes a status of `waitpid`.
fn exited(status: libc::c_int) -> Exited {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status).unsigned_abs();
        Exited { code: 128 + signal, signal }
    } else {
        Exited { code: libc::WEXITSTATUS(status).unsigned_abs(), signal: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn how_children_end_is_told() {
        let reaper = Reaper::start(Scope::Own).unwrap();
        for (script, code, signal) in [("exit 7", 7, 0), ("kill -9 $$", 137, 9), ("exit 0", 0, 0)] {
            #[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let ended = reaper.watch(libc::pid_t::try_from(child.id()).unwrap()).await.unwrap();
            assert_eq!(ended, Exited { code, signal }, "{script}");
        }
    }
}
