//! The body of a request on its way to the app. It can be sent again from its beginning as long as none of it has left, or
//! what has left of it is kept.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::body::{Meter, Polled, RequestBody};
use super::shares::Seat;
use super::shares::bytes::Kept;
use crate::panics::poisoned;

/// Bytes that are kept of a body that may have to be sent again. A longer one is sent once.
pub(super) const KEPT: usize = 64 << 10;

/// The body of a request, from which each attempt to send it takes an [`Upload`].
#[derive(Debug)]
pub(super) struct Source(Option<Shared>);

type Shared = Arc<Mutex<State>>;

#[derive(Debug)]
struct State {
    body: RequestBody,
    /// Whether any of the body has been read, and whether all of it has.
    begun: bool,
    ended: bool,
    /// What has been read of it, if it is kept.
    kept: Option<Kept>,
    /// The number of the attempt that may read.
    attempt: u64,
    size: SizeHint,
}

impl Source {
    /// The body of a request. What is read of it is kept if there is a `seat`, which counts it.
    pub(super) fn new(body: RequestBody, seat: Option<&Arc<Seat>>) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        let (size, kept) = (body.size_hint(), seat.map(Kept::of));
        let state = State { body, begun: false, ended: false, kept, attempt: 0, size };
        Self(Some(Arc::new(Mutex::new(state))))
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The body for the first attempt, which sends nothing before `pause` is over.
    pub(super) fn upload(&self, meter: Meter, pause: Option<Duration>) -> Upload {
        let part = self.0.as_ref().map(|shared| {
            let mut state = lock(shared);
            state.attempt = state.attempt.saturating_add(1);
            let pause = pause.map(|pause| Box::pin(sleep(pause)));
            Part { shared: Arc::clone(shared), attempt: state.attempt, sent: 0, pause }
        });
        Upload { meter, part }
    }

    /// The whole body for a further attempt, like [`Self::upload`]; `None` if it is not whole any more. Earlier attempts
    /// read nothing more.
    pub(super) fn again(&self, meter: Meter, pause: Option<Duration>) -> Option<Upload> {
        let whole = self.0.as_ref().is_none_or(|shared| {
            let state = lock(shared);
            !state.begun || state.kept.is_some()
        });
        whole.then(|| self.upload(meter, pause))
    }

    /// Keeps nothing any more: the body will not be sent again.
    pub(super) fn settle(&self) {
        if let Some(shared) = &self.0 {
            lock(shared).kept = None;
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(poisoned)
}

impl State {
    /// What an earlier attempt has read beyond `sent` bytes.
    fn repeat(&self, sent: usize) -> Option<&[u8]> {
        self.kept.as_ref()?.bytes().get(sent..).filter(|bytes| !bytes.is_empty())
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.begun = true;
        match &frame {
            Some(Ok(frame)) => {
                let keep = |kept: &mut Kept| frame.data_ref().is_some_and(|data| kept.push(data, KEPT));
                if !self.kept.as_mut().is_some_and(keep) {
                    self.kept = None;
                }
            }
            Some(Err(_)) => self.kept = None,
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }
}

/// The body of a request in one attempt to send it.
#[derive(Debug)]
pub(super) struct Upload {
    meter: Meter,
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    shared: Shared,
    attempt: u64,
    /// In bytes.
    sent: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Body for Part {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(context));
            this.pause = None;
        }
        let mut state = lock(&this.shared);
        if state.attempt != this.attempt {
            // An end would say that the body is whole.
            return Poll::Pending;
        }
        let repeated = state.repeat(this.sent).map(Bytes::copy_from_slice);
        let frame = match repeated {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None => ready!(state.poll_body(context)),
        };
        if let Some(Ok(frame)) = &frame {
            this.sent = this.sent.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared);
        state.repeat(self.sent).is_none() && (state.ended || state.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let whole = lock(&self.shared).size;
        let sent = u64::try_from(self.sent).unwrap_or(u64::MAX);
        let mut left = SizeHint::new();
        left.set_lower(whole.lower().saturating_sub(sent));
        if let Some(upper) = whole.upper() {
            left.set_upper(upper.saturating_sub(sent));
        }
        left
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let Self { meter, part } = self.get_mut();
        part.as_mut().map_or(Poll::Ready(None), |part| meter.poll_frame(context, part))
    }

    fn is_end_stream(&self) -> bool {
        self.part.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.part.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
