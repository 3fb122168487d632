//! The host's half of a guest's DNS: no UDP leaves a guest, so its stub sends queries over vsock, and the host queries its own
//! resolvers.
//!
//! A query is hostile. Only one question and a few flags of it are passed on, in a new message with a random id from a random
//! port; a message is accepted as the answer only if it repeats id and question. The addresses in an answer are not checked: what a
//! guest may connect to is decided where packets pass (`network`).
//!
//! A query takes these steps: it is parsed, answered from what its account's guests were answered a short while ago (`cache`), or waits for
//! a free place of its guest, then until guest and account are within their rates (`budget`), and goes to the servers (`servers`,
//! `upstream`). Each query gets an answer; what is over a rate for too long gets SERVFAIL.

mod budget;
mod cache;
mod message;
mod records;
mod servers;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use budget::Budget;
use cache::Cache;
use message::Query;
use servers::Servers;

/// The longest that a query waits until it is within the rates; one that would have to wait longer is answered SERVFAIL at once. Clients
/// wait for five seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nothing is said again of an account whose queries are over its rate.
const TOLD: Duration = Duration::from_secs(60);

const RATE_MIN: u32 = 1;
const RATE_MAX: u32 = 1_000_000;

/// How names are resolved for microVMs: the host asks for them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// Servers to ask, `"ADDRESS:PORT"`, at most three; those of `/etc/resolv.conf` unless given.
    pub servers: Vec<SocketAddr>,
    /// How long to wait for a server's answer, in milliseconds.
    pub attempt_timeout_ms: u64,
    /// How long to work on a query altogether, in milliseconds.
    pub timeout_ms: u64,
    /// Queries of a guest that are under way at once; more wait.
    pub concurrent: usize,
    /// Queries per second of a guest that go to the servers, and four times as many at once. What is over it waits for up to two
    /// seconds, and is answered SERVFAIL beyond that.
    #[schemars(range(min = RATE_MIN, max = RATE_MAX))]
    pub rate: u32,
    /// The same for all microVMs and builds of an account together.
    #[schemars(range(min = RATE_MIN, max = RATE_MAX))]
    pub account_rate: u32,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            attempt_timeout_ms: 2000,
            timeout_ms: 8000,
            concurrent: 64,
            rate: 250,
            account_rate: 2000,
        }
    }
}

impl DnsConfig {
    /// The first key whose value is out of range, and the range.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let rates = [("rate", self.rate), ("account_rate", self.account_rate)];
        let (key, _) = rates.into_iter().find(|(_, rate)| !(RATE_MIN..=RATE_MAX).contains(rate))?;
        Some((key, format!("write {RATE_MIN} to {RATE_MAX} queries per second")))
    }
}

/// The resolvers of this host's guests. Clones are cheap and share budgets and answers.
#[derive(Clone, Debug)]
pub struct Resolvers {
    shared: Arc<Shared>,
}

/// What all resolvers share.
#[derive(Debug)]
struct Shared {
    config: DnsConfig,
    servers: Servers,
    accounts: Mutex<HashMap<String, Arc<Account>>>,
}

/// What the resolvers of one account share.
#[derive(Debug)]
struct Account {
    name: String,
    budget: Budget,
    cache: Cache,
    /// When it was last said that queries are over the rate.
    told: Mutex<Option<Instant>>,
}

impl Account {
    /// Says in the log, at most once a minute, that queries of the account are over its rate.
    fn tell(&self, now: Instant) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD) {
            *told = Some(now);
            tracing::warn!(account = self.name, "name queries over dns.account_rate are answered SERVFAIL");
        }
    }
}

impl Resolvers {
    /// Resolvers with this configuration.
    #[must_use]
    pub fn new(config: DnsConfig) -> Self {
        let servers = Servers::new(&config.servers);
        Self { shared: Arc::new(Shared { config, servers, accounts: Mutex::default() }) }
    }

    /// A resolver for a guest of this account.
    #[must_use]
    pub fn of_guest(&self, account: &str) -> Resolver {
        let config = &self.shared.config;
        let account = {
            let mut accounts = self.shared.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            // An account without guests is forgotten once it has paid for its last queries.
            let now = Instant::now();
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.budget.is_full(now));
            let new = || Account {
                name: account.to_owned(),
                budget: Budget::new(config.account_rate),
                cache: Cache::default(),
                told: Mutex::default(),
            };
            Arc::clone(accounts.entry(account.to_owned()).or_insert_with(|| Arc::new(new())))
        };
        Resolver {
            shared: Arc::clone(&self.shared),
            account,
            budget: Budget::new(config.rate),
            slots: Semaphore::new(config.concurrent.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }
}

/// Answers the queries of one guest. Each guest has its own, so that a guest with too many queries delays only itself.
#[derive(Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
    account: Arc<Account>,
    budget: Budget,
    slots: Semaphore,
}

impl Resolver {
    /// The answer to a DNS message without TCP's length prefix: at most 65,535 bytes, even if the guest's client accepts less over UDP;
    /// SERVFAIL when no server answers in time, or the guest or its account is too far over its rate. Empty if the message must not be
    /// answered.
    pub async fn answer(&self, message: &[u8]) -> Vec<u8> {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(answer) => return answer,
        };
        let Some(key) = query.key() else { return query.failure(ResponseCode::ServFail) };
        let now = Instant::now();
        if let Some(answer) = self.account.cache.get(&key, now) {
            return query.with_own_id(query.with_own_name(answer));
        }
        let deadline = now + Duration::from_millis(self.shared.config.timeout_ms);
        let answer = timeout_at(deadline, async {
            // The semaphore is never closed. Without a slot, no server is queried.
            let _slot = self.slots.acquire().await.ok()?;
            self.within_the_rates().await?;
            self.query_servers(&query).await
        });
        match answer.await {
            Ok(Some(answer)) => {
                if message::is_final(&answer) {
                    self.account.cache.put(&key, &answer, Instant::now());
                }
                query.with_own_id(answer)
            }
            _ => query.failure(ResponseCode::ServFail),
        }
    }

    /// Waits until a query is within the rates of guest and account; none if that would take too long.
    async fn within_the_rates(&self) -> Option<()> {
        let now = Instant::now();
        let latest = now + PATIENCE;
        let goes = self.budget.take(now, latest)?;
        let Some(all_go) = self.account.budget.take(now, latest) else {
            self.account.tell(now);
            return None;
        };
        let goes = goes.max(all_go);
        if goes > now {
            sleep_until(goes).await;
        }
        Some(())
    }

    /// Queries one server after the other, and those that did not answer a second time.
    async fn query_servers(&self, query: &Query) -> Option<Vec<u8>> {
        let attempt = Duration::from_millis(self.shared.config.attempt_timeout_ms);
        let mut silent = self.shared.servers.now(Instant::now()).to_vec();
        let mut unhelpful = None;
        for _ in 0..2 {
            let mut next = Vec::new();
            for server in silent {
                match timeout(attempt, upstream::exchange(server, query)).await {
                    Ok(Ok(answer)) if message::is_final(&answer) => return Some(answer),
                    // Another server may have a better answer.
                    Ok(Ok(answer)) => unhelpful = Some(answer),
                    Ok(Err(_)) | Err(_) => next.push(server),
                }
            }
            silent = next;
        }
        unhelpful
    }
}

#[cfg(test)]
mod tests;
