//! Who is told of each call: the audit log and the metrics.

use std::time::Duration;

use serde_json::Value;

use crate::access::Caller;
use crate::service::{Operation, ServiceError};

/// A call that was answered.
#[derive(Debug)]
pub struct Call<'a> {
    /// What was asked for.
    pub operation: Operation,
    /// Who asked; none where that was not known.
    pub caller: Option<&'a Caller>,
    /// The call's id: a UUID.
    pub request_id: &'a str,
    /// Where it came from.
    pub address: &'a str,
    /// What the client calls itself.
    pub user_agent: &'a str,
    /// The request, with its secrets; null unless the observer [wants](CallObserver::wants) it.
    pub request: Value,
    /// The answer, with its secrets; null unless it was wanted, and of streams.
    pub response: Value,
    /// Why it failed.
    pub error: Option<&'a ServiceError>,
    /// From its first byte to its answer.
    pub took: Duration,
}

/// Is told of each call. Must not block.
pub trait CallObserver: Send + Sync + 'static {
    /// Whether it wants to see requests and answers of an operation.
    fn wants(&self, operation: Operation) -> bool;
    /// A call was answered.
    fn called(&self, call: Call<'_>);
}

/// Nobody is told.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl CallObserver for Silent {
    fn wants(&self, _: Operation) -> bool {
        false
    }

    fn called(&self, _: Call<'_>) {}
}
