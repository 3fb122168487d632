//! CloudWatch Logs: reading what microVMs and builds have written, over AWS JSON 1.1.
//!
//! | Action | Operation |
//! |---|---|
//! | `DescribeLogGroups` | ListLogGroups |
//! | `DescribeLogStreams` | ListLogStreams |
//! | `GetLogEvents`, `FilterLogEvents` | ReadLogs |
//!
//! The action is named in the header `X-Amz-Target`. Every other action is refused by its name, with what to use
//! instead ([`absent`]). Rate, constraints, permission and audit are those of the operation, under its name.
//!
//! Differences to AWS: a group's `retentionInDays` is the host's; `storedBytes` of streams is their size; an event's
//! `ingestionTime` is its `timestamp`; tokens do not expire; `unmask`, `interleaved` and data protection mean nothing.
//! An answer has at most 10,000 events and 1 MiB, or a single event that is larger by itself. It can have no events and a
//! token: a page is searched for at most two seconds, and 64 MiB.
//!
//! * [`input`] – the requests; [`calls`] – from them to operations and back; [`error`] – exceptions
//!
//! Source: Amazon CloudWatch Logs API Reference, 2014-03-28.

pub(crate) mod absent;
mod calls;
mod error;
mod input;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::calls::Action;
use self::error::Refusal;
use super::dispatch::Signed;
use super::protocol::AWS_JSON;
use crate::service::Service;
use crate::service::pipeline::Incoming;

/// The header that names the action, and what its value begins with.
const TARGET: (HeaderName, &str) = (HeaderName::from_static("x-amz-target"), "Logs_20140328.");

/// Answers a request.
pub(crate) async fn answer(service: &Service, request: Signed) -> Response<Full<Bytes>> {
    let Signed { incoming, parts, body } = request;
    let target = parts.headers.get(&TARGET.0).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let action = target.strip_prefix(TARGET.1).unwrap_or_default();
    let answered = match action {
        "DescribeLogGroups" => act::<input::DescribeLogGroups>(service, &incoming, &body).await,
        "DescribeLogStreams" => act::<input::DescribeLogStreams>(service, &incoming, &body).await,
        "GetLogEvents" => act::<input::GetLogEvents>(service, &incoming, &body).await,
        "FilterLogEvents" => act::<input::FilterLogEvents>(service, &incoming, &body).await,
        other => Err(Refusal::unknown(other)),
    };
    let (status, body) = match answered {
        Ok(answer) => (StatusCode::OK, answer),
        Err(refusal) => (refusal.status(), refusal.body()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, AWS_JSON);
    response
}

/// Performs an action.
async fn act<A: Action + DeserializeOwned>(
    service: &Service,
    incoming: &Incoming,
    body: &[u8],
) -> Result<Value, Refusal> {
    // A body without members may be empty.
    let body = if body.is_empty() { b"{}" } else { body };
    let action: A = serde_json::from_slice(body).map_err(|error| Refusal::serialization(&error))?;
    action.call(service, incoming).await
}
