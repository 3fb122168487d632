//! The section `[endpoint.connections]` of the configuration.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::setting::Problem;

/// Greatest number of connections, and of requests: as many as a process may have descriptors.
const MOST: usize = 1 << 20;
const MIB: usize = 1 << 20;

/// What connections to endpoints may take up. It always holds, whatever `endpoint.limits` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConnections {
    /// Connections at a time. When there are as many, the one that is open longest without a valid token makes room for
    /// a new one; if all have one, new ones wait.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub total: usize,
    /// Connections of one client that has sent no valid token on them; others are closed at once. A client is an address, of
    /// IPv6 a network with a prefix of 64 bits.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub per_client: usize,
    /// Connections with a token for microVMs of one account; three quarters of `total` unless given. Requests on others get 429.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub per_account: Option<usize>,
    /// Connections with a token for one microVM; half of `total` unless given. Requests on others get 429.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub per_microvm: Option<usize>,
    /// Requests, WebSockets and shells of one account that are under way; others get 429.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub requests_per_account: usize,
    /// Requests, WebSockets and shells of one microVM that are under way; others get 429.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub requests_per_microvm: usize,
    /// What clients of one account may have sent before apps take it, and what they have not taken of answers, in MiB: up to 2 MiB of each
    /// request over HTTP/2 until its body has ended – of a gRPC stream in both directions as long as it is open –, 4 MiB of requests and 4 MiB of answers for each connection, 1 MiB for each shell. Beyond it a connection gets the next 64 KiB of answers
    /// when it has taken what it got, and new uploads and shells get 429.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub buffered_mib_per_account: usize,
    /// How long a client may take for the TLS handshake, in seconds.
    #[schemars(range(min = 1, max = 600))]
    pub handshake_seconds: u64,
    /// How long it may take from then on to a request with a valid token, in seconds.
    #[schemars(range(min = 1, max = 600))]
    pub first_request_seconds: u64,
    /// How long a client may take nothing of what it is sent, or leave the question unanswered whether it is there, in
    /// seconds; its connection ends then. The questions are TCP's, and in a shell WebSocket's.
    #[schemars(range(min = 1, max = 86_400))]
    pub keep_alive_seconds: u64,
}

impl Default for EndpointConnections {
    fn default() -> Self {
        Self {
            total: 16_384,
            per_client: 4096,
            per_account: None,
            per_microvm: None,
            requests_per_account: 12_288,
            requests_per_microvm: 8192,
            buffered_mib_per_account: 4096,
            handshake_seconds: 10,
            first_request_seconds: 30,
            keep_alive_seconds: 300,
        }
    }
}

impl EndpointConnections {
    /// Connections of one account.
    #[must_use]
    pub fn of_account(&self) -> usize {
        self.per_account.unwrap_or(self.total.saturating_sub(self.total / 4).max(1))
    }

    /// Connections of one microVM.
    #[must_use]
    pub fn of_microvm(&self) -> usize {
        self.per_microvm.unwrap_or((self.total / 2).max(1))
    }

    /// Bytes of one account.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffered_mib_per_account.saturating_mul(MIB)
    }

    /// Timeout of a TLS handshake.
    #[must_use]
    pub fn handshake(&self) -> Duration {
        Duration::from_secs(self.handshake_seconds)
    }

    /// Time from the handshake to the first request with a valid token.
    #[must_use]
    pub fn first_request(&self) -> Duration {
        Duration::from_secs(self.first_request_seconds)
    }

    /// Time after which a client that answers nothing is gone.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds)
    }

    /// Values that are out of range.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let long = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let most = long(MOST);
        let ranges = [
            ("total", long(self.total), most),
            ("per_client", long(self.per_client), most),
            ("per_account", long(self.of_account()), most),
            ("per_microvm", long(self.of_microvm()), most),
            ("requests_per_account", long(self.requests_per_account), most),
            ("requests_per_microvm", long(self.requests_per_microvm), most),
            ("buffered_mib_per_account", long(self.buffered_mib_per_account), most),
            ("handshake_seconds", self.handshake_seconds, 600),
            ("first_request_seconds", self.first_request_seconds, 600),
            ("keep_alive_seconds", self.keep_alive_seconds, 86_400),
        ];
        let outside = ranges.into_iter().filter(|(_, value, most)| !(1..=*most).contains(value));
        let problem = |(key, _, most)| {
            Problem::new(format!("endpoint.connections.{key}"), format!("write 1 to {most}"))
        };
        outside.map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_by_its_key() {
        assert_eq!(EndpointConnections::default().problems(), []);
        for key in [
            "total",
            "per_client",
            "per_account",
            "per_microvm",
            "requests_per_account",
            "requests_per_microvm",
            "buffered_mib_per_account",
            "handshake_seconds",
            "first_request_seconds",
            "keep_alive_seconds",
        ] {
            for value in ["0", "1048577"] {
                let config: EndpointConnections = toml::from_str(&format!("{key} = {value}")).unwrap();
                let keys: Vec<String> = config.problems().into_iter().map(|problem| problem.key).collect();
                let key = format!("endpoint.connections.{key}");
                assert!(keys.contains(&key), "{key} = {value}: {keys:?}");
            }
        }
    }

    #[test]
    fn an_account_has_a_share_of_the_connections_unless_told_otherwise() {
        let config = EndpointConnections { total: 1000, ..EndpointConnections::default() };
        assert_eq!((config.of_account(), config.of_microvm()), (750, 500));
        let config = EndpointConnections { per_account: Some(7), per_microvm: Some(3), ..config };
        assert_eq!((config.of_account(), config.of_microvm()), (7, 3));
        let config = EndpointConnections { total: 1, ..EndpointConnections::default() };
        assert_eq!((config.of_account(), config.of_microvm()), (1, 1));
    }
}
