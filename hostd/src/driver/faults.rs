//! Points at which a crash is tried out.
//!
//! Every change that is stored and every effect has a point before and one after it, with a name like
//! `microvm.running.before-commit` or `microvm.launch.after`. A daemon that is started with `HEARTH_FAULT=NAME` dies there at
//! once, as from kill -9; `HEARTH_FAULT=NAME:N` at the N-th time. Tests stop at a point without dying.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What happens at points: nothing, unless somebody tries something out.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Stop>>);

type Stop = dyn Fn(&str) -> bool + Send + Sync;

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(some)" } else { "Faults(none)" })
    }
}

impl Faults {
    /// Nothing ever happens.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// `stop` is asked at every point whether to stop there for ever.
    pub fn stopping(stop: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(stop)))
    }

    /// The process dies at the point that `HEARTH_FAULT` names.
    #[must_use]
    pub fn of_environment() -> Self {
        let Ok(wanted) = std::env::var("HEARTH_FAULT") else { return Self::none() };
        let (name, times) = match wanted.rsplit_once(':') {
            Some((name, times)) => (name.to_owned(), times.parse().unwrap_or(1)),
            None => (wanted, 1),
        };
        let seen = AtomicU32::new(0);
        Self::stopping(move |point| {
            if point == name && seen.fetch_add(1, Ordering::SeqCst) + 1 == times {
                // SAFETY: kill takes two numbers; the process does not live to see what it returns.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            false
        })
    }

    /// The point `AREA.NAME.PLACE`. Does not return when this is where things are to stop.
    pub async fn at(&self, area: &str, name: &str, place: &str) {
        if let Some(stop) = &self.0
            && stop(&format!("{area}.{name}.{place}"))
        {
            std::future::pending::<()>().await;
        }
    }
}
