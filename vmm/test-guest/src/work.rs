//! The progress of background work: counters for each kind of work, errors, and waiting until all kinds have made
//! progress. The guest's threads count; the host reads a [`Status`].

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of pieces of work that each kind must complete for [`Board::wait_for_progress`]. The first one may have been
/// almost complete before the call; a second one must have begun after it.
const PROGRESS: u64 = 2;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Requests to a disk.
    Block,
    /// Messages over a TCP connection, and their answers.
    Tcp,
    /// Expirations of a timer.
    Timer,
    /// Lines through a pseudo-terminal, and their answers.
    Pty,
    /// Files that are written, renamed, removed and read.
    Files,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Block, Self::Tcp, Self::Timer, Self::Pty, Self::Files];

    /// Returns the name of the kind in a status line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Tcp => "tcp",
            Self::Timer => "timer",
            Self::Pty => "pty",
            Self::Files => "files",
        }
    }
}

/// The progress of the work. As text: `block=N tcp=N timer=N pty=N files=N errors=N first_error=TEXT`, without the
/// kinds that are not active. TEXT extends to the end of the line and is empty if there was no error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    counts: [Option<u64>; Kind::ALL.len()],
    /// Number of threads that have stopped because of an error.
    pub errors: u64,
    /// Description of the first error.
    pub first_error: String,
}

impl Status {
    /// Returns the number of pieces of work of this kind that were completed and verified; `None` if the kind is not
    /// active.
    pub fn count(&self, kind: Kind) -> Option<u64> {
        self.counts.get(kind as usize).copied().flatten()
    }

    /// Returns the names of the kinds that have made too little progress since `start`.
    fn behind(&self, start: &Self) -> Vec<&'static str> {
        let behind = |kind: &Kind| {
            let (now, then) = (self.count(*kind), start.count(*kind));
            now.is_some_and(|now| now < then.unwrap_or(0) + PROGRESS)
        };
        Kind::ALL.into_iter().filter(behind).map(Kind::name).collect()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            if let Some(count) = self.count(kind) {
                write!(formatter, "{}={count} ", kind.name())?;
            }
        }
        write!(formatter, "errors={} first_error={}", self.errors, self.first_error)
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("`{line}` is no status");
        let (counts, first_error) = line.split_once("first_error=").ok_or_else(wrong)?;
        let mut status = Self { first_error: first_error.to_string(), ..Self::default() };
        for word in counts.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            let value = value.parse().map_err(|_| wrong())?;
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            match kind.and_then(|kind| status.counts.get_mut(kind as usize)) {
                Some(count) => *count = Some(value),
                None if name == "errors" => status.errors = value,
                None => return Err(wrong()),
            }
        }
        Ok(status)
    }
}

/// The state that the working threads share.
#[derive(Debug, Default)]
pub struct Board {
    begun: [AtomicBool; Kind::ALL.len()],
    counts: [AtomicU64; Kind::ALL.len()],
    errors: AtomicU64,
    first_error: Mutex<String>,
    stopping: AtomicBool,
    /// Number of threads in [`Self::wait_for_progress`]; while there are none, counting costs no system call.
    waiters: AtomicUsize,
    waiting: Mutex<()>,
    news: Condvar,
}

impl Board {
    /// Marks this kind of work as active.
    pub fn begin(&self, kind: Kind) {
        if let Some(begun) = self.begun.get(kind as usize) {
            begun.store(true, Ordering::SeqCst);
        }
    }

    /// Counts a piece of work that was completed and verified.
    pub fn done(&self, kind: Kind) {
        if let Some(count) = self.counts.get(kind as usize) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        self.tell();
    }

    /// Records that a thread has stopped because of an error.
    pub fn fail(&self, kind: Kind, reason: &str) {
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_empty() {
            // The status is one line, so the description must not contain newlines.
            *first = format!("{}: {}", kind.name(), reason.replace('\n', " "));
        }
        drop(first);
        self.errors.fetch_add(1, Ordering::SeqCst);
        self.tell();
    }

    /// Requests that all threads stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether the threads must stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Returns the current progress.
    pub fn status(&self) -> Status {
        let mut status = Status::default();
        for ((count, begun), to) in self.counts.iter().zip(&self.begun).zip(&mut status.counts) {
            *to = begun.load(Ordering::SeqCst).then(|| count.load(Ordering::SeqCst));
        }
        status.errors = self.errors.load(Ordering::SeqCst);
        status.first_error = self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status
    }

    /// Waits until every active kind of work has completed two pieces since the call.
    ///
    /// # Errors
    /// If there is an error, even an earlier one: the status as text. If there is too little progress within
    /// `timeout`: a description.
    pub fn wait_for_progress(&self, timeout: Duration) -> Result<Status, String> {
        let (start, asked) = (self.status(), Instant::now());
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock();
        let result = loop {
            let now = self.status();
            if now.errors > 0 {
                break Err(now.to_string());
            }
            let behind = now.behind(&start);
            if behind.is_empty() {
                break Ok(now);
            }
            let left = timeout.saturating_sub(asked.elapsed());
            if left.is_zero() {
                break Err(format!("no progress of {}: from {start} to {now}", behind.join(" and ")));
            }
            guard = self.news.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(guard);
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn tell(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            // With the lock held, no waiter is between checking the counters and waiting.
            let _guard = self.lock();
            self.news.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn a_status_is_a_line_that_can_be_read_again() {
        let board = Board::default();
        assert_eq!(board.status().to_string(), "errors=0 first_error=");
        board.begin(Kind::Tcp);
        board.begin(Kind::Files);
        board.done(Kind::Tcp);
        board.fail(Kind::Files, "a=b\nc");
        board.fail(Kind::Tcp, "later");
        let line = "tcp=1 files=0 errors=2 first_error=files: a=b c";
        assert_eq!(board.status().to_string(), line);
        assert_eq!(line.parse(), Ok(board.status()));
        assert_eq!((board.status().count(Kind::Tcp), board.status().count(Kind::Pty)), (Some(1), None));
        for wrong in ["", "tcp=1", "tcp=x errors=0 first_error=", "tea=1 errors=0 first_error="] {
            assert!(wrong.parse::<Status>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn waiting_ends_when_all_that_was_begun_has_come_further() {
        let board = Arc::new(Board::default());
        for kind in [Kind::Block, Kind::Timer] {
            board.begin(kind);
            board.done(kind);
        }
        board.done(Kind::Pty); // this kind is not active, so it is not waited for
        let waiter = Arc::clone(&board);
        let waiter = thread::spawn(move || waiter.wait_for_progress(TEST_TIMEOUT));
        while board.waiters.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        board.done(Kind::Block);
        board.done(Kind::Block);
        board.done(Kind::Timer);
        assert!(!waiter.is_finished());
        board.done(Kind::Timer);
        let status = waiter.join().unwrap().unwrap();
        assert_eq!((status.count(Kind::Block), status.count(Kind::Timer)), (Some(3), Some(3)));
    }

    #[test]
    fn waiting_fails_with_an_error_or_without_progress() {
        let board = Board::default();
        board.begin(Kind::Pty);
        let reason = board.wait_for_progress(Duration::from_millis(1)).unwrap_err();
        assert!(reason.starts_with("no progress of pty"), "{reason}");
        board.fail(Kind::Pty, "wrong line");
        let reason = board.wait_for_progress(TEST_TIMEOUT).unwrap_err();
        assert!(reason.ends_with("first_error=pty: wrong line"), "{reason}");
    }
}
