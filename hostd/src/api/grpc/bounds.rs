//! A layer that bounds what a request may have received: its bytes, its time, and the bytes that all requests of an
//! account have under way.
//!
//! Room is taken before the first byte is read, as much as the message may have, and given back when the request is
//! complete. So an account that begins many requests and finishes none waits for itself. What HTTP/2's windows let a client send before
//! is bounded by connection.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower::Layer;

use crate::access::Origin;
use crate::api::timer::Timer;
use crate::panics::poisoned;
use crate::service::host::upload::DATA_MAX;
use crate::service::pipeline::Incoming;

/// Greatest size of a request message, in bytes.
pub(crate) const REQUEST_MAX: usize = 256 << 10;
/// Greatest size of a message of an upload, in bytes: data, and what stands around it.
pub(super) const UPLOAD_MESSAGE_MAX: usize = DATA_MAX + 64;
/// Bytes before each message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
/// Greatest number of bytes that requests of one account have under way, without uploads and of uploads.
const ROOM: (usize, usize) = (32 << 20, 32 << 20);
/// Number of accounts from which on those without requests under way are forgotten.
const ACCOUNTS: usize = 256;
/// Longest time from the head of a request to the end of its body, but for uploads.
const WHOLE: Duration = Duration::from_secs(30);
/// Longest time of an upload.
const WHOLE_UPLOAD: Duration = Duration::from_secs(24 * 3600);
/// Longest time without a byte of an upload, or until it has room.
const IDLE: Duration = Duration::from_secs(60);

/// What a method's requests are bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    /// Greatest number of bytes of the whole body; none for uploads, whose messages are bounded one by one and whose
    /// bytes are counted where they are stored.
    bytes: Option<usize>,
    /// Room that a request takes while it is received.
    room: usize,
    whole: Duration,
    idle: Duration,
}

impl Bound {
    fn of(path: &str) -> Self {
        let (bytes, room) = match path {
            "/hearth.host.v1.HostService/PutArtifact" => {
                let room = UPLOAD_MESSAGE_MAX.saturating_add(PREFIX);
                return Self { bytes: None, room, whole: WHOLE_UPLOAD, idle: IDLE };
            }
            // The name of a service.
            path if path.starts_with("/grpc.health.v1.Health/") => (1 << 10, 0),
            // Questions about names and files: some of them in one call.
            path if path.starts_with("/grpc.reflection.") => (64 << 10, 64 << 10),
            _ => (REQUEST_MAX.saturating_add(PREFIX), REQUEST_MAX.saturating_add(PREFIX)),
        };
        Self { bytes: Some(bytes), room, whole: WHOLE, idle: WHOLE }
    }

    fn is_upload(&self) -> bool {
        self.bytes.is_none()
    }
}

/// The layer. Its clones share all room.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds(Arc<Mutex<HashMap<String, Weak<Room>>>>);

/// Room for the requests of one account.
#[derive(Debug)]
struct Room {
    requests: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Bounds {
    /// The room of an account, or of the socket.
    fn room(&self, of: &str) -> Arc<Room> {
        let mut rooms = self.0.lock().unwrap_or_else(poisoned);
        rooms.get(of).and_then(Weak::upgrade).unwrap_or_else(|| {
            if rooms.len() >= ACCOUNTS {
                rooms.retain(|_, room| room.strong_count() > 0);
            }
            let (requests, uploads) = (Semaphore::new(ROOM.0), Semaphore::new(ROOM.1));
            let room = Arc::new(Room { requests: Arc::new(requests), uploads: Arc::new(uploads) });
            rooms.insert(of.to_owned(), Arc::downgrade(&room));
            room
        })
    }

    /// Waits for the room that a request takes; none for callers without an account, whose requests are tiny.
    fn place(&self, bound: &Bound, of: Option<&str>) -> Placing {
        let room = of.filter(|_| bound.room > 0).map(|of| self.room(of));
        let (upload, bytes) = (bound.is_upload(), u32::try_from(bound.room).unwrap_or(u32::MAX));
        Box::pin(async move {
            let room = room?;
            let of = if upload { &room.uploads } else { &room.requests };
            let taken = Arc::clone(of).acquire_many_owned(bytes).await.ok()?;
            Some((taken, room))
        })
    }
}

impl<S> Layer<S> for Bounds {
    type Service = Bounding<S>;

    fn layer(&self, inner: S) -> Bounding<S> {
        Bounding { inner, bounds: self.clone() }
    }
}

/// A service whose requests are bounded.
#[derive(Debug, Clone)]
pub(super) struct Bounding<S> {
    inner: S,
    bounds: Bounds,
}

impl<S: tower::Service<Request<Body>>> tower::Service<Request<Body>> for Bounding<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let bound = Bound::of(request.uri().path());
        let incoming = request.extensions().get::<Incoming>();
        let caller = incoming.and_then(|incoming| incoming.caller.as_ref().ok());
        // The operator at the socket does not wait for keys of the same account.
        let is_local = matches!(request.extensions().get(), Some(Origin::Socket(_)));
        let of = caller.map(|caller| format!("{}{}", if is_local { "socket " } else { "" }, caller.account));
        let placing = self.bounds.place(&bound, of.as_deref());
        self.inner.call(request.map(|body| Body::new(Bounded::new(body, bound, placing))))
    }
}

/// The room that a request has, and what keeps the account's room known.
type Place = Option<(OwnedSemaphorePermit, Arc<Room>)>;
type Placing = Pin<Box<dyn Future<Output = Place> + Send>>;

/// The body of a request within its bounds.
struct Bounded<B> {
    body: B,
    bound: Bound,
    received: usize,
    /// While the request waits for room.
    placing: Option<Placing>,
    place: Place,
    timer: Timer,
}

/// The error of a request that does not come to its end.
fn late() -> Status {
    let why = "The request has not been received in time: send it at once, and an upload without pauses";
    Status::deadline_exceeded(why)
}

impl<B> Bounded<B> {
    fn new(body: B, bound: Bound, placing: Placing) -> Self {
        let timer = Timer::new(bound.idle, bound.whole);
        Self { body, bound, received: 0, placing: Some(placing), place: None, timer }
    }

    /// Counts the bytes of a frame.
    fn counted(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        self.timer.part();
        self.received = self.received.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        match self.bound.bytes.filter(|most| self.received > *most) {
            Some(most) => {
                let why =
                    format!("The request has more than {most} bytes, which is the most that it may have");
                Err(Status::out_of_range(why))
            }
            None => Ok(frame),
        }
    }
}

impl<B> hyper::body::Body for Bounded<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    Status: From<B::Error>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(placing) = &mut this.placing {
            match placing.as_mut().poll(context) {
                Poll::Ready(place) => {
                    (this.place, this.placing) = (place, None);
                    this.timer.part();
                }
                Poll::Pending if this.timer.idle(context).is_ready() => {
                    let why =
                        "The account has too many requests under way that have not been received as a whole";
                    return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        let frame = match this.timer.whole(context) {
            Poll::Ready(()) => Some(Err(late())),
            Poll::Pending => match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => Some(this.counted(frame)),
                Poll::Ready(end) => end.map(|result| result.map_err(Status::from)),
                Poll::Pending => {
                    ready!(this.timer.idle(context));
                    Some(Err(late()))
                }
            },
        };
        if !matches!(frame, Some(Ok(_))) {
            this.place = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::Either;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::sleep;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    const UNARY: &str = "/hearth.microvms.v1.MicrovmService/GetMicrovm";
    const UPLOAD: &str = "/hearth.host.v1.HostService/PutArtifact";

    /// A body in parts of a KiB, after which nothing comes.
    fn body(parts: usize, ends: bool) -> impl hyper::body::Body<Data = Bytes, Error = Status> + Unpin {
        let part = || Ok(Frame::data(Bytes::from(vec![b'a'; 1 << 10])));
        let parts = tokio_stream::iter((0..parts).map(move |_| part()));
        let rest = tokio_stream::pending();
        StreamBody::new(if ends { Either::Left(parts) } else { Either::Right(parts.chain(rest)) })
    }

    async fn received(
        path: &str,
        body: impl hyper::body::Body<Data = Bytes, Error = Status> + Unpin,
    ) -> Result<usize, Status> {
        let bounds = Bounds::default();
        let bound = Bound::of(path);
        let bounded = Bounded::new(body, bound, bounds.place(&bound, Some("account")));
        bounded.collect().await.map(|collected| collected.to_bytes().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_bounded_in_bytes_and_in_time() {
        assert_eq!(received(UNARY, body(256, true)).await.unwrap(), 256 << 10);
        assert_eq!(received(UPLOAD, body(2000, true)).await.unwrap(), 2000 << 10);
        assert_eq!(received(UNARY, body(257, true)).await.unwrap_err().code(), Code::OutOfRange);
        let health = "/grpc.health.v1.Health/Check";
        assert_eq!(received(health, body(2, true)).await.unwrap_err().code(), Code::OutOfRange);
        for path in [UNARY, UPLOAD, health] {
            assert_eq!(received(path, body(1, false)).await.unwrap_err().code(), Code::DeadlineExceeded);
        }
        // An upload goes on as long as bytes come; another request does not.
        let slow = || {
            let part = |_| async {
                sleep(WHOLE / 2).await;
                Ok(Frame::data(Bytes::from_static(b"a")))
            };
            StreamBody::new(Box::pin(tokio_stream::iter(0..9).then(part)))
        };
        assert_eq!(received(UPLOAD, slow()).await.unwrap(), 9);
        assert_eq!(received(UNARY, slow()).await.unwrap_err().code(), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_reader_is_not_held_against_the_client() {
        let bounds = Bounds::default();
        let bound = Bound::of(UPLOAD);
        let mut bounded = Bounded::new(body(3, true), bound, bounds.place(&bound, Some("account")));
        for _ in 0..3 {
            sleep(2 * IDLE).await;
            bounded.frame().await.unwrap().unwrap();
        }
        assert!(bounded.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_finishes_no_request_waits_for_itself() {
        let bounds = Bounds::default();
        let bound = Bound::of(UNARY);
        let begin =
            |account: &str, ends| Bounded::new(body(1, ends), bound, bounds.place(&bound, Some(account)));
        let mut unfinished = Vec::new();
        for _ in 0..ROOM.0 / bound.room {
            let mut begun = begin("one", false);
            begun.frame().await.unwrap().unwrap();
            unfinished.push(begun);
        }
        let status = begin("one", true).collect().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        begin("other", true).collect().await.unwrap();
        unfinished.pop();
        begin("one", true).collect().await.unwrap();
        begin("one", true).collect().await.unwrap();
        drop(unfinished);
        for account in 0..2 * ACCOUNTS {
            begin(&account.to_string(), true).collect().await.unwrap();
        }
        assert!(bounds.0.lock().unwrap().len() <= ACCOUNTS);
    }
}
