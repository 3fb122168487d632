//! A panic in the handling of a call ends that call only: the client receives INTERNAL with the call's id.
//!
//! Operations catch their panics themselves with [`crate::panics`], so that the audit log contains the calls. This
//! layer is outermost and catches all others: those before and after operations, in reflection, health, and the bodies
//! of responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use uuid::Uuid;

use super::status::status;
use crate::panics::{Caught, Panicked, catch, request as caught};
use crate::service::ServiceError;

/// The id of a call, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// A layer that turns panics in calls into errors.
#[derive(Debug, Clone, Copy, Default)]
pub struct EndsCalls;

impl<S> Layer<S> for EndsCalls {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded(inner)
    }
}

/// A service whose panics become errors.
#[derive(Debug, Clone)]
pub struct Guarded<S>(S);

impl<S, A> Service<Request<A>> for Guarded<S>
where
    S: Service<Request<A>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let id = Uuid::new_v4().to_string();
        request.extensions_mut().insert(RequestId(id.clone()));
        let path = request.uri().path().to_owned();
        let called = catch(|| self.0.call(request));
        Box::pin(async move {
            let answered = match called {
                Ok(answering) => caught(answering).await,
                Err(panicked) => Err(panicked),
            };
            match answered {
                Ok(response) => Ok(response?
                    .map(|body| tonic::body::Body::new(ResponseBody { body: Caught::new(body), id, path }))),
                Err(Panicked) => Ok(panic_status(&id, &path).into_http()),
            }
        })
    }
}

fn panic_status(id: &str, path: &str) -> Status {
    tracing::error!(request = id, path, "a call has ended with a panic");
    status(&ServiceError::panicked(), id)
}

/// The body of a response. If producing it panics, the body ends with trailers that contain the error.
struct ResponseBody {
    body: Caught<tonic::body::Body>,
    id: String,
    path: String,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.body.go_on(|body| body.poll_frame(context)) {
            Some(Poll::Ready(Ok(frame))) => Poll::Ready(frame),
            Some(Poll::Ready(Err(Panicked))) => {
                let status = panic_status(&self.id, &self.path);
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
            }
            Some(Poll::Pending) => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.get().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.get().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
