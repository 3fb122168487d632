//! Quotas: limits on the rate of calls and on the number and size of resources (docs/behaviour.md, "Quotas").
//!
//! The default profile sets no limits beyond those of the host itself; `aws-strict` has AWS's table. Each limit can be
//! configured.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;

use super::Profile;
use super::error::{LimitError, ServiceError};
use crate::operation::Operation;
use crate::panics::poisoned;

/// Service code of all quotas.
pub const SERVICE_CODE: &str = "lambda";

/// A quantity that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Memory of an account's microVMs, in MiB.
    Memory,
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
            Self::Memory => format!(
                "You have exceeded the maximum memory of running and suspended MicroVMs in this account: {limit} MiB"
            ),
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
    /// [`Quota::Images`]
    pub images: Option<u64>,
    /// [`Quota::Versions`]
    pub versions: Option<u64>,
    /// [`Quota::Builds`]
    pub builds: Option<u64>,
    /// [`Quota::Rate`]
    pub rates: BTreeMap<Operation, Rate>,
}

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
            images: Some(100),
            versions: Some(50),
            builds: Some(5),
            rates: rates
                .into_iter()
                .filter_map(|(operation, rate)| Some((operation, Rate::new(rate, rate)?)))
                .collect(),
        }
    }

    fn of_quota(&self, quota: Quota) -> Option<u64> {
        match quota {
            Quota::Memory => self.memory_mib,
            Quota::Images => self.images,
            Quota::Versions => self.versions,
            Quota::Builds => self.builds,
            Quota::Rate(operation) => self.rates.get(&operation).map(|rate| u64::from(rate.per_second.get())),
        }
    }
}

/// Enforces the limits.
#[derive(Debug)]
pub struct Quotas {
    limits: Limits,
    clock: Ticks,
    rates: HashMap<Operation, Limiter>,
    promised: Arc<Mutex<Promised>>,
}

/// Memory promised to launches that may not be in the store yet: MiB by account and microVM id.
type Promised = HashMap<(String, String), u64>;

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
    /// Enforces these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let clock = Ticks(tokio::time::Instant::now());
        let limiter = |rate: &Rate| {
            let quota = governor::Quota::per_second(rate.per_second).allow_burst(rate.burst);
            governor::RateLimiter::new(quota, DashMapStateStore::default(), clock.clone())
        };
        let rates = limits.rates.iter().map(|(operation, rate)| (*operation, limiter(rate))).collect();
        Self { limits, clock, rates, promised: Arc::default() }
    }

    /// Counts a call against the rate limit of its operation.
    ///
    /// # Errors
    ///
    /// [`LimitError::Throttled`]; a refused call does not count.
    pub fn call(&self, account: &str, operation: Operation) -> Result<(), LimitError> {
        let Some(limiter) = self.rates.get(&operation) else { return Ok(()) };
        limiter.check_key(&account.to_owned()).map_err(|not_until| {
            let retry_after = not_until.wait_time_from(self.clock.now());
            LimitError::Throttled { quota: Quota::Rate(operation), retry_after }
        })
    }

    /// The limit of a quota, if it has one. Callers need not count what is not limited.
    #[must_use]
    pub fn limit(&self, quota: Quota) -> Option<u64> {
        self.limits.of_quota(quota)
    }

    /// Checks that one more may be added to `used` existing ones; `resource` is the account or the image that the quota
    /// belongs to.
    ///
    /// # Errors
    ///
    /// [`LimitError::QuotaExceeded`].
    pub fn one_more(&self, quota: Quota, used: u64, resource: &str) -> Result<(), LimitError> {
        match self.limit(quota) {
            Some(limit) if used >= limit => {
                Err(LimitError::QuotaExceeded { quota, limit, resource: resource.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Reserves memory for the launch of a microVM until the returned promise is dropped. By then the microVM must be
    /// in the store. `stored` returns the account's microVMs that count and their memory in MiB; it is called only if
    /// there is a limit.
    ///
    /// # Errors
    ///
    /// [`LimitError::QuotaExceeded`], and those of `stored`.
    pub fn promise(
        &self,
        account: &str,
        id: &str,
        mib: u64,
        stored: impl FnOnce() -> Result<Vec<(String, u64)>, ServiceError>,
    ) -> Result<Promise, ServiceError> {
        let Some(limit) = self.limits.memory_mib else { return Ok(Promise { of: None }) };
        let mut promised = self.promised.lock().unwrap_or_else(poisoned);
        // A microVM that is both promised and stored counts once.
        let mut used: HashMap<String, u64> = stored()?.into_iter().collect();
        let of_account = promised.iter().filter(|((owner, _), _)| owner == account);
        used.extend(of_account.map(|((_, id), mib)| (id.clone(), *mib)));
        if used.values().fold(mib, |sum, mib| sum.saturating_add(*mib)) > limit {
            let resource = account.to_owned();
            return Err(LimitError::QuotaExceeded { quota: Quota::Memory, limit, resource }.into());
        }
        let key = (account.to_owned(), id.to_owned());
        promised.insert(key.clone(), mib);
        drop(promised);
        Ok(Promise { of: Some((Arc::clone(&self.promised), key)) })
    }
}

/// Account and microVM id.
type Key = (String, String);

/// Memory that is reserved for a launch.
#[derive(Debug)]
#[must_use = "it is taken back when this is dropped"]
pub struct Promise {
    of: Option<(Arc<Mutex<Promised>>, Key)>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some((promised, key)) = self.of.take() {
            promised.lock().unwrap_or_else(poisoned).remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_account_by_account() {
        let quotas = Quotas::new(Limits::of(Profile::AwsStrict));
        for _ in 0..2 {
            quotas.call("111122223333", Operation::SuspendMicrovm).unwrap();
        }
        let error = ServiceError::from(quotas.call("111122223333", Operation::SuspendMicrovm).unwrap_err());
        assert_eq!(error.exception().http_status, 429);
        assert_eq!(error.quota().unwrap().code(), "L-90045317");
        let wait = error.retry_after().unwrap();
        assert_eq!(wait, Duration::from_millis(500));
        quotas.call("444455556666", Operation::SuspendMicrovm).unwrap();
        tokio::time::advance(wait).await;
        quotas.call("111122223333", Operation::SuspendMicrovm).unwrap();
        quotas.call("111122223333", Operation::SuspendMicrovm).unwrap_err();
    }

    #[tokio::test]
    async fn the_default_profile_limits_nothing() {
        let quotas = Quotas::new(Limits::of(Profile::Default));
        for _ in 0..1000 {
            quotas.call("111122223333", Operation::RunMicrovm).unwrap();
        }
        quotas.one_more(Quota::Images, u64::MAX, "111122223333").unwrap();
        let _promise =
            quotas.promise("111122223333", "microvm-1", u64::MAX, || panic!("nobody limits it")).unwrap();
    }

    #[tokio::test]
    async fn memory_counts_once_from_its_promise_on() {
        let quotas = Quotas::new(Limits { memory_mib: Some(4096), ..Limits::default() });
        let promise = |account, id, mib, stored: &[(&str, u64)]| {
            let stored = stored.iter().map(|(id, mib)| ((*id).to_owned(), *mib)).collect();
            quotas.promise(account, id, mib, || Ok(stored))
        };
        let one = promise("111122223333", "1", 2048, &[]).unwrap();
        let _other = promise("111122223333", "2", 2048, &[]).unwrap();
        let error = promise("111122223333", "3", 512, &[]).unwrap_err();
        assert_eq!((error.exception().http_status, error.quota()), (402, Some(Quota::Memory)));
        assert_eq!(error.resource().unwrap().id, "111122223333");
        let _of_another = promise("444455556666", "4", 4096, &[]).unwrap();
        drop(one); // this launch failed
        let _third = promise("111122223333", "5", 2048, &[("2", 2048)]).unwrap();
        promise("111122223333", "6", 512, &[("2", 2048), ("5", 2048)]).unwrap_err();
    }

    #[tokio::test]
    async fn counts_are_limited() {
        let quotas = Quotas::new(Limits::of(Profile::AwsStrict));
        quotas.one_more(Quota::Images, 99, "111122223333").unwrap();
        let error = ServiceError::from(quotas.one_more(Quota::Images, 100, "111122223333").unwrap_err());
        assert_eq!(error.quota().unwrap().code(), "L-942E56BE");
        let error = quotas.one_more(Quota::Builds, 5, "111122223333").unwrap_err();
        assert!(error.to_string().contains("maximum number of concurrent builds"), "{error}");
    }
}
