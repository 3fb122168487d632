//! The status of the host, and gauges that no notification updates.

use std::time::Duration;

use hearth_proto::host::v1::{AccountDisk, EndpointStatus, HostStatus, Pool};
use prost_types::Timestamp;

use super::foundation::Foundation;
use super::host_info::{self, SupportedHost};
use super::workloads::Workloads;
use crate::audit::Audit;
use crate::builds::{Images, generation};
use crate::config::Config;
use crate::disk::Disk;
use crate::driver::Microvms;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::panics;
use crate::platform::host::HostPlatform;

/// Interval at which gauges are read that no notification updates.
const GAUGES: Duration = Duration::from_secs(5);

/// What the status of the host is read from.
#[derive(Clone)]
pub(super) struct HostStatusSource {
    host: SupportedHost,
    microvms: Microvms,
    images: Images,
    platform: HostPlatform,
    disk: Disk,
    logs: Logs,
    started: Timestamp,
    audit: Audit,
    endpoint: Option<EndpointStatus>,
    config: Config,
}

impl HostStatusSource {
    /// Reads the status from these parts; `endpoint`: the addresses of endpoints, if they are enabled.
    pub(super) fn new(
        foundation: &Foundation,
        workloads: &Workloads,
        endpoint: Option<EndpointStatus>,
    ) -> Self {
        Self {
            host: workloads.host.clone(),
            microvms: workloads.microvms.clone(),
            images: workloads.images.clone(),
            platform: workloads.platform.clone(),
            disk: workloads.disk.clone(),
            logs: foundation.logs.clone(),
            started: foundation.started,
            audit: foundation.audit.clone(),
            endpoint,
            config: foundation.config.clone(),
        }
    }

    /// The status of the host, for an account.
    pub(super) fn status(&self, account: &str) -> HostStatus {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let small = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        let (capacity, reserved) = self.microvms.capacity();
        let (disk_total, disk_free) = host_info::disk(&self.config.data);
        let pools = self.platform.pools().into_iter();
        let states = self.microvms.states().into_iter().filter(|(_, count)| *count > 0);
        HostStatus {
            artifact_limits: None, // the service knows them
            endpoint: self.endpoint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            region: self.config.region.clone(),
            account: account.to_owned(),
            profile: self.config.service().profile.name().to_owned(),
            started_at: Some(self.started),
            processor: format!("GRAVITON {}", generation::of_host()),
            cpus: small(self.host.cpus()),
            memory_bytes: number(self.host.memory_mib().saturating_mul(1 << 20)),
            capacity_mib: number(capacity),
            reserved_mib: number(reserved),
            microvms: states.map(|(state, count)| (state.to_owned(), i64::from(small(count)))).collect(),
            builds_under_way: small(self.images.builds_under_way()),
            pools: pools
                .map(|pool| Pool { name: pool.name, ready: small(pool.ready), wanted: small(pool.wanted) })
                .collect(),
            disk_total_bytes: number(disk_total),
            disk_free_bytes: number(disk_free),
            kernel: self.host.kernel().to_owned(),
            account_status: None, // the service knows it
            account_disks: self
                .disk
                .accounts()
                .into_iter()
                .map(|(account, disk)| AccountDisk {
                    account,
                    bytes: number(disk.taken),
                    room_bytes: number(disk.room),
                })
                .collect(),
        }
    }

    /// Updates gauges that no notification updates, periodically and for ever.
    pub(super) async fn keep_updating(self, metrics: Metrics) {
        loop {
            let (capacity, reserved) = self.microvms.capacity();
            metrics.capacity(capacity, reserved);
            metrics.builds_under_way(self.images.builds_under_way());
            for (state, count) in self.microvms.states() {
                metrics.microvms(state, count);
            }
            metrics.log_bytes(self.logs.stored_bytes());
            metrics.disks(self.disk.accounts(), self.disk.waiting());
            metrics.audit_lines_lost(self.audit.lost());
            metrics.request_panics(panics::caught());
            for pool in self.platform.pools() {
                metrics.pool(&pool.name, pool.ready, pool.wanted);
            }
            tokio::time::sleep(GAUGES).await;
        }
    }
}
