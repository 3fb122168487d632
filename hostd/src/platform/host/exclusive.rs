//! Exclusive locks on names.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::panics::poisoned;

/// Deadline for waiting for the holder of a name. The holder may be waiting for a monitor; that monitor is killed
/// before the next holder's turn, and from then on only the host's kernel can cause delay.
pub(super) const TURN: Duration = Duration::from_secs(30);

/// The names that are held.
#[derive(Debug, Default)]
pub(super) struct Exclusive {
    taken: Mutex<HashSet<PathBuf>>,
    given_back: Condvar,
}

/// Holds a name exclusively while it exists.
#[derive(Debug)]
pub(super) struct Held<'a> {
    name: &'a Path,
    all: &'a Exclusive,
}

impl Exclusive {
    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.taken.lock().unwrap_or_else(poisoned)
    }

    /// Waits until the name is free, for `limit` at most, and holds it. This blocks.
    pub(super) fn hold<'a>(&'a self, name: &'a Path, limit: Duration) -> io::Result<Held<'a>> {
        let began = Instant::now();
        let mut taken = self.lock();
        while !taken.insert(name.to_owned()) {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                let message = format!("something else is still being done there after {} s", limit.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            let waited = self.given_back.wait_timeout(taken, left);
            taken = waited.unwrap_or_else(poisoned).0;
        }
        Ok(Held { name, all: self })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(self.name);
        self.all.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn nobody_is_at_a_name_that_somebody_holds() {
        let (all, inside) = (Exclusive::default(), AtomicU32::new(0));
        let name = Path::new("one");
        let other = all.hold(Path::new("other"), TURN).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let held = all.hold(name, Duration::MAX).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        let late = all.hold(Path::new("other"), Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "who stays for ever holds up nobody for ever");
        drop(other);
        assert!(all.lock().is_empty());
    }
}
