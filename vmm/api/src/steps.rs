//! Measures the durations of the steps of an operation.

use std::time::Instant;

use hearth_proto::vmm::v1 as proto;

/// A stopwatch with laps.
#[derive(Debug, Clone)]
pub struct Steps {
    last: Instant,
    taken: Vec<(&'static str, u64)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self { last: Instant::now(), taken: Vec::new() }
    }
}

impl Steps {
    /// Ends the step `name`, which began when the previous step ended.
    pub fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        let nanoseconds = u64::try_from(now.duration_since(self.last).as_nanos()).unwrap_or(u64::MAX);
        self.taken.push((name, nanoseconds));
        self.last = now;
    }

    /// Returns the names and durations (in nanoseconds) of the steps so far, in order.
    #[must_use]
    pub fn taken(&self) -> &[(&'static str, u64)] {
        &self.taken
    }

    /// Returns the steps as messages of the control protocol.
    #[must_use]
    pub fn message(&self) -> Vec<proto::Step> {
        self.taken.iter().map(|&(name, nanoseconds)| proto::Step { name: name.into(), nanoseconds }).collect()
    }
}
