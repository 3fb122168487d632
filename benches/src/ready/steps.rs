//! The steps of a launch or resume: their times, or their cost for the host.

use std::time::Instant;

use anyhow::Result;
use hearth_benches::trace::profile::Row;
use hearth_benches::trace::tracefs::Tracer;

/// Steps that are either timed or traced, because tracing takes time.
pub(crate) struct Steps<'a> {
    tracer: Option<&'a Tracer>,
    start: Instant,
    last: Instant,
    rows: Vec<Row>,
}

impl<'a> Steps<'a> {
    /// Steps that are timed.
    pub(crate) fn timed() -> Self {
        let now = Instant::now();
        Self { tracer: None, start: now, last: now, rows: Vec::new() }
    }

    /// Steps that are traced.
    pub(crate) fn traced(tracer: &'a Tracer) -> Self {
        Self { tracer: Some(tracer), ..Self::timed() }
    }

    /// Starts the first step.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if let Some(tracer) = self.tracer {
            tracer.begin()?;
        }
        self.start = Instant::now();
        self.last = self.start;
        Ok(())
    }

    /// Ends a step, which has this name.
    pub(crate) fn done(&mut self, step: &str) -> Result<()> {
        if let Some(tracer) = self.tracer {
            return tracer.mark(step);
        }
        let now = Instant::now();
        let value = now.duration_since(self.last).as_secs_f64() * 1000.0;
        self.rows.push(Row { name: step.to_owned(), unit: "ms", value });
        self.last = now;
        Ok(())
    }

    /// The rows of all steps, after the last one.
    pub(crate) fn rows(mut self) -> Result<Vec<Row>> {
        let Some(tracer) = self.tracer else {
            let value = self.last.duration_since(self.start).as_secs_f64() * 1000.0;
            self.rows.push(Row { name: "all".into(), unit: "ms", value });
            return Ok(self.rows);
        };
        let trace = tracer.end()?;
        for (step, profile) in trace.steps() {
            for row in profile.rows() {
                if row.name == "faults" {
                    self.rows.push(Row { name: format!("faults in {step}"), ..row });
                }
            }
        }
        // Times are taken from steps that were not traced.
        let counts = trace.whole().rows().into_iter().filter(|row| row.unit != "ms");
        self.rows.extend(counts);
        Ok(self.rows)
    }
}
