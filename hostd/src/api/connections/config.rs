//! The sections `[listen.connections]` and `[aws.connections]` of the configuration.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::Problem;

/// What connections may take up. Each listener has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionLimits {
    /// Connections at a time. When there are as many, the oldest one over which no caller was known makes room for another, and so do
    /// those of an account beyond half of them; if there are none, others wait until one ends.
    #[schemars(range(min = 1, max = 65_536))]
    pub total: usize,
    /// Connections of one client at a time; others are closed at once. A client is an address, of IPv6 a network with a
    /// prefix of 64 bits, at a Unix socket a user.
    #[schemars(range(min = 1, max = 65_536))]
    pub per_client: usize,
    /// How long a client may take for the TLS handshake, and then for its first bytes, in seconds.
    #[schemars(range(min = 1, max = 600))]
    pub handshake_seconds: u64,
    /// How long a connection is kept on which no request is answered, none comes and no part of a response is taken, in
    /// seconds. A stream of events that waits for the next one is no idle connection.
    #[schemars(range(min = 1, max = 86_400))]
    pub idle_seconds: u64,
    /// Requests at a time on one connection of HTTP/2; a client sends others when one of them is answered.
    #[schemars(range(min = 1, max = 65_536))]
    pub streams: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { total: 1024, per_client: 256, handshake_seconds: 10, idle_seconds: 60, streams: 128 }
    }
}

impl ConnectionLimits {
    /// Connections of one account that need not make room.
    pub(super) fn of_account(&self) -> usize {
        (self.total / 2).max(1)
    }

    pub(super) fn handshake(&self) -> Duration {
        Duration::from_secs(self.handshake_seconds)
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    /// What cannot work. `section`: the name of the section.
    #[must_use]
    pub fn problems(&self, section: &str) -> Vec<Problem> {
        let long = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let ranges = [
            ("total", long(self.total), 65_536),
            ("per_client", long(self.per_client), 65_536),
            ("handshake_seconds", self.handshake_seconds, 600),
            ("idle_seconds", self.idle_seconds, 86_400),
            ("streams", u64::from(self.streams), 65_536),
        ];
        let outside = ranges.into_iter().filter(|(_, value, most)| !(1..=*most).contains(value));
        let problem = |(key, _, most)| Problem::new(format!("{section}.{key}"), format!("write 1 to {most}"));
        outside.map(problem).collect()
    }
}
