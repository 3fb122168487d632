//! The body of an answer, which fails when nothing comes for too long.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::WebError;

/// A body that is being received.
#[derive(Debug)]
pub(in crate::artifact) struct Received {
    body: Incoming,
    limit: Duration,
    late: Pin<Box<Sleep>>,
    server: String,
}

impl Received {
    pub(super) fn new(body: Incoming, limit: Duration, server: Option<&str>) -> Self {
        let server = server.unwrap_or("the server").to_owned();
        Self { body, limit, late: Box::pin(tokio::time::sleep(limit)), server }
    }

    /// The next bytes; none at the end.
    pub(in crate::artifact) async fn chunk(&mut self) -> Result<Option<Bytes>, WebError> {
        while let Some(frame) = self.frame().await {
            // A frame that is not data has trailers.
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = WebError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WebError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.late.as_mut().reset(Instant::now() + this.limit);
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| WebError::of(&error))));
        }
        ready!(this.late.as_mut().poll(context));
        Poll::Ready(Some(Err(WebError::Late(this.server.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
