//! Prometheus metrics.
//!
//! [`Metrics`] has a method for each thing that happens; what becomes of it is `families`' matter. [`server`] answers
//! Prometheus. All names begin with `hearth_`; durations are in seconds, sizes in bytes. Labels take values from fixed sets, account numbers
//! apart, so that no client can make them many.

pub mod config;
mod families;
pub mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use config::{Listen, MetricsConfig};
use families::{Families, Label};
use prometheus_client::registry::Registry;
pub use server::MetricsServer;

use crate::platform::{Hook, HookOutcome};

/// How something has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As it should.
    Succeeded,
    /// It did not happen.
    Failed,
    /// It was given up because something else was asked for.
    Cancelled,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is counted and measured. Copies are cheap and count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    families: Families,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("hearth");
        let families = Families::register(&mut registry);
        Self { registry: Arc::new(registry), families }
    }

    /// A launch has ended, so long after it was asked for.
    pub fn launched(&self, outcome: Outcome, took: Duration) {
        self.families.launches.observe([("outcome", outcome.label().into())], took);
    }

    /// A suspend has ended.
    pub fn suspended(&self, outcome: Outcome, took: Duration) {
        self.families.suspends.observe([("outcome", outcome.label().into())], took);
    }

    /// A resume has ended.
    pub fn resumed(&self, outcome: Outcome, took: Duration) {
        self.families.resumes.observe([("outcome", outcome.label().into())], took);
    }

    /// A step of an operation – `launch`, `suspend`, `resume` … – was done.
    pub fn step(&self, operation: &str, step: &str, took: Duration) {
        let labels = [("operation", self.families.bounded(operation)), ("step", self.families.bounded(step))];
        self.families.steps.observe(labels, took);
    }

    /// A build of an image has ended.
    pub fn built(&self, outcome: Outcome, took: Duration) {
        self.families.builds.observe([("outcome", outcome.label().into())], took);
    }

    /// A step of a build was done.
    pub fn build_step(&self, step: &str, took: Duration) {
        self.families.build_steps.observe([("step", self.families.bounded(step))], took);
    }

    /// An operation of the API was answered; `code` is gRPC's, like `NOT_FOUND`, or `OK`.
    pub fn called(&self, operation: &str, code: &str, took: Duration) {
        let labels = [("operation", self.families.bounded(operation)), ("code", self.families.bounded(code))];
        self.families.calls.observe(labels, took);
    }

    /// So many microVMs are in this state.
    pub fn microvms(&self, state: &str, count: usize) {
        set(&self.families.microvms, [("state", self.families.bounded(state))], count);
    }

    /// Of things that are made before they are needed, so many are ready, and so many wanted.
    pub fn pool(&self, pool: &str, ready: usize, wanted: usize) {
        let labels = [("pool", self.families.bounded(pool))];
        set(&self.families.pool_ready, labels.clone(), ready);
        set(&self.families.pool_wanted, labels, wanted);
    }

    /// Baseline memory in MiB: what microVMs may have on this host, and what those that run have.
    pub fn capacity(&self, capacity_mib: u64, reserved_mib: u64) {
        let bytes = |mib: u64| i64::try_from(mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX);
        self.families.memory_capacity.set(bytes(capacity_mib));
        self.families.memory_reserved.set(bytes(reserved_mib));
    }

    /// So many builds are under way.
    pub fn builds_under_way(&self, count: usize) {
        self.families.builds_under_way.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All logs have so many bytes.
    pub fn log_bytes(&self, bytes: u64) {
        self.families.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// So many audit lines were lost since the start.
    pub fn audit_lines_lost(&self, count: u64) {
        self.families.audit_lines_lost.inner().store(count, Ordering::Relaxed);
    }

    /// So many requests of all kinds were ended by a panic since the start.
    pub fn request_panics(&self, count: u64) {
        self.families.request_panics.inner().store(count, Ordering::Relaxed);
    }

    /// A request to an endpoint was answered: with a class of statuses, like `2xx`, or an error of the endpoint's own.
    pub fn endpoint_request(&self, answer: &'static str) {
        self.families.endpoint_requests.get_or_create(&[("answer", answer.into())]).inc();
    }

    /// A request has waited for a microVM that was not ready.
    pub fn endpoint_waited(&self, outcome: Outcome, took: Duration) {
        self.families.endpoint_waits.observe([("outcome", outcome.label().into())], took);
    }

    /// A client has connected to an endpoint, or gone.
    pub fn endpoint_connections(&self, change: i64) {
        self.families.endpoint_connections.inc_by(change);
    }

    /// A hook was called, or would have been if it were enabled.
    pub fn hook(&self, hook: Hook, outcome: &HookOutcome) {
        let outcome = match outcome {
            HookOutcome::Disabled => "disabled",
            HookOutcome::Status(200..=299) => "succeeded",
            HookOutcome::Status(_) => "refused_by_app",
            HookOutcome::Refused => "connection_refused",
            HookOutcome::TimedOut => "timed_out",
            HookOutcome::Failed => "failed",
        };
        let hook = hook.to_string().to_lowercase();
        self.families.hooks.get_or_create(&[("hook", hook.into()), ("outcome", outcome.into())]).inc();
    }

    /// A group of so many batches was made durable together.
    pub fn committed(&self, batches: usize, took: Duration) {
        self.families.commits.observe(took.as_secs_f64());
        self.families.commit_groups.observe(f64::from(u32::try_from(batches).unwrap_or(u32::MAX)));
    }

    /// A microVM of `account` has run for so long, with a baseline of so many vCPUs and so much memory.
    pub fn ran(&self, account: &str, vcpus: f64, memory_mib: u32, time: Duration) {
        let account = self.families.account(account);
        let seconds = time.as_secs_f64();
        self.families.vcpu_seconds.get_or_create(&account).inc_by(vcpus * seconds);
        let gigabytes = f64::from(memory_mib) / 1024.0;
        self.families.gigabyte_seconds.get_or_create(&account).inc_by(gigabytes * seconds);
    }

    /// All of it in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// Never, while text can be put into memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn set(family: &families::Gauges, labels: [Label; 1], count: usize) {
    family.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
}
