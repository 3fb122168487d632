//! Prometheus metrics.
//!
//! [`Metrics`] has a method for each event that is measured; `families` defines the metrics. [`server`] serves them
//! to Prometheus. All names begin with `hearth_`; durations are in seconds, sizes in bytes. Except for account
//! numbers, labels take values from fixed sets, so that no client can create many of them.

pub mod config;
mod families;
pub mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use config::{Listen, MetricsConfig};
use families::{Families, Label};
use hearth_model::hooks::{Hook, HookOutcome};
use prometheus_client::registry::Registry;
pub use server::MetricsServer;

use crate::disk::AccountDisk;

/// The outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The operation succeeded.
    Succeeded,
    /// The operation failed.
    Failed,
    /// The operation was given up for another request.
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

/// All metrics. Clones are cheap and share the same values.
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
    /// Creates the metrics with all values at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("hearth");
        let families = Families::register(&mut registry);
        Self { registry: Arc::new(registry), families }
    }

    /// Records the outcome of a launch, and the time since the request.
    pub fn launched(&self, outcome: Outcome, took: Duration) {
        self.families.launches.observe([("outcome", outcome.label().into())], took);
    }

    /// Records the outcome of a suspend, and the time since the request.
    pub fn suspended(&self, outcome: Outcome, took: Duration) {
        self.families.suspends.observe([("outcome", outcome.label().into())], took);
    }

    /// Records the outcome of a resume, and the time since the request.
    pub fn resumed(&self, outcome: Outcome, took: Duration) {
        self.families.resumes.observe([("outcome", outcome.label().into())], took);
    }

    /// Records the duration of a step of an operation: `launch`, `suspend`, `resume` …
    pub fn step(&self, operation: &str, step: &str, took: Duration) {
        let labels = [("operation", self.families.bounded(operation)), ("step", self.families.bounded(step))];
        self.families.steps.observe(labels, took);
    }

    /// Records the outcome of an image build, and its duration.
    pub fn built(&self, outcome: Outcome, took: Duration) {
        self.families.builds.observe([("outcome", outcome.label().into())], took);
    }

    /// Records the duration of a step of a build.
    pub fn build_step(&self, step: &str, took: Duration) {
        self.families.build_steps.observe([("step", self.families.bounded(step))], took);
    }

    /// Records a call of the API; `code` is gRPC's, like `NOT_FOUND`, or `OK`.
    pub fn called(&self, operation: &str, code: &str, took: Duration) {
        let labels = [("operation", self.families.bounded(operation)), ("code", self.families.bounded(code))];
        self.families.calls.observe(labels, took);
    }

    /// Sets the number of microVMs in this state.
    pub fn microvms(&self, state: &str, count: usize) {
        set(&self.families.microvms, [("state", self.families.bounded(state))], count);
    }

    /// Sets how many things of a pool are ready, and how many are wanted.
    pub fn pool(&self, pool: &str, ready: usize, wanted: usize) {
        let labels = [("pool", self.families.bounded(pool))];
        set(&self.families.pool_ready, labels.clone(), ready);
        set(&self.families.pool_wanted, labels, wanted);
    }

    /// Sets the baseline memory in MiB: the total for microVMs on this host, and what the running ones hold.
    pub fn capacity(&self, capacity_mib: u64, reserved_mib: u64) {
        let bytes = |mib: u64| i64::try_from(mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX);
        self.families.memory_capacity.set(bytes(capacity_mib));
        self.families.memory_reserved.set(bytes(reserved_mib));
    }

    /// Sets the number of builds that are under way.
    pub fn builds_under_way(&self, count: usize) {
        self.families.builds_under_way.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the size of all logs in bytes.
    pub fn log_bytes(&self, bytes: u64) {
        self.families.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets what accounts have on the disk, and the number of microVMs whose writes wait for room. An account that has
    /// nothing any more has 0.
    pub fn disks(&self, accounts: BTreeMap<String, AccountDisk>, waiting: usize) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let families = &self.families;
        for account in families.gone(&accounts) {
            families.account_disk.get_or_create(&families.account(&account)).set(0);
            families.account_disk_room.remove(&families.account(&account));
        }
        for (account, disk) in accounts {
            families.account_disk.get_or_create(&families.account(&account)).set(number(disk.taken));
            families.account_disk_room.get_or_create(&families.account(&account)).set(number(disk.room));
        }
        families.disk_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Sets the number of audit lines that were lost since the start.
    pub fn audit_lines_lost(&self, count: u64) {
        self.families.audit_lines_lost.inner().store(count, Ordering::Relaxed);
    }

    /// Sets the number of requests of all kinds that a panic has terminated since the start.
    pub fn request_panics(&self, count: u64) {
        self.families.request_panics.inner().store(count, Ordering::Relaxed);
    }

    /// Counts a process in a microVM that was killed because no memory was left.
    pub fn memory_kill(&self) {
        self.families.memory_kills.inc();
    }

    /// Counts a file that the scrub has found damaged.
    pub fn scrub_error(&self) {
        self.families.scrub_errors.inc();
    }

    /// Adds bytes that the scrub has read.
    pub fn scrub_read(&self, bytes: u64) {
        self.families.scrub_read.inc_by(bytes);
    }

    /// Sets when the scrub has read an object last, in seconds since 1970.
    pub fn scrubbed(&self, seconds: u64) {
        self.families.scrub_last.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Counts a request to an endpoint, by its response: a class of statuses, like `2xx`, or an error of the
    /// endpoint's own.
    pub fn endpoint_request(&self, answer: &'static str) {
        self.families.endpoint_requests.get_or_create(&[("answer", answer.into())]).inc();
    }

    /// Records how long a request has waited for a microVM that was not ready.
    pub fn endpoint_waited(&self, outcome: Outcome, took: Duration) {
        self.families.endpoint_waits.observe([("outcome", outcome.label().into())], took);
    }

    /// Counts what a client of an endpoint did not get, by the name of the limit.
    pub fn endpoint_refused(&self, limit: &'static str) {
        self.families.endpoint_refusals.get_or_create(&[("limit", limit.into())]).inc();
    }

    /// Changes the number of clients' connections to endpoints.
    pub fn endpoint_connections(&self, change: i64) {
        self.families.endpoint_connections.inc_by(change);
    }

    /// Counts a hook call, also one that was left out since the hook is disabled.
    pub fn hook(&self, hook: Hook, outcome: &HookOutcome) {
        let outcome = match outcome {
            HookOutcome::Disabled => "disabled",
            HookOutcome::Status(200..=299) => "succeeded",
            HookOutcome::Status(_) => "refused_by_app",
            HookOutcome::Refused => "connection_refused",
            HookOutcome::TimedOut => "timed_out",
            HookOutcome::Failed(_) => "failed",
        };
        let hook = hook.to_string().to_lowercase();
        self.families.hooks.get_or_create(&[("hook", hook.into()), ("outcome", outcome.into())]).inc();
    }

    /// Records a group of batches that was made durable together.
    pub fn committed(&self, batches: usize, took: Duration) {
        self.families.commits.observe(took.as_secs_f64());
        self.families.commit_groups.observe(f64::from(u32::try_from(batches).unwrap_or(u32::MAX)));
    }

    /// Adds the running time of a microVM of `account` with this baseline of vCPUs and memory.
    pub fn ran(&self, account: &str, vcpus: f64, memory_mib: u32, time: Duration) {
        let account = self.families.account(account);
        let seconds = time.as_secs_f64();
        self.families.vcpu_seconds.get_or_create(&account).inc_by(vcpus * seconds);
        let gigabytes = f64::from(memory_mib) / 1024.0;
        self.families.gigabyte_seconds.get_or_create(&account).inc_by(gigabytes * seconds);
    }

    /// All metrics in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// Never, as long as memory can be allocated.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn set(family: &families::Gauges, labels: [Label; 1], count: usize) {
    family.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
}
