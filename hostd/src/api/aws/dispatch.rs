//! From a request to the front end of the service that its signature is for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::USER_AGENT;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use tokio::time::timeout;
use uuid::Uuid;

use super::reply::{Body, refusal, whole, with_request_id};
use super::rest;
use super::sts;
use crate::access::Access;
use crate::access::sigv4::{Claim, Protocol, SignatureError};
use crate::panics;
use crate::service::pipeline::Incoming;
use crate::service::{Service, ServiceError};

/// Greatest size of a request's body, in bytes. The largest request, with all environment variables that an image may
/// have, has less.
const BODY_MAX: usize = 256 << 10;
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
}

impl Dispatch {
    pub(super) fn new(service: Service, access: Arc<Access>, tls: bool) -> Self {
        Self { service, access, tls }
    }

    /// Answers a request. A panic ends the request only.
    pub(super) async fn answer<B>(&self, peer: SocketAddr, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send,
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
        B: hyper::body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let unsigned = |error: SignatureError| (Protocol::RestJson, Refused::from(error));
        let claim =
            Claim::read(&parts).map_err(unsigned)?.ok_or_else(|| unsigned(SignatureError::Missing))?;
        let protocol = protocol(claim.service());
        let refused = |error: SignatureError| (protocol, Refused::from(error));
        let key = self.access.known(&claim, self.service.now()).map_err(refused)?;
        let body = read(body).await.map_err(|why| (protocol, why))?;
        let verified = self.access.verified(&key, &claim, &parts, &body, self.tls, id.to_owned());
        let caller = verified.map_err(refused)?;
        let incoming = Incoming {
            caller: Ok(caller),
            request_id: id.to_owned(),
            address: peer.to_string(),
            user_agent: user_agent(&parts),
            since,
        };
        let signed = Signed { incoming, parts, body };
        match claim.service() {
            "lambda" | "lambda-core" => Ok(whole(rest::answer(&self.service, signed).await)),
            "sts" => Ok(whole(sts::answer(&self.service, signed).await)),
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

/// Reads a body.
async fn read<B>(body: B) -> Result<Bytes, Refused>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let max = u64::try_from(BODY_MAX).unwrap_or(u64::MAX);
    // A client that says how much it sends need not send it.
    if body.size_hint().lower() > max {
        return Err(Refused::TooLarge);
    }
    let body = timeout(BODY_TIME, Limited::new(body, BODY_MAX).collect()).await;
    match body.map_err(|_| Refused::Slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refused::TooLarge),
        Err(_) => Err(Refused::Broken),
    }
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
    #[error("Credential should be scoped to correct service: 'lambda' or 'sts'. It is scoped to '{0}'.")]
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
