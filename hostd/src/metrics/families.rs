//! The metrics by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::panics::poisoned;

/// Most different values of labels; further ones become `other`. The program itself uses far fewer.
const MOST_VALUES: usize = 512;

pub(super) type Label = (&'static str, Cow<'static, str>);
pub(super) type Gauges = Family<[Label; 1], Gauge>;
/// Counters with fractions.
type Amounts = Family<[Label; 1], Counter<f64, AtomicU64>>;
type Counts<const N: usize> = Family<[Label; N], Counter>;

/// Durations by labels.
#[derive(Clone)]
pub(super) struct Durations<const N: usize>(Family<[Label; N], Histogram, Buckets>);

/// Exponential buckets: the first one ends at `.0` seconds, each further one at twice the value, `.1` in number.
#[derive(Clone, Copy)]
struct Buckets(f64, u16);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.0, 2.0, self.1))
    }
}

impl<const N: usize> Durations<N> {
    fn register(registry: &mut Registry, name: &str, help: &str, buckets: Buckets) -> Self {
        let family = Family::new_with_constructor(buckets);
        registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        Self(family)
    }

    pub(super) fn observe(&self, labels: [Label; N], took: Duration) {
        self.0.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

impl<const N: usize> fmt::Debug for Durations<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

/// All metrics.
#[derive(Debug, Clone)]
pub(super) struct Families {
    values: Arc<Mutex<BTreeSet<String>>>,
    pub(super) launches: Durations<1>,
    pub(super) suspends: Durations<1>,
    pub(super) resumes: Durations<1>,
    pub(super) steps: Durations<2>,
    pub(super) builds: Durations<1>,
    pub(super) build_steps: Durations<1>,
    pub(super) calls: Durations<2>,
    pub(super) commits: Histogram,
    pub(super) commit_groups: Histogram,
    pub(super) microvms: Gauges,
    pub(super) pool_ready: Gauges,
    pub(super) pool_wanted: Gauges,
    pub(super) memory_capacity: Gauge,
    pub(super) memory_reserved: Gauge,
    pub(super) builds_under_way: Gauge,
    pub(super) log_bytes: Gauge,
    pub(super) account_disk: Gauges,
    pub(super) account_disk_room: Gauges,
    pub(super) disk_waiting: Gauge,
    /// Accounts that had something on the disk when that was set last.
    with_disk: Arc<Mutex<BTreeSet<String>>>,
    pub(super) hooks: Counts<2>,
    pub(super) memory_kills: Counter,
    pub(super) audit_lines_lost: Counter,
    pub(super) request_panics: Counter,
    pub(super) scrub_errors: Counter,
    pub(super) scrub_read: Counter,
    pub(super) scrub_last: Gauge,
    pub(super) vcpu_seconds: Amounts,
    pub(super) gigabyte_seconds: Amounts,
    pub(super) endpoint_requests: Counts<1>,
    pub(super) endpoint_refusals: Counts<1>,
    pub(super) endpoint_waits: Durations<1>,
    pub(super) endpoint_connections: Gauge,
}

/// From 1 ms to 33 s.
const OPERATION: Buckets = Buckets(0.001, 16);
/// From 0.1 ms to 52 s.
const STEP: Buckets = Buckets(0.0001, 20);
/// From 0.1 s to 55 minutes.
const BUILD: Buckets = Buckets(0.1, 16);
/// From 50 µs to 1.6 s.
const COMMIT: Buckets = Buckets(0.000_05, 16);

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The release of the daemon", version);
        let r = registry;
        Self {
            values: Arc::default(),
            launches: Durations::register(
                r,
                "launch",
                "From the request of a microVM until it runs",
                OPERATION,
            ),
            suspends: Durations::register(
                r,
                "suspend",
                "From the request of a suspend to its end",
                OPERATION,
            ),
            resumes: Durations::register(
                r,
                "resume",
                "From the request of a resume until it runs",
                OPERATION,
            ),
            steps: Durations::register(r, "step", "Steps of launches, suspends, resumes", STEP),
            builds: Durations::register(r, "image_build", "Builds of images", BUILD),
            build_steps: Durations::register(r, "image_build_step", "Steps of builds of images", BUILD),
            calls: Durations::register(r, "api_call", "Operations of the API by gRPC code", STEP),
            commits: {
                let commits = COMMIT.new_metric();
                r.register_with_unit(
                    "store_commit",
                    "Groups of changes made durable",
                    Unit::Seconds,
                    commits.clone(),
                );
                commits
            },
            commit_groups: added(
                r,
                "store_commit_group_size",
                "Changes that were made durable together",
                Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            ),
            microvms: added(r, "microvms", "MicroVMs by state", Gauges::default()),
            pool_ready: added(
                r,
                "pool_ready",
                "Things that are ready before they are needed",
                Gauges::default(),
            ),
            pool_wanted: added(r, "pool_wanted", "How many of them there should be", Gauges::default()),
            memory_capacity: sized(
                r,
                "host_memory_capacity",
                "What microVMs may have by their baselines",
                Gauge::default(),
            ),
            memory_reserved: sized(
                r,
                "host_memory_reserved",
                "What those that run have by their baselines",
                Gauge::default(),
            ),
            builds_under_way: added(r, "builds_under_way", "Builds of images that go on", Gauge::default()),
            log_bytes: sized(r, "logs_stored", "All log groups", Gauge::default()),
            account_disk: sized(r, "account_disk", "What accounts have on the disk", Gauges::default()),
            account_disk_room: sized(
                r,
                "account_disk_room",
                "What accounts may have more on the disk, as much as is left for all",
                Gauges::default(),
            ),
            disk_waiting: added(
                r,
                "disk_waiting_microvms",
                "MicroVMs whose writes wait since their accounts may have no more of the disk",
                Gauge::default(),
            ),
            with_disk: Arc::default(),
            hooks: added(r, "hook_calls", "Hooks by what became of them", Counts::default()),
            memory_kills: added(
                r,
                "microvm_memory_kills",
                "Processes in microVMs that their kernels killed because no memory was left, by what the guests say, at most one a second of each",
                Counter::default(),
            ),
            audit_lines_lost: added(
                r,
                "audit_lines_lost",
                "Lines that could not be written to the audit log",
                Counter::default(),
            ),
            scrub_errors: added(
                r,
                "scrub_errors",
                "Files of images and suspended states that were found damaged, of which the log tells",
                Counter::default(),
            ),
            scrub_read: sized(r, "scrub_read", "What was read to find damage", Counter::default()),
            scrub_last: {
                let last = Gauge::default();
                let help = "When an image or a suspended state was verified last, since 1970";
                r.register_with_unit("scrub_last", help, Unit::Seconds, last.clone());
                last
            },
            request_panics: added(
                r,
                "request_panics",
                "Requests that a fault of the daemon has ended, of which its log tells",
                Counter::default(),
            ),
            vcpu_seconds: added(
                r,
                "usage_vcpu_seconds",
                "Baseline vCPUs times seconds of running",
                Amounts::default(),
            ),
            gigabyte_seconds: added(
                r,
                "usage_memory_gigabyte_seconds",
                "Baseline memory (GiB) times seconds of running",
                Amounts::default(),
            ),
            endpoint_requests: added(
                r,
                "endpoint_requests",
                "Requests to endpoints by what they were answered with",
                Counts::default(),
            ),
            endpoint_refusals: added(
                r,
                "endpoint_refusals",
                "Connections to endpoints that were closed, and requests that were refused, by the limit that was reached",
                Counts::default(),
            ),
            endpoint_waits: Durations::register(
                r,
                "endpoint_wait",
                "How long requests have waited for a microVM that was not ready",
                OPERATION,
            ),
            endpoint_connections: added(
                r,
                "endpoint_connections",
                "Connections of clients to endpoints",
                Gauge::default(),
            ),
        }
    }

    /// A label's value, replaced by `other` if there are too many values.
    pub(super) fn bounded(&self, value: &str) -> Cow<'static, str> {
        let mut values = self.values.lock().unwrap_or_else(poisoned);
        if !values.contains(value) {
            if values.len() >= MOST_VALUES {
                return "other".into();
            }
            values.insert(value.to_owned());
        }
        Cow::Owned(value.to_owned())
    }

    /// Records who has something on the disk now, and returns who had and has not any more.
    pub(super) fn gone<T>(&self, accounts: &BTreeMap<String, T>) -> Vec<String> {
        let now: BTreeSet<String> = accounts.keys().cloned().collect();
        let mut with_disk = self.with_disk.lock().unwrap_or_else(poisoned);
        let gone = with_disk.difference(&now).cloned().collect();
        *with_disk = now;
        gone
    }

    /// The label of an account. Accounts are few: the configuration names them.
    pub(super) fn account(&self, account: &str) -> [Label; 1] {
        [("account", self.bounded(account))]
    }
}

fn added<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a metric in bytes.
fn sized<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}
