//! From a request to the front end of the service that its signature is for.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::USER_AGENT;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use uuid::Uuid;

use super::reply::{Body, refusal, whole, with_request_id};
use super::{logs, rest, s3, sts};
use crate::access::Access;
use crate::access::sigv4::{self, Claim, Protocol, SignatureError};
use crate::panics;
use crate::service::pipeline::Incoming;
use crate::service::{Service, ServiceError};

/// Greatest size of a request's body, in bytes. The largest request, with all environment variables that an image may
/// have, has less.
const BODY_MAX: usize = 256 << 10;
/// Greatest number of bytes of bodies whose signatures are not verified yet, of all connections together: who knows the id
/// of a key can have bodies received.
const UNVERIFIED_MAX: usize = 64 << 20;
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
    /// Room for bodies whose signatures are not verified yet, in bytes.
    room: Arc<Semaphore>,
}

impl Dispatch {
    pub(super) fn new(service: Service, access: Arc<Access>, tls: bool) -> Self {
        Self { service, access, tls, room: Arc::new(Semaphore::new(UNVERIFIED_MAX)) }
    }

    /// Answers a request. A panic ends the request only.
    pub(super) async fn answer<B>(&self, peer: SocketAddr, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (id, since) = (Uuid::new_v4().to_string(), Instant::now());
        let path = request.uri().path().to_owned();
        let answered = panics::request(self.signed(peer, request, &id, since)).await;
        let mut response = match answered {
            Ok(Ok(signed_answer)) => signed_answer,
            Ok(Err((protocol, refused))) => {
                tracing::debug!(request = id, %peer, path, %refused, "a request is refused");
                whole(refused.response(protocol, &id))
            }
            Err(panics::Panicked) => {
                tracing::error!(request = id, path, "a call has ended with a panic");
                let error = ServiceError::panicked();
                whole(refusal(500, error.exception().name, &error.to_string()))
            }
        };
        with_request_id(&mut response, &id);
        response
    }

    /// Verifies a request and has a front end answer it. Nothing of the body is read unless the head names a known key.
    async fn signed<B>(
        &self,
        peer: SocketAddr,
        request: Request<B>,
        id: &str,
        since: Instant,
    ) -> Result<Response<Body>, (Protocol, Refused)>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let unsigned = |error: SignatureError| (Protocol::RestJson, Refused::from(error));
        let claim =
            Claim::read(&parts).map_err(unsigned)?.ok_or_else(|| unsigned(SignatureError::Missing))?;
        let protocol = protocol(claim.service());
        let refused = |error: SignatureError| (protocol, Refused::from(error));
        let key = self.access.known(&claim, self.service.now()).map_err(refused)?;
        let incoming = |caller, parts: &Parts| Incoming {
            caller: Ok(caller),
            request_id: id.to_owned(),
            address: peer.to_string(),
            user_agent: user_agent(parts),
            since,
        };
        if claim.service() == sigv4::S3 {
            let claimed = s3::Claimed {
                incoming: incoming(key.caller(id.to_owned()), &parts),
                access_key: claim.access_key().to_owned(),
                secret: key.secret().expose().into(),
                tls: self.tls,
            };
            let response = s3::answer(&self.service, claimed, Request::from_parts(parts, body)).await;
            return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()));
        }
        let (body, taken) = read(body, &self.room).await.map_err(|why| (protocol, why))?;
        let verified = self.access.verified(&key, &claim, &parts, &body, self.tls, id.to_owned());
        drop(taken);
        let caller = verified.map_err(refused)?;
        let signed = Signed { incoming: incoming(caller, &parts), parts, body };
        match claim.service() {
            "lambda" | "lambda-core" => Ok(whole(rest::answer(&self.service, signed).await)),
            "sts" => Ok(whole(sts::answer(&self.service, signed).await)),
            "logs" => Ok(whole(logs::answer(&self.service, signed).await)),
            other => Err((protocol, Refused::Service(other.to_owned()))),
        }
    }
}

/// The protocol of a service, which says what an error looks like.
fn protocol(service: &str) -> Protocol {
    match service {
        "sts" => Protocol::Query,
        "logs" => Protocol::AwsJson,
        "s3" => Protocol::RestXml,
        _ => Protocol::RestJson,
    }
}

/// Reads a body. It takes room until the second value is dropped.
async fn read<B>(body: B, room: &Arc<Semaphore>) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused>
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
        let (mut whole, mut taken) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => Refused::TooLarge,
                false => Refused::Broken,
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let bytes = u32::try_from(data.len()).map_err(|_| Refused::TooLarge)?;
            let more = Arc::clone(room).acquire_many_owned(bytes).await.map_err(|_| Refused::Broken)?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
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
    /// The signature is for a service that this host does not have.
    #[error(
        "Credential should be scoped to correct service: 'lambda', 'logs', 's3' or 'sts'. It is scoped to '{0}'."
    )]
    Service(String),
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
            Self::Signature(error) if protocol == Protocol::Query => return sts::refusal(id, error),
            Self::Signature(error) => {
                let (name, status) = error.exception(protocol);
                (status, name)
            }
            Self::Service(_) => (403, "InvalidSignatureException"),
            Self::TooLarge => (413, "RequestEntityTooLargeException"),
            Self::Slow => (408, "RequestTimeoutException"),
            Self::Broken => (400, "SerializationException"),
        };
        refusal(status, name, &self.to_string())
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
        let room = Arc::new(Semaphore::new(350 << 10));
        let (first, taken) = read(body(2), &room).await.unwrap();
        assert_eq!((first.len(), room.available_permits()), (200 << 10, 150 << 10));
        // There is room for the first part of another body alone, and nobody makes more.
        assert!(matches!(read(body(2), &room).await, Err(Refused::Slow)));
        drop(taken);
        assert!(matches!(read(body(3), &room).await, Err(Refused::TooLarge)));
        assert_eq!(room.available_permits(), 350 << 10);
        assert_eq!(read(body(2), &room).await.unwrap().0.len(), 200 << 10);
        let none = read(http_body_util::Empty::<Bytes>::new(), &room).await.unwrap();
        assert!(none.0.is_empty() && none.1.is_none());
    }
}
