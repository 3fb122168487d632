//! Figures, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

/// Which way a figure should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// What one monitor gave.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Samples {
    pub(crate) monitor: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) values: Vec<f64>,
}

impl Samples {
    /// Summarises `values`, in the order in which they were taken.
    pub(crate) fn new(monitor: &'static str, values: Vec<f64>) -> Self {
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

/// One row. Its goal is one for [`Figure::ratio`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) goal: Option<f64>,
    pub(crate) samples: Vec<Samples>,
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

/// The table: one row a figure, medians with their range, and the ratio of the first to the second monitor.
pub(crate) fn table(figures: &[Figure]) -> String {
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
