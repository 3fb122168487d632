//! Quotas: limits on the rate of calls and on the number and size of resources (docs/behaviour.md, "Quotas").
//!
//! The default profile sets no limits beyond those of the host itself; `aws-strict` has AWS's table. Each limit can be
//! configured.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;

use super::Profile;
use crate::operation::Operation;

/// Service code of all quotas.
pub const SERVICE_CODE: &str = "lambda";

/// A quantity that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Memory of an account's microVMs, in MiB.
    Memory,
    /// Disk that an account takes, in MiB.
    Disk,
    /// Number of an account's images.
    Images,
    /// Number of versions of an image.
    Versions,
    /// Number of an account's builds that run at a time.
    Builds,
    /// Rate of calls to an operation.
    Rate(Operation),
}

impl Quota {
    /// AWS's code of this quota, or a code of Hearth's own where AWS has none.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Memory => "L-CD1C0CC4",
            Self::Disk => "disk",
            Self::Images => "L-942E56BE",
            Self::Versions => "L-F8BECE9C",
            Self::Builds => "L-72E0D058",
            Self::Rate(operation) => match operation {
                Operation::RunMicrovm => "L-535CA9B6",
                Operation::ResumeMicrovm => "L-118C44B3",
                Operation::SuspendMicrovm => "L-90045317",
                Operation::TerminateMicrovm => "L-74787B8A",
                Operation::CreateMicrovmAuthToken => "L-7712260B",
                _ => "request-rate",
            },
        }
    }

    /// The `resourceType` in errors about this quota.
    #[must_use]
    pub fn resource_type(self) -> &'static str {
        match self {
            Self::Versions => "MicrovmImage",
            _ => "Account",
        }
    }

    /// The message of the error when the quota is used up.
    pub(super) fn exceeded(self, limit: u64) -> String {
        match self {
            Self::Memory => {
                "The base maximum allocated memory limit has been reached for this account.".to_owned()
            }
            Self::Disk => {
                format!(
                    "The MicroVMs, images and artifacts of this account take as much disk as they may: {limit} MiB. Delete what is not \
                     needed"
                )
            }
            Self::Images => {
                format!("You have exceeded the maximum number of MicroVM images in this account: {limit}")
            }
            Self::Versions => {
                format!("You have exceeded the maximum number of versions of a MicroVM image: {limit}")
            }
            Self::Builds => {
                format!("You have exceeded the maximum number of concurrent builds in this account: {limit}")
            }
            Self::Rate(operation) => format!("The rate of {operation} is limited to {limit} a second"),
        }
    }
}

/// The limit on calls to an operation, for each account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Sustained calls per second.
    pub per_second: NonZeroU32,
    /// Calls that may come at once.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate; `None` if one of its numbers is 0.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        Some(Self { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    }
}

/// The limits. A quota that is `None`, or missing in `rates`, is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// [`Quota::Memory`], in MiB.
    pub memory_mib: Option<u64>,
    /// [`Quota::Disk`], in MiB.
    pub disk_mib: Option<u64>,
    /// [`Quota::Images`]
    pub images: Option<u64>,
    /// [`Quota::Versions`]
    pub versions: Option<u64>,
    /// [`Quota::Builds`]
    pub builds: Option<u64>,
    /// [`Quota::Rate`]
    pub rates: BTreeMap<Operation, Rate>,
    /// Rate of calls to [`super::sts`], together.
    pub sts: Option<Rate>,
}

/// AWS's limit on calls of an account to STS, per second.
const STS_PER_SECOND: u32 = 600;

impl Limits {
    /// The default limits of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        match profile {
            Profile::Default => Self::default(),
            Profile::AwsStrict => Self::aws(),
        }
    }

    fn aws() -> Self {
        let rates = [
            (Operation::RunMicrovm, 5),
            (Operation::ResumeMicrovm, 5),
            (Operation::SuspendMicrovm, 2),
            (Operation::TerminateMicrovm, 10),
            (Operation::GetMicrovm, 100),
            (Operation::ListMicrovms, 10),
            (Operation::CreateMicrovmAuthToken, 50),
            (Operation::CreateMicrovmShellAuthToken, 5),
        ];
        Self {
            memory_mib: Some(400 << 10),
            disk_mib: None,
            images: Some(100),
            versions: Some(50),
            builds: Some(5),
            rates: rates
                .into_iter()
                .filter_map(|(operation, rate)| Some((operation, Rate::new(rate, rate)?)))
                .collect(),
            sts: Rate::new(STS_PER_SECOND, STS_PER_SECOND),
        }
    }
}

/// Enforces the limits on rates. The other limits are kept by those who know what there is: the drivers of microVMs, and the
/// images.
#[derive(Debug)]
pub struct Quotas {
    clock: Ticks,
    rates: HashMap<Operation, Limiter>,
    sts: Option<Limiter>,
}

/// The rate of calls to an operation is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// The quota.
    pub quota: Quota,
    /// When a call would be accepted.
    pub retry_after: Duration,
}

type Limiter = governor::RateLimiter<String, DashMapStateStore<String>, Ticks, NoOpMiddleware<Duration>>;

/// Tokio's clock as a clock of `governor`, so that tests can pause it.
#[derive(Debug, Clone)]
struct Ticks(tokio::time::Instant);

impl GovernorClock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Quotas {
    /// Enforces the rates of these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let clock = Ticks(tokio::time::Instant::now());
        let limiter = |rate: &Rate| {
            let quota = governor::Quota::per_second(rate.per_second).allow_burst(rate.burst);
            governor::RateLimiter::new(quota, DashMapStateStore::default(), clock.clone())
        };
        let rates = limits.rates.iter().map(|(operation, rate)| (*operation, limiter(rate))).collect();
        let sts = limits.sts.as_ref().map(limiter);
        Self { clock, rates, sts }
    }

    /// Counts a call against the rate limit of its operation.
    ///
    /// # Errors
    ///
    /// [`Throttled`]; a refused call does not count.
    pub fn call(&self, account: &str, operation: Operation) -> Result<(), Throttled> {
        let Some(limiter) = self.rates.get(&operation) else { return Ok(()) };
        self.check(limiter, account)
            .map_err(|retry_after| Throttled { quota: Quota::Rate(operation), retry_after })
    }

    /// Counts a call of STS.
    ///
    /// # Errors
    ///
    /// The time after which a call would be accepted.
    pub fn sts(&self, account: &str) -> Result<(), Duration> {
        self.sts.as_ref().map_or(Ok(()), |limiter| self.check(limiter, account))
    }

    fn check(&self, limiter: &Limiter, account: &str) -> Result<(), Duration> {
        limiter.check_key(&account.to_owned()).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_account_by_account() {
        let quotas = Quotas::new(&Limits::of(Profile::AwsStrict));
        for _ in 0..2 {
            quotas.call("111122223333", Operation::SuspendMicrovm).unwrap();
        }
        let Throttled { quota, retry_after: wait } =
            quotas.call("111122223333", Operation::SuspendMicrovm).unwrap_err();
        assert_eq!(quota.code(), "L-90045317");
        assert_eq!(wait, Duration::from_millis(500));
        quotas.call("444455556666", Operation::SuspendMicrovm).unwrap();
        tokio::time::advance(wait).await;
        quotas.call("111122223333", Operation::SuspendMicrovm).unwrap();
        quotas.call("111122223333", Operation::SuspendMicrovm).unwrap_err();
    }

    #[tokio::test]
    async fn the_default_profile_limits_nothing() {
        let quotas = Quotas::new(&Limits::of(Profile::Default));
        for _ in 0..1000 {
            quotas.call("111122223333", Operation::RunMicrovm).unwrap();
        }
    }
}
