//! One at a time per name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::panics::poisoned;

/// Names that somebody is at.
#[derive(Debug, Default)]
pub(super) struct Exclusive {
    taken: Mutex<HashSet<PathBuf>>,
    given_back: Condvar,
}

/// While this lives, nobody else is at the name.
#[derive(Debug)]
pub(super) struct Held<'a> {
    name: &'a Path,
    all: &'a Exclusive,
}

impl Exclusive {
    fn lock(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.taken.lock().unwrap_or_else(poisoned)
    }

    /// Waits until nobody is at the name. It blocks.
    pub(super) fn hold<'a>(&'a self, name: &'a Path) -> Held<'a> {
        let mut taken = self.lock();
        while !taken.insert(name.to_owned()) {
            taken = self.given_back.wait(taken).unwrap_or_else(poisoned);
        }
        Held { name, all: self }
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
        let other = all.hold(Path::new("other"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let held = all.hold(name);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
        drop(other);
        assert!(all.lock().is_empty());
    }
}
