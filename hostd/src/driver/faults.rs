//! Points at which tests simulate a crash.
//!
//! Every stored change and every effect has a point before and one after it, with a name like
//! `microvm.running.before-commit` or `microvm.launch.after`. A daemon that is started with `HEARTH_FAULT=NAME` kills
//! itself there with SIGKILL; with `HEARTH_FAULT=NAME:N`, when it reaches the point for the N-th time. Unit tests
//! stop at a point without killing the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// What happens at the points; by default nothing.
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

    /// Calls `stop` at every point; where it returns true, the caller of [`Self::at`] waits for ever.
    pub fn stopping(stop: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(stop)))
    }

    /// Kills the process at the point that `HEARTH_FAULT` names.
    #[must_use]
    pub fn of_environment() -> Self {
        let Ok(point) = std::env::var("HEARTH_FAULT") else { return Self::none() };
        let (name, times) = match point.rsplit_once(':') {
            Some((name, times)) => (name.to_owned(), times.parse().unwrap_or(1)),
            None => (point, 1),
        };
        let seen = AtomicU32::new(0);
        Self::stopping(move |point| {
            if point == name && seen.fetch_add(1, Ordering::SeqCst) + 1 == times {
                // The process does not live to see the result.
                let _ = kill_process(getpid(), Signal::KILL);
            }
            false
        })
    }

    /// Reaches the point `AREA.NAME.PLACE`. Does not return if this is the point to stop at.
    pub async fn at(&self, area: &str, name: &str, place: &str) {
        if let Some(stop) = &self.0
            && stop(&format!("{area}.{name}.{place}"))
        {
            std::future::pending::<()>().await;
        }
    }
}
