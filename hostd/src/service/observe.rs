//! Observation of calls, for the audit log and the metrics.

use std::time::Duration;

use serde_json::Value;

use super::error::ServiceError;
use crate::access::Caller;
use crate::audit::Recorded;
use crate::operation::Operation;

/// A call that was answered, or whose client has gone before.
#[derive(Debug)]
pub struct Call<'a> {
    /// The operation that was called.
    pub operation: Operation,
    /// The caller; `None` if it could not be identified.
    pub caller: Option<&'a Caller>,
    /// The call's id: a UUID.
    pub request_id: &'a str,
    /// Address of the client.
    pub address: &'a str,
    /// The user agent that the client reports.
    pub user_agent: &'a str,
    /// The request, including its secrets; null unless the observer [wants](CallObserver::wants) it.
    pub request: Value,
    /// The response, including its secrets; null unless the observer wants it, and for streams.
    pub response: Value,
    /// The error, if the call has failed; [`ServiceError::Disconnected`] if nobody waits for the answer any more.
    pub error: Option<&'a ServiceError>,
    /// Time from the first byte of the request to the response.
    pub took: Duration,
}

/// A call of [`sts`](super::sts) that was answered.
#[derive(Debug)]
pub struct StsCall<'a> {
    /// The operation: `AssumeRole` or `GetCallerIdentity`.
    pub action: &'static str,
    /// The caller; `None` if it could not be identified.
    pub caller: Option<&'a Caller>,
    /// The call's id: a UUID.
    pub request_id: &'a str,
    /// Address of the client.
    pub address: &'a str,
    /// The user agent that the client reports.
    pub user_agent: &'a str,
    /// The request.
    pub request: Value,
    /// The response, including its secrets; null if the call has failed.
    pub response: Value,
    /// The code of the error and its message, if the call has failed.
    pub error: Option<(&'static str, &'a str)>,
    /// Time from the first byte of the request to the response.
    pub took: Duration,
}

/// Receives each call. Implementations must not block.
pub trait CallObserver: Send + Sync + 'static {
    /// Whether the observer needs requests and responses of an operation.
    fn wants(&self, operation: Operation) -> bool;
    /// Called once for each call: when its answer is ready, which is sent after [`Recorded::done`], or when it was given up
    /// before that.
    fn called(&self, call: Call<'_>) -> Recorded;
    /// Called when the answer of a call of [`sts`](super::sts) is ready.
    fn sts(&self, call: StsCall<'_>) -> Recorded;
}

/// An observer that ignores all calls.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl CallObserver for Silent {
    fn wants(&self, _: Operation) -> bool {
        false
    }

    fn called(&self, _: Call<'_>) -> Recorded {
        Recorded::default()
    }

    fn sts(&self, _: StsCall<'_>) -> Recorded {
        Recorded::default()
    }
}
