//! What a client does with its connection, which decides how long the connection is kept.
//!
//! A client that takes nothing of its response is not active, whatever else it says, like answers to pings of HTTP/2. What
//! HTTP has in its buffers counts as taken, so the last 80 KiB of a response have to be read in the time for which a client
//! may be idle. A response that this host has nothing to send of, like a stream of events, keeps its connection: HTTP asks
//! it for a part only when the client has made room for one.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep};

use crate::panics::poisoned;

/// Greatest size of a part of a response, in bytes: each part that the connection takes is activity.
const PART: usize = 16 << 10;

/// The activity of a connection: the requests that this host is busy with, and the last time that a request began or ended
/// or a part of a response was taken.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Whether the client has said as much as every client says first.
    greeted: bool,
    /// Number of requests that have no answer yet, or whose response has no next part yet.
    handled: usize,
    last: Instant,
}

impl Activity {
    /// The activity of a connection that is opened now.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { greeted: false, handled: 0, last: Instant::now() })))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap_or_else(poisoned);
        change(&mut state);
        state.last = Instant::now();
    }

    /// Begins a request.
    pub(super) fn begin(&self) -> Handled {
        self.change(|state| {
            state.greeted = true;
            state.handled = state.handled.saturating_add(1);
        });
        Handled(self.clone())
    }

    /// The client has begun.
    pub(super) fn greeted(&self) {
        self.change(|state| state.greeted = true);
    }

    /// Returns when the client has not begun within this time; never if it has.
    pub(super) async fn silent(&self, longest: Duration) {
        sleep(longest).await;
        if self.0.lock().unwrap_or_else(poisoned).greeted {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when no request has been handled, and nothing has happened, for a time.
    pub(super) async fn idle(&self, longest: Duration) {
        loop {
            let (now, since) = {
                let state = self.0.lock().unwrap_or_else(poisoned);
                let now = Instant::now();
                (now, if state.handled == 0 { state.last } else { now })
            };
            let rest = longest.saturating_sub(now.saturating_duration_since(since));
            if rest.is_zero() {
                return;
            }
            sleep(rest).await;
        }
    }
}

/// A request that is handled until this is dropped.
#[derive(Debug)]
pub(super) struct Handled(Activity);

impl Handled {
    /// The request is answered.
    pub(super) fn end(self) -> Activity {
        self.0.clone()
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.0.change(|state| state.handled = state.handled.saturating_sub(1));
    }
}

/// The body of a response, in parts of a limited size. HTTP takes one when the client has made room for it.
#[derive(Debug)]
pub(super) struct Sending<B> {
    body: B,
    /// The rest of a frame of the body.
    rest: Bytes,
    activity: Activity,
    /// While HTTP waits for the next part.
    waiting: Option<Handled>,
}

impl<B> Sending<B> {
    pub(super) fn new(body: B, activity: Activity) -> Self {
        Self { body, rest: Bytes::new(), activity, waiting: None }
    }

    fn part(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(PART);
        Frame::data(self.rest.split_to(length))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sending<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    if self.waiting.is_none() {
                        self.waiting = Some(self.activity.begin());
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => frame.into_data().map_or_else(
                    |other| Some(Ok(other)),
                    |data| {
                        self.rest = data;
                        Some(Ok(self.part()))
                    },
                ),
                Poll::Ready(end) => end,
            }
        } else {
            Some(Ok(self.part()))
        };
        self.waiting = None;
        self.activity.change(|_| {});
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (u64::try_from(self.rest.len()).unwrap_or(u64::MAX), self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}
