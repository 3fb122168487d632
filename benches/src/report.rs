//! Figures, as a table for people and as JSON for programs; and the exit of a program that takes them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The direction in which a figure improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Lower is better: times, sizes.
    Lower,
    /// Higher is better: rates.
    Higher,
}

/// The values of one monitor.
#[derive(Debug, Clone, Serialize)]
pub struct Samples {
    /// The monitor's name.
    pub monitor: &'static str,
    /// The median of its values.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// All values, in the order in which they were taken.
    pub values: Vec<f64>,
}

impl Samples {
    /// Summarises `values`, in the order in which they were taken.
    #[must_use]
    pub fn new(monitor: &'static str, values: Vec<f64>) -> Self {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) && half > 0 {
            f64::midpoint(at(half - 1), at(half))
        } else {
            at(half)
        };
        Self { monitor, median, min: at(0), max: at(sorted.len().saturating_sub(1)), values }
    }
}

/// One row of the table. Its goal is for [`Figure::ratio`].
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Name of the figure.
    pub name: String,
    /// Unit of all values.
    pub unit: &'static str,
    /// The direction in which it improves.
    pub better: Better,
    /// Goal: the ratio of the first to the second monitor.
    pub goal: Option<f64>,
    /// Hearth's values first, then those of the program that it is compared with.
    pub samples: Vec<Samples>,
}

impl Figure {
    /// The first monitor's median over the second's.
    fn ratio(&self) -> Option<f64> {
        match self.samples.as_slice() {
            [ours, theirs, ..] => Some(ours.median / theirs.median),
            _ => None,
        }
    }
}

/// The exit code of the program `name`; prints the error, if there is one.
#[must_use]
pub fn exit(name: &str, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes figures as JSON.
///
/// # Errors
/// The file cannot be written.
pub fn save(figures: &[Figure], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(figures).context("writing the figures")?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// The table: one row per figure, medians with their range, and the ratio of the first to the second monitor.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from("\n");
    for figure in figures {
        let _ = write!(text, "{:<56} {:<6}", figure.name, figure.unit); // writing to a string cannot fail
        for samples in &figure.samples {
            let Samples { monitor, median, min, max, .. } = samples;
            let _ = write!(text, "  {monitor} {median:.2} ({min:.2}–{max:.2})");
        }
        if let Some(ratio) = figure.ratio() {
            let _ = write!(text, "  ratio {ratio:.2}");
            if let Some(goal) = figure.goal {
                let (sign, met) = match figure.better {
                    Better::Lower => ('≤', ratio <= goal),
                    Better::Higher => ('≥', ratio >= goal),
                };
                let _ = write!(text, " (goal {sign} {goal:.1}: {})", if met { "met" } else { "MISSED" });
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_do_not_depend_on_the_order() {
        assert!((Samples::new("a", vec![3.0, 1.0, 2.0]).median - 2.0).abs() < f64::EPSILON);
        assert!((Samples::new("a", vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < f64::EPSILON);
        assert!(Samples::new("a", Vec::new()).median.is_nan());
    }

    #[test]
    fn a_missed_goal_is_said_aloud() {
        let samples = vec![Samples::new("hearth", vec![2.0]), Samples::new("firecracker", vec![1.0])];
        let figure = Figure { name: "x".into(), unit: "ms", better: Better::Lower, goal: Some(1.0), samples };
        assert!(table(&[figure]).contains("ratio 2.00 (goal ≤ 1.0: MISSED)"));
    }

    #[test]
    fn more_is_better_where_that_is_so() {
        let samples = vec![Samples::new("hearth", vec![0.9]), Samples::new("nginx", vec![1.0])];
        let figure =
            Figure { name: "x".into(), unit: "1/s", better: Better::Higher, goal: Some(0.8), samples };
        assert!(table(&[figure]).contains("ratio 0.90 (goal ≥ 0.8: met)"));
    }
}
