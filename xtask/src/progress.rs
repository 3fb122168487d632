//! Progress for the user: one line per step on stderr, with the time since the start, and a
//! table of the steps' times at the end. Stdout is for the output of commands.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

static START: OnceLock<Instant> = OnceLock::new();

/// Starts the clock of [`note`].
pub(crate) fn start() {
    START.get_or_init(Instant::now);
}

/// Prints one line with the time since the start.
pub(crate) fn note(text: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    eprintln!("[{:>7}] {text}", clock(elapsed));
}

/// `m:ss` or `s.d s`, whichever reads better.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}

/// Named steps, run one after the other; the first failure ends the run, and the error contains the step's name.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

/// A completed step.
#[derive(Debug)]
struct Done {
    name: String,
    time: Duration,
    /// Whether it is part of the last step before it that is not an inner one.
    inner: bool,
}

impl Steps {
    /// Runs one step between two lines of progress.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.run_with_inner(name, || (Vec::new(), work()))
    }

    /// Runs a step that consists of inner steps, which may run at the same time; `work` returns their times, also if it fails.
    pub(crate) fn run_with_inner<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> (Vec<(String, Duration)>, Result<T>),
    ) -> Result<T> {
        note(&format!("── {name}"));
        let start = Instant::now();
        let (inner, result) = work();
        self.done.push(Done { name: name.to_string(), time: start.elapsed(), inner: false });
        let inner = inner.into_iter();
        self.done.extend(inner.map(|(name, time)| Done { name: format!("  {name}"), time, inner: true }));
        match &result {
            Ok(_) => note(&format!("   {name}: done in {}", clock(start.elapsed()))),
            Err(_) => {
                note(&format!("   {name}: FAILED after {}", clock(start.elapsed())));
                eprint!("{}", self.table());
            }
        }
        result.with_context(|| format!("step failed: {name}"))
    }

    /// The table of the steps' times.
    pub(crate) fn table(&self) -> String {
        let width = self.done.iter().map(|done| done.name.chars().count()).max().unwrap_or(0).max(5);
        let mut text = String::new();
        for Done { name, time, .. } in &self.done {
            text.push_str(&format!("  {name:<width$}  {:>8}\n", clock(*time)));
        }
        let total = self.done.iter().filter(|done| !done.inner).map(|done| done.time).sum();
        text.push_str(&format!("  {:<width$}  {:>8}\n", "total", clock(total)));
        text
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(clock(Duration::from_millis(1_234)), "1.2 s");
        assert_eq!(clock(Duration::from_secs(61)), "1:01");
    }

    #[test]
    fn a_failed_step_is_named_and_stands_in_the_table() {
        let mut steps = Steps::default();
        steps.run("first", || Ok(())).unwrap();
        let error = steps.run("second", || -> Result<()> { bail!("why") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "step failed: second: why");
        let table = steps.table();
        assert!(table.contains("first") && table.contains("second") && table.contains("total"));
    }

    #[test]
    fn what_ran_within_a_step_is_in_the_table_and_not_in_the_total() {
        let mut steps = Steps::default();
        let inner = vec![("one".to_owned(), Duration::from_secs(7200))];
        steps.run_with_inner("both", || (inner, Ok(()))).unwrap();
        let table = steps.table();
        assert!(table.contains("    one") && table.contains("120:00"), "{table}");
        let total = table.lines().last().unwrap();
        assert!(total.contains("total") && !total.contains("120:00"), "{table}");
    }
}
