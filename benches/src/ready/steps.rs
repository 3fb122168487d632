//! The steps of a launch or resume: their times, or what they cost the host.

use std::time::Instant;

use anyhow::Result;
use hearth_benches::trace::profile::Row;
use hearth_benches::trace::tracefs::Tracer;

/// Steps that are timed, or traced: tracing takes time.
pub(crate) struct Steps<'a> {
    tracer: Option<&'a Tracer>,
    start: Instant,
    last: Instant,
    rows: Vec<Row>,
}

impl<'a> Steps<'a> {
    /// Steps of which the time is taken.
    pub(crate) fn timed() -> Self {
        let now = Instant::now();
        Self { tracer: None, start: now, last: now, rows: Vec::new() }
    }

    /// Steps that are looked at from below.
    pub(crate) fn traced(tracer: &'a Tracer) -> Self {
        Self { tracer: Some(tracer), ..Self::timed() }
    }

    /// It begins now.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if let Some(tracer) = self.tracer {
            tracer.begin()?;
        }
        self.start = Instant::now();
        self.last = self.start;
        Ok(())
    }

    /// What was done since the last step has this name.
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

    /// All of it, after the last step.
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
        // Times are those of the steps that were not traced.
        let counts = trace.whole().rows().into_iter().filter(|row| row.unit != "ms");
        self.rows.extend(counts);
        Ok(self.rows)
    }
}
