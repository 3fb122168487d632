//! Errors about limits: quotas, rates, the capacity of the host.

use std::time::Duration;

use super::exception::{Family, Kind, RETRY, Resource};
use crate::disk::DiskError;
use crate::driver::Full;
use crate::service::quota::Quota;
use crate::turns::Busy;

/// Errors about limits: quotas, rates, the capacity of the host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LimitError {
    /// A quota on a number or an amount is used up.
    #[error("{}", .quota.exceeded(*.limit))]
    QuotaExceeded {
        /// The quota.
        quota: Quota,
        /// The limit of the quota.
        limit: u64,
        /// The account or the image that the quota belongs to.
        resource: String,
    },
    /// The rate limit of the operation is exceeded.
    #[error("Rate exceeded")]
    Throttled {
        /// The quota of the rate.
        quota: Quota,
        /// Time after which the call may be repeated.
        retry_after: Duration,
    },
    /// Too many requests of the account wait for their turn.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The host has not enough free memory.
    #[error(
        "There is not enough capacity: the host has {free_mib} MiB free of the {needed_mib} MiB that this takes. Retry the request later."
    )]
    Capacity {
        /// Memory that the operation needs.
        needed_mib: u64,
        /// Memory that is free.
        free_mib: u64,
    },
    /// The host's disk is too full.
    #[error(
        "There is not enough capacity: the host's disk is full. Delete what is not needed, or retry the request later."
    )]
    DiskFull,
    /// The account has so much of the disk that too little would be left for others.
    #[error(
        "There is not enough capacity: this account has most of the host's disk, and the rest is for others. Delete what is not \
         needed, or retry the request later."
    )]
    DiskShare,
}

impl LimitError {
    /// The error when the disk has no room for something of an account.
    pub(crate) fn of_disk(error: DiskError, account: &str) -> Self {
        match error {
            // How full the host is is its operator's business.
            DiskError::Full { .. } | DiskError::Files { .. } => Self::DiskFull,
            DiskError::Share { .. } => Self::DiskShare,
            DiskError::Quota(limit) => {
                Self::QuotaExceeded { quota: Quota::Disk, limit, resource: account.to_owned() }
            }
        }
    }

    /// The quota that is used up.
    pub(super) fn quota(&self) -> Option<Quota> {
        match self {
            Self::QuotaExceeded { quota, .. } | Self::Throttled { quota, .. } => Some(*quota),
            Self::Busy(_) | Self::Capacity { .. } | Self::DiskFull | Self::DiskShare => None,
        }
    }

    /// Time after which the client should retry.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QuotaExceeded { .. } => None,
            Self::Throttled { retry_after, .. } => Some(*retry_after),
            Self::Busy(_) | Self::Capacity { .. } | Self::DiskFull | Self::DiskShare => Some(RETRY),
        }
    }
}

impl Family for LimitError {
    fn kind(&self) -> Kind {
        match self {
            Self::QuotaExceeded { .. } => Kind::Quota,
            Self::Throttled { .. } | Self::Busy(_) => Kind::Throttling,
            Self::Capacity { .. } | Self::DiskFull | Self::DiskShare => Kind::Capacity,
        }
    }

    fn resource(&self) -> Option<Resource> {
        match self {
            Self::QuotaExceeded { quota, resource, .. } => {
                Some(Resource { kind: quota.resource_type(), id: resource.clone() })
            }
            Self::Throttled { .. }
            | Self::Busy(_)
            | Self::Capacity { .. }
            | Self::DiskFull
            | Self::DiskShare => None,
        }
    }
}

impl From<Full> for LimitError {
    fn from(Full { needed_mib, free_mib }: Full) -> Self {
        Self::Capacity { needed_mib, free_mib }
    }
}
