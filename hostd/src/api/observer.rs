//! Who is told of calls: the audit log, metrics.

use std::fmt;
use std::time::Duration;

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::access::Caller;
use crate::service::constraints::descriptors;
use crate::service::{Operation, ServiceError};

/// A call that was answered; of a stream, that has begun.
pub struct Call<'a> {
    /// What was asked for.
    pub operation: Operation,
    /// Who has called; nobody if that is not known.
    pub caller: Option<&'a Caller>,
    /// Id of the call.
    pub request_id: &'a str,
    /// Address without port, or `unix:`.
    pub source: &'a str,
    /// The client's program, as it says.
    pub user_agent: Option<&'a str>,
    /// The request.
    pub request: &'a dyn Shown,
    /// The answer, if it is one message.
    pub response: Option<&'a dyn Shown>,
    /// Why it was refused.
    pub error: Option<&'a ServiceError>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, request_id, error, .. } = self;
        f.debug_struct("Call").field("operation", operation).field("id", request_id).field("error", error).finish()
    }
}

/// Is told of calls.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A call was answered.
    fn called(&self, call: &Call<'_>);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn called(&self, _call: &Call<'_>) {}
}

/// A message that can be shown as JSON, with AWS's member names; secrets included.
pub trait Shown: Send + Sync {
    /// It as JSON.
    fn json(&self) -> Value;
}

/// A message and its full name.
pub(crate) struct Named<'a, M>(pub(crate) &'a M, pub(crate) &'a str);

impl<M: prost::Message> Shown for Named<'_, M> {
    fn json(&self) -> Value {
        let shown = || {
            let mut message = DynamicMessage::new(descriptors()?.get_message_by_name(self.1)?);
            message.transcode_from(self.0).ok()?;
            message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
        };
        shown().unwrap_or(Value::Null)
    }
}
