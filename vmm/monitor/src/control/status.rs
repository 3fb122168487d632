//! The monitor's responses about itself and its machine: status and metrics.

use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::protocol::VERSIONS;

use super::FEATURES;
use super::error::RequestError;
use super::monitor::{Monitor, State};

impl Monitor {
    /// Returns the monitor's versions and process id, and the state of its machine.
    pub(super) fn status(&self) -> proto::Status {
        proto::Status {
            version: VERSIONS.newest(),
            oldest_version: VERSIONS.oldest(),
            features: FEATURES.map(str::to_owned).to_vec(),
            program_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            state: self.state.wire().into(),
            restarts: self.restarts,
            save_stage: self.save_stage().into(),
            disks: self.description.disks.clone(),
            nets: self.description.nets.clone(),
            base_id: self.base_id(),
        }
    }

    fn save_stage(&self) -> proto::SaveStage {
        match (&self.state, &self.saver) {
            (State::Saving { .. }, Some(saver)) => saver.stage(),
            _ => proto::SaveStage::Unspecified,
        }
    }

    /// Returns all counters of the machine and of the monitor.
    pub(super) fn metrics(&self) -> Result<proto::Metrics, RequestError> {
        let machine = self.machine("read metrics")?;
        let counter = |(name, value): (&str, u64)| proto::Counter { name: name.into(), value };
        let group = |(name, counters): (String, Vec<(&'static str, u64)>)| proto::MetricGroup {
            name,
            counters: counters.into_iter().map(counter).collect(),
        };
        let mut groups: Vec<_> = machine.counters().into_iter().map(group).collect();
        let step = |step: &proto::Step| proto::Counter {
            name: format!("{}_ns", step.name.replace(' ', "_")),
            value: step.nanoseconds,
        };
        let steps = |name: &str, steps: &[proto::Step]| proto::MetricGroup {
            name: name.into(),
            counters: steps.iter().map(step).collect(),
        };
        groups.push(steps("jail", &self.host.start.message()));
        for (name, timed) in [("restore", &self.last_restore), ("save", &self.last_save)] {
            let Some((taken, pages)) = timed else { continue };
            groups.push(steps(name, taken));
            groups.push(proto::MetricGroup { name: format!("{name}_pages"), counters: pages.clone() });
        }
        if let Some(recorder) = machine.recorder() {
            let counters = vec![counter(("touched_pages", recorder.touched()))];
            groups.push(proto::MetricGroup { name: "working_set".into(), counters });
        }
        Ok(proto::Metrics { groups })
    }
}
