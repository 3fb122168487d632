//! From a request to the front end of the service that its signature is for.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::USER_AGENT;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use super::reply::{Body, whole, with_request_id};
use super::{logs, protocol, rest, s3, sts};
use crate::access::Access;
use crate::access::sigv4::{self, Claim, Protocol, SignatureError};
use crate::api::connections::Client;
use crate::panics;
use crate::service::pipeline::Incoming;
use crate::service::{Service, ServiceError};

/// Greatest size of a request's body, in bytes. The largest request has 50 environment variables of 4,096 characters, of
/// which JSON may write each in six bytes.
const BODY_MAX: usize = 2 << 20;
/// Greatest number of bytes of bodies whose signatures are not verified yet, of one access key and of all together: who
/// knows the id of a key can have bodies received, and must not take the room of other keys.
const UNVERIFIED_MAX: (usize, usize) = (8 << 20, 64 << 20);
/// Number of keys from which on those without a body under way are forgotten.
const KEYS: usize = 256;
/// Longest time from a request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Greatest length of a user agent that is kept, in bytes.
const USER_AGENT_MAX: usize = 512;

/// A request whose signature is valid.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The call, with its caller.
    pub(crate) incoming: Incoming,
    /// Method, path and headers as they were sent.
    pub(crate) parts: Parts,
    /// The body.
    pub(crate) body: Bytes,
}

/// Answers requests.
#[derive(Debug)]
pub(super) struct Dispatch {
    service: Service,
    access: Arc<Access>,
    /// Whether connections have TLS.
    tls: bool,
    /// Room for bodies whose signatures are not verified yet.
    rooms: Rooms,
}

/// Room for bodies, in bytes.
#[derive(Debug)]
struct Rooms {
    all: Arc<Semaphore>,
    /// What each access key may take, while bodies of it are received.
    keys: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl Rooms {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(UNVERIFIED_MAX.1)), keys: Mutex::default() }
    }

    /// The room of an access key.
    fn of(&self, access_key: &str) -> Room {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let own = keys.get(access_key).and_then(Weak::upgrade).unwrap_or_else(|| {
            if keys.len() >= KEYS {
                keys.retain(|_, room| room.strong_count() > 0);
            }
            let own = Arc::new(Semaphore::new(UNVERIFIED_MAX.0));
            keys.insert(access_key.to_owned(), Arc::downgrade(&own));
            own
        });
        Room { own, all: Arc::clone(&self.all) }
    }
}

/// The room for a body: that of its key, and that of all.
struct Room {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// The room that a body takes until this is dropped.
#[derive(Default)]
struct Taken {
    own: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// Waits for room for more bytes.
    async fn take(&mut self, room: &Room, bytes: usize) -> Result<(), Refused> {
        let bytes = u32::try_from(bytes).map_err(|_| Refused::TooLarge)?;
        for (room, taken) in [(&room.own, &mut self.own), (&room.all, &mut self.all)] {
            let more = Arc::clone(room).acquire_many_owned(bytes).await.map_err(|_| Refused::Broken)?;
            match taken {
                Some(taken) => taken.merge(more),
                None => *taken = Some(more),
            }
        }
        Ok(())
    }
}

impl Dispatch {
    pub(super) fn new(service: Service, access: Arc<Access>, tls: bool) -> Self {
        Self { service, access, tls, rooms: Rooms::new() }
    }

    /// Answers a request. A panic ends the request only.
    pub(super) async fn answer<B>(&self, client: &Client, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (id, since) = (Uuid::new_v4().to_string(), Instant::now());
        let path = request.uri().path().to_owned();
        let protocol = protocol::of_head(&request);
        let answered = panics::request(self.signed(client, request, &id, since)).await;
        let mut response = match answered {
            Ok(Ok(signed_answer)) => signed_answer,
            Ok(Err(refused)) => {
                tracing::debug!(request = id, peer = %client.peer, path, %refused, "a request is refused");
                whole(refused.response(protocol, &id))
            }
            Err(panics::Panicked) => {
                tracing::error!(request = id, path, "a call has ended with a panic");
                let error = ServiceError::panicked();
                whole(protocol::refusal(protocol, &id, 500, error.exception().name, &error.to_string()))
            }
        };
        with_request_id(&mut response, &id);
        response
    }

    /// Verifies a request and has a front end answer it. Nothing of the body is read unless the head names a known key.
    async fn signed<B>(
        &self,
        client: &Client,
        request: Request<B>,
        id: &str,
        since: Instant,
    ) -> Result<Response<Body>, Refused>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let claim = Claim::read(&parts)?.ok_or(SignatureError::Missing)?;
        let key = self.access.known(&claim, self.service.now())?;
        let incoming = |caller, parts: &Parts| Incoming {
            caller: Ok(caller),
            request_id: id.to_owned(),
            address: client.peer.to_string(),
            user_agent: user_agent(parts),
            since,
        };
        if claim.service() == sigv4::S3 {
            let caller = key.caller(id.to_owned());
            let claimed = s3::Claimed {
                account: caller.account.clone(),
                incoming: incoming(caller, &parts),
                access_key: claim.access_key().to_owned(),
                secret: key.secret().expose().into(),
                tls: self.tls,
                known: client.known.clone(),
            };
            let response = s3::answer(&self.service, claimed, Request::from_parts(parts, body)).await;
            return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()));
        }
        let (body, taken) = read(body, &self.rooms.of(claim.access_key())).await?;
        let verified = self.access.verified(&key, &claim, &parts, &body, self.tls, id.to_owned());
        drop(taken);
        let caller = verified?;
        client.known.now(&caller.account);
        let signed = Signed { incoming: incoming(caller, &parts), parts, body };
        match claim.service() {
            "sts" => Ok(whole(sts::answer(&self.service, signed).await)),
            "logs" => Ok(whole(logs::answer(&self.service, signed).await)),
            // Signatures for a service that this host does not have are refused before.
            _ => Ok(whole(rest::answer(&self.service, signed).await)),
        }
    }
}

/// Reads a body. It takes room until the second value is dropped.
async fn read<B>(body: B, room: &Room) -> Result<(Bytes, Taken), Refused>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let max = u64::try_from(BODY_MAX).unwrap_or(u64::MAX);
    // A client that says how much it sends need not send it.
    if body.size_hint().lower() > max {
        return Err(Refused::TooLarge);
    }
    let reading = async {
        let mut body = pin!(Limited::new(body, BODY_MAX));
        let (mut whole, mut taken) = (BytesMut::new(), Taken::default());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => Refused::TooLarge,
                false => Refused::Broken,
            })?;
            let Ok(data) = frame.into_data() else { continue };
            taken.take(room, data.len()).await?;
            whole.extend_from_slice(&data);
        }
        Ok((whole.freeze(), taken))
    };
    timeout(BODY_TIME, reading).await.map_err(|_| Refused::Slow)?
}

fn user_agent(parts: &Parts) -> String {
    let given = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.get(..given.floor_char_boundary(USER_AGENT_MAX)).unwrap_or_default().to_owned()
}

/// The reason why no front end has answered a request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// There is no signature, or it is not valid.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The body is too large.
    #[error("Request must be smaller than {BODY_MAX} bytes")]
    TooLarge,
    /// The body does not come to its end.
    #[error("The request has not been received within {} seconds", BODY_TIME.as_secs())]
    Slow,
    /// The connection broke, or the body's framing is invalid.
    #[error("The request's body cannot be read")]
    Broken,
}

impl Refused {
    fn response(&self, protocol: Protocol, id: &str) -> Response<Full<Bytes>> {
        let (status, name) = match self {
            Self::Signature(error) => {
                let (name, status) = error.exception(protocol);
                (status, name)
            }
            Self::TooLarge => (413, "RequestEntityTooLargeException"),
            Self::Slow => (408, "RequestTimeoutException"),
            Self::Broken => (400, "SerializationException"),
        };
        protocol::refusal(protocol, id, status, name, &self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// A body in parts of 100 KiB.
    fn body(parts: usize) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send {
        let part = || Ok(Frame::data(Bytes::from(vec![b'a'; 100 << 10])));
        StreamBody::new(tokio_stream::iter((0..parts).map(move |_| part())))
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_one_by_one_and_together() {
        let room = |own: usize, all: &Arc<Semaphore>| Room {
            own: Arc::new(Semaphore::new(own << 10)),
            all: Arc::clone(all),
        };
        let all = Arc::new(Semaphore::new(350 << 10));
        let one = room(250, &all);
        let (first, taken) = read(body(2), &one).await.unwrap();
        assert_eq!((first.len(), one.own.available_permits()), (200 << 10, 50 << 10));
        // The key has no room for another one, and the other key has room for one part of a body alone.
        assert!(matches!(read(body(1), &one).await, Err(Refused::Slow)));
        let other = room(1000, &all);
        assert_eq!(read(body(1), &other).await.unwrap().0.len(), 100 << 10);
        assert!(matches!(read(body(2), &other).await, Err(Refused::Slow)));
        drop(taken);
        assert_eq!((one.own.available_permits(), all.available_permits()), (250 << 10, 350 << 10));
        assert_eq!(read(body(2), &other).await.unwrap().0.len(), 200 << 10);
        let large = Arc::new(Semaphore::new(UNVERIFIED_MAX.1));
        let large = room(UNVERIFIED_MAX.0 >> 10, &large);
        assert!(matches!(read(body(30), &large).await, Err(Refused::TooLarge)));
        assert_eq!(large.own.available_permits(), UNVERIFIED_MAX.0);
        let none = read(http_body_util::Empty::<Bytes>::new(), &one).await.unwrap();
        assert!(none.0.is_empty() && none.1.own.is_none());
    }

    #[test]
    fn keys_share_no_room() {
        let rooms = Rooms::new();
        let (one, same, other) = (rooms.of("one"), rooms.of("one"), rooms.of("other"));
        assert!(Arc::ptr_eq(&one.own, &same.own) && !Arc::ptr_eq(&one.own, &other.own));
        drop((one, same, other));
        for key in 0..2 * KEYS {
            rooms.of(&key.to_string());
        }
        assert!(rooms.keys.lock().unwrap().len() <= KEYS);
    }
}
