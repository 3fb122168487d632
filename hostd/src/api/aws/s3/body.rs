//! A request's body that has to arrive in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderMap};

use crate::api::timer::Timer;

/// Longest time without a byte.
const IDLE: Duration = Duration::from_secs(30);
/// Time that every body has.
const BASE: Duration = Duration::from_secs(60);
/// Bytes a second that a larger body has to arrive with.
const SLOWEST: u64 = 64 << 10;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("nothing came for {} seconds", IDLE.as_secs())]
    Idle,
    #[error("it came with less than {} KiB a second", SLOWEST >> 10)]
    Slow,
    #[error("a signed chunk of it has more than {0} bytes: send smaller chunks")]
    Chunk(u64),
    #[error("the line before a chunk has more than {0} bytes")]
    Line(usize),
    #[error("its chunks are not framed as aws-chunked has it")]
    Framing,
    #[error("it ends before its last chunk")]
    Cut,
    #[error("{0}")]
    Broken(String),
}

/// A body with deadlines.
pub(super) struct Timed<B> {
    body: B,
    timer: Timer,
}

impl<B> Timed<B> {
    pub(super) fn new(body: B, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let length: u64 = length.unwrap_or(u64::from(u32::MAX));
        let whole = BASE.saturating_add(Duration::from_secs(length.div_euclid(SLOWEST)));
        Self { body, timer: Timer::new(IDLE, whole) }
    }
}

impl<B> Body for Timed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.timer.whole(context).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Slow)));
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer.part();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(Err(BodyError::Broken(error.into().to_string()))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.timer.idle(context).map(|()| Some(Err(BodyError::Idle))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
