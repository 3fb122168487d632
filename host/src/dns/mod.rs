//! The host's half of a guest's DNS: no UDP leaves a guest, so its stub sends queries over vsock, and the host queries its own
//! resolvers.
//!
//! A query is hostile. Only one question and a few flags of it are passed on, in a new message with a random id from a random
//! port; a message is accepted as the answer only if it repeats id and question. The addresses in an answer are not checked: what a
//! guest may connect to is decided where packets pass (`network`).

mod message;
mod servers;
mod upstream;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use message::Query;

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
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self { servers: Vec::new(), attempt_timeout_ms: 2000, timeout_ms: 8000, concurrent: 64 }
    }
}

/// Answers the queries of one guest. Each guest has its own, so that a guest with too many queries delays only itself.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    attempt_timeout: Duration,
    timeout: Duration,
    slots: Semaphore,
}

impl Resolver {
    /// A resolver with this configuration.
    #[must_use]
    pub fn new(config: &DnsConfig) -> Self {
        Self {
            servers: config.servers.iter().take(servers::MAX).copied().collect(),
            attempt_timeout: Duration::from_millis(config.attempt_timeout_ms),
            timeout: Duration::from_millis(config.timeout_ms),
            slots: Semaphore::new(config.concurrent.clamp(1, Semaphore::MAX_PERMITS)),
        }
    }

    /// The answer to a DNS message without TCP's length prefix: at most 65,535 bytes, even if the guest's client accepts less over UDP;
    /// SERVFAIL when no server answers in time. Empty if the message must not be answered.
    pub async fn answer(&self, message: &[u8]) -> Vec<u8> {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(answer) => return answer,
        };
        let deadline = Instant::now() + self.timeout;
        let answer = timeout_at(deadline, async {
            // The semaphore is never closed. Without a slot, no server is queried.
            let _slot = self.slots.acquire().await.ok()?;
            self.query_servers(&query).await
        });
        match answer.await {
            Ok(Some(answer)) => query.with_own_id(answer),
            _ => query.failure(ResponseCode::ServFail),
        }
    }

    /// Queries one server after the other, and those that did not answer a second time.
    async fn query_servers(&self, query: &Query) -> Option<Vec<u8>> {
        let configured =
            if self.servers.is_empty() { servers::of_the_host().await } else { self.servers.clone() };
        let mut silent = configured;
        let mut unhelpful = None;
        for _ in 0..2 {
            let mut next = Vec::new();
            for server in silent {
                match timeout(self.attempt_timeout, upstream::exchange(server, query)).await {
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
