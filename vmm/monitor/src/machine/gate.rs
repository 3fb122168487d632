//! A gate at which worker threads continue, wait or return; one controlling thread opens and closes it.
//!
//! ```text
//!            open()                close() + kick
//!   Closed ───────────► Open ────────────────────► Closed      (workers wait at the gate)
//!     └──────────────────┴───── shut() ───► Shut               (workers return)
//! ```
//!
//! A worker calls [`Gate::pass`] whenever it has been interrupted. The controller changes the state, kicks
//! every worker by a means that reaches it (a signal, an eventfd), and then waits in
//! [`Gate::wait_all_stopped`] until each of them waits at the gate.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open,
    Shut,
}

#[derive(Debug)]
struct Inner {
    state: State,
    workers: usize,
    waiting: usize,
}

/// The gate; the module's documentation describes its states.
#[derive(Debug)]
pub struct Gate {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// What a worker must do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Continue.
    Go,
    /// Return: the machine is shut down.
    Leave,
}

impl Gate {
    /// Makes a closed gate for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            inner: Mutex::new(Inner { state: State::Closed, workers, waiting: 0 }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For workers: waits while the gate is closed, then returns whether to continue or to return.
    pub fn pass(&self) -> Passage {
        let mut inner = self.lock();
        if inner.state == State::Closed {
            inner.waiting += 1;
            self.changed.notify_all();
            while inner.state == State::Closed {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            inner.waiting -= 1;
        }
        if inner.state == State::Open { Passage::Go } else { Passage::Leave }
    }

    /// For a worker that returns by itself: the controller no longer waits for it.
    pub fn resign(&self) {
        self.lock().workers -= 1;
        self.changed.notify_all();
    }

    fn set(&self, state: State) {
        let mut inner = self.lock();
        if inner.state != State::Shut {
            inner.state = state;
        }
        self.changed.notify_all();
    }

    /// Opens the gate: the workers continue.
    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Closes the gate: every worker waits from its next [`Self::pass`] on. The caller kicks the workers.
    pub fn close(&self) {
        self.set(State::Closed);
    }

    /// Shuts the gate for good: every worker returns at its next [`Self::pass`]. The caller kicks the workers.
    pub fn shut(&self) {
        self.set(State::Shut);
    }

    /// For the controller, after [`Self::close`] and the kicks: returns when all workers wait at the gate.
    pub fn wait_all_stopped(&self) {
        let mut inner = self.lock();
        while inner.state == State::Closed && inner.waiting < inner.workers {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn workers_stand_still_between_close_and_open_and_leave_when_it_is_shut() {
        let gate = Arc::new(Gate::new(3));
        let steps = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (gate, steps) = (Arc::clone(&gate), Arc::clone(&steps));
                std::thread::spawn(move || {
                    while gate.pass() == Passage::Go {
                        steps.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        gate.wait_all_stopped();
        assert_eq!(steps.load(Ordering::SeqCst), 0);
        for _ in 0..50 {
            gate.open();
            let before = steps.load(Ordering::SeqCst);
            while steps.load(Ordering::SeqCst) == before {
                std::thread::yield_now();
            }
            gate.close();
            gate.wait_all_stopped();
            let stopped = steps.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(steps.load(Ordering::SeqCst), stopped);
        }
        gate.shut();
        for worker in workers {
            worker.join().unwrap();
        }
    }

    #[test]
    fn a_worker_that_resigned_is_not_waited_for() {
        let gate = Gate::new(1);
        gate.resign();
        gate.wait_all_stopped();
    }
}
