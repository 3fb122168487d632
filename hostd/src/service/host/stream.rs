//! Responses that are streams.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use serde_json::Value;

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Handler, Response};
use crate::panics;

/// A response of many messages. It ends when the daemon shuts down, and after its first error, since a call of gRPC
/// ends with its status.
pub(crate) struct Answers<T>(Pin<Box<dyn Stream<Item = Result<T, ServiceError>> + Send>>);

impl<T: Send + 'static> Answers<T> {
    /// The response of a call that follows something, of which an account has a limited number.
    ///
    /// # Errors
    /// [`Busy`](crate::turns::Busy)
    pub(super) async fn following<H: Handler>(
        call: &Admitted<'_, H>,
        messages: impl Stream<Item = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<Self, ServiceError> {
        let turn = call.service.followers().take(&call.caller.account).await?;
        let Self(messages) = Self::new(call.service, messages);
        let held = stream::unfold((messages, turn), |(mut messages, turn)| async {
            let message = messages.next().await?;
            Some((message, (messages, turn)))
        });
        Ok(Self(Box::pin(held)))
    }

    /// The response of these messages. A panic while a message is produced becomes an internal error.
    pub(super) fn new(
        service: &Service,
        messages: impl Stream<Item = Result<T, ServiceError>> + Send + 'static,
    ) -> Self {
        let mut shutdown = service.parts().host.shutdown.clone();
        let ended = async move {
            let _ = shutdown.wait_for(|shutdown| *shutdown).await; // an error means that the sender is gone, which ends the stream, too
        };
        let messages = Box::pin(panics::stream(messages.take_until(ended)));
        Self(Box::pin(stream::unfold(Some(messages), |messages| async {
            let mut messages = messages?;
            let message = messages.next().await?.unwrap_or_else(|_| Err(ServiceError::panicked()));
            let rest = message.is_ok().then_some(messages);
            Some((message, rest))
        })))
    }

    /// The messages.
    pub(crate) fn messages(self) -> impl Stream<Item = Result<T, ServiceError>> + Send + 'static + use<T> {
        self.0
    }
}

impl<T> Response for Answers<T> {
    fn json(&self) -> Value {
        Value::Null
    }
}
