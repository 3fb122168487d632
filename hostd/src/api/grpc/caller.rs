//! A layer that finds out who calls, from the connection and the headers of a call, before anything of its body is
//! received.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::Either;
use hyper::http::{Extensions, HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::Layer;
use uuid::Uuid;

use super::panics::RequestId;
use super::status::status;
use crate::access::{Access, Origin, UnknownCaller};
use crate::api::connections::unknown::Known;
use crate::api::connections::{Client, Peer};
use crate::operation::Operation;
use crate::service::pipeline::Incoming;
use crate::service::{Service, ServiceError};

/// The one method that unknown callers may call: load balancers have no keys. Its message is tiny ([`super::bounds`]).
const OPEN: &str = "/grpc.health.v1.Health/Check";
/// Greatest length of a user agent that is kept, in bytes.
const USER_AGENT_MAX: usize = 512;

/// A layer that adds the [`Incoming`] call to the extensions of a request, and refuses unknown callers.
#[derive(Clone)]
pub(super) struct Identifies {
    access: Arc<Access>,
    service: Service,
}

impl Identifies {
    /// `access` knows the callers; `service` audits those whom it does not know.
    pub(super) fn new(access: Arc<Access>, service: Service) -> Self {
        Self { access, service }
    }

    /// The status of a call of an unknown caller.
    fn refuse(&self, path: &str, incoming: &Incoming, unknown: UnknownCaller) -> Status {
        let method = path.rsplit('/').next().unwrap_or_default();
        let error = match Operation::named(method) {
            Some(operation) => self.service.refuse(operation, incoming, unknown),
            None => {
                tracing::debug!(request = incoming.request_id, path, %unknown, "a call is refused");
                ServiceError::from(unknown)
            }
        };
        status(&error, &incoming.request_id)
    }
}

impl<S> Layer<S> for Identifies {
    type Service = Identified<S>;

    fn layer(&self, inner: S) -> Identified<S> {
        Identified { inner, identifies: self.clone() }
    }
}

/// A service whose requests have their [`Incoming`] call.
#[derive(Clone)]
pub(super) struct Identified<S> {
    inner: S,
    identifies: Identifies,
}

impl<S, A> tower::Service<Request<A>> for Identified<S>
where
    S: tower::Service<Request<A>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let incoming = identify(&self.identifies.access, request.headers(), request.extensions());
        let path = request.uri().path();
        if let Err(unknown) = incoming.caller
            && path != OPEN
        {
            let status = self.identifies.refuse(path, &incoming, unknown);
            return Either::Right(ready(Ok(status.into_http())));
        }
        if let (Ok(caller), Some(known)) = (&incoming.caller, request.extensions().get::<Known>()) {
            known.now(&caller.account);
        }
        request.extensions_mut().insert(incoming);
        Either::Left(self.inner.call(request))
    }
}

fn identify(access: &Access, headers: &HeaderMap, extensions: &Extensions) -> Incoming {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let new = || Uuid::new_v4().to_string();
    let request_id = extensions.get::<RequestId>().map_or_else(new, |id| id.0.clone());
    let origin = extensions.get::<Origin>();
    let address = origin.map(Origin::address).unwrap_or_default();
    let caller = origin.ok_or(UnknownCaller::NoOrigin);
    let caller = caller.and_then(|origin| access.identify(origin, text("authorization"), request_id.clone()));
    let user_agent = text("user-agent").unwrap_or_default();
    let user_agent = user_agent.get(..user_agent.floor_char_boundary(USER_AGENT_MAX));
    let user_agent = user_agent.unwrap_or_default().to_owned();
    Incoming { caller, request_id, address, user_agent, since: Instant::now() }
}

/// Where a client is; `None` if that is unknown.
pub(super) fn origin(client: &Client) -> Option<Origin> {
    match client.peer {
        Peer::User(user) => user.map(Origin::Socket),
        Peer::Network(address) => {
            Some(Origin::Network { address: address.to_string(), certificate: client.certificate })
        }
    }
}
