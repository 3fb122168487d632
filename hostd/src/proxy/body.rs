//! Bodies of requests and responses between client and app. Nothing is buffered here: the next piece of a body is only read
//! when the receiver can take it. What HTTP keeps on the way is counted ([`shares::bytes`](super::shares::bytes)).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until, timeout};

use super::limiter::Limiter;
use super::peer::Exchange;
use super::shares::bytes::{Piece, Room};
use super::shares::{Seat, Underway};
use crate::driver::gate::{Gate, Pass};
use crate::panics::{Caught, Panicked};

/// Bounds for draining a request that has been answered already: bytes, and time. Clients may have sent a whole
/// flow-control window by then.
const DRAIN: (usize, Duration) = (8 << 20, Duration::from_secs(5));

/// Observes the bytes that pass: it keeps the microVM from counting as idle, and limits it to its share of the
/// bandwidth.
#[derive(Debug)]
pub struct Meter {
    gate: Arc<Gate>,
    limiter: Option<Arc<Limiter>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    /// Creates a meter for a gate.
    #[must_use]
    pub fn new(gate: &Arc<Gate>, limiter: Option<&Arc<Limiter>>) -> Self {
        Self { gate: Arc::clone(gate), limiter: limiter.map(Arc::clone), pause: None }
    }

    /// Ready when more bytes may pass.
    fn poll_free(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// Counts bytes that have passed.
    fn passed(&mut self, bytes: usize) {
        self.gate.touch();
        let next = self.limiter.as_ref().and_then(|limiter| limiter.bytes(bytes));
        self.pause = next.map(|next| Box::pin(sleep_until(next)));
    }

    /// Counts bytes that have passed, and waits until more may pass.
    pub async fn pass(&mut self, bytes: usize) {
        self.passed(bytes);
        if let Some(pause) = self.pause.take() {
            pause.await;
        }
    }

    /// Polls for the next frame of a body, once it may pass.
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        body: &mut (impl Body<Data = Bytes, Error = hyper::Error> + Unpin),
    ) -> Polled {
        ready!(self.poll_free(context));
        let frame = ready!(Pin::new(body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.passed(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }
}

pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, hyper::Error>>>;

/// The reason why a response is aborted.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The app has aborted it.
    #[error(transparent)]
    App(#[from] hyper::Error),
    /// The code that forwards it has panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The body of a response to a client.
#[derive(Debug)]
pub enum ResponseBody {
    /// A text of the endpoint itself.
    Text(Option<Bytes>),
    /// A body from the app.
    Flow(Caught<Flow>),
}

impl ResponseBody {
    /// A text, which may be empty.
    #[must_use]
    pub fn text(text: String) -> Self {
        Self::Text(Some(text).filter(|text| !text.is_empty()).map(Bytes::from))
    }

    /// The body of the app's response. `over` is dropped with it, which ends the exchange.
    #[must_use]
    pub(super) fn flow(body: Incoming, meter: Meter, over: (Pass, Exchange, Underway)) -> Self {
        Self::Flow(Caught::new(Flow { body, meter, turn: None, over }))
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Broken>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(Piece::text(text))))),
            Self::Flow(flow) => {
                let polled = flow.go_on(|mut flow| {
                    ready!(flow.poll_turn(context));
                    let Flow { body, meter, .. } = &mut *flow;
                    let frame = ready!(meter.poll_frame(context, body));
                    let seat = flow.seat();
                    Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| seat.piece(data)))))
                });
                match polled {
                    Some(Poll::Ready(Ok(frame))) => {
                        Poll::Ready(frame.map(|frame| frame.map_err(Broken::from)))
                    }
                    Some(Poll::Ready(Err(panicked))) => Poll::Ready(Some(Err(panicked.into()))),
                    Some(Poll::Pending) => Poll::Pending,
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Flow(flow) => flow.get().is_none_or(|flow| flow.body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Flow(flow) => {
                flow.get().map_or_else(|| SizeHint::with_exact(0), |flow| flow.body.size_hint())
            }
        }
    }
}

/// A body from the app.
pub struct Flow {
    body: Incoming,
    meter: Meter,
    /// While the client's connection, or its account, holds as many bytes as it may.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Dropped with the body, which ends the exchange.
    over: (Pass, Exchange, Underway),
}

impl Flow {
    fn seat(&self) -> &Arc<Seat> {
        self.over.2.seat()
    }

    /// Ready when the client's connection may get a further piece.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.turn.is_none() && !self.seat().may_take() {
            self.turn = Some(Box::pin(Arc::clone(self.seat()).turn()));
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(context));
            self.turn = None;
        }
        Poll::Ready(())
    }
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("body", &self.body).field("over", &self.over).finish_non_exhaustive()
    }
}

/// The body of a request as it is received.
///
/// If this is dropped before all of the body has been read, because the response came first, the rest is read for a
/// while and discarded. A client that is still sending would otherwise be told to stop, and not every client reads its
/// response then (curl 7.88 may take it for a failure).
#[derive(Debug)]
pub struct RequestBody {
    body: Option<Incoming>,
    /// What is set aside for the body, until all of it has been read.
    room: Option<Room>,
}

impl RequestBody {
    /// Wraps the body of a client's request.
    #[must_use]
    pub fn new(body: Incoming) -> Self {
        Self { body: Some(body), room: None }
    }

    /// An empty body.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { body: None, room: None }
    }

    /// Sets room aside for the body until all of it has been read.
    pub(super) fn keep(&mut self, room: Room) {
        self.room = Some(room);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.room = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(DRAIN.1, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut left = DRAIN.0;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        if length > left {
            return;
        }
        left = left.saturating_sub(length);
    }
}
