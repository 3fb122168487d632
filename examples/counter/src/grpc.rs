//! The counter over gRPC.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use hyper::Response;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Request, Status, Streaming};
use tower::ServiceExt as _;

use crate::state::State;

mod proto {
    #![allow(clippy::all, missing_docs, unreachable_pub, reason = "generated")]
    tonic::include_proto!("hearth.example.v1");
}

use proto::counter_server::{Counter, CounterServer};
use proto::{CountReply, CountRequest, CountUpRequest};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/counter.bin"));

/// The service, with reflection.
#[derive(Clone)]
pub(crate) struct Grpc(Routes);

impl Grpc {
    pub(crate) fn new(state: &Arc<State>) -> Result<Self, tonic_reflection::server::Error> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .build_v1()?;
        let counter = CounterServer::new(Service(Arc::clone(state)));
        Ok(Self(Routes::new(counter).add_service(reflection)))
    }

    /// Answers a call.
    pub(crate) async fn call(self, request: hyper::Request<Incoming>) -> Response<Body> {
        match self.0.oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

struct Service(Arc<State>);

type Replies = Pin<Box<dyn Stream<Item = Result<CountReply, Status>> + Send>>;

fn count(state: &State) -> CountReply {
    CountReply { count: state.count() }
}

#[tonic::async_trait]
impl Counter for Service {
    type CountUpStream = Replies;
    type CountAlongStream = Replies;

    async fn count(&self, _: Request<CountRequest>) -> Result<tonic::Response<CountReply>, Status> {
        Ok(tonic::Response::new(count(&self.0)))
    }

    async fn count_up(&self, request: Request<CountUpRequest>) -> Result<tonic::Response<Replies>, Status> {
        let (state, times) = (Arc::clone(&self.0), request.into_inner().times);
        let replies = futures_util::stream::iter(0..times).map(move |_| Ok(count(&state)));
        Ok(tonic::Response::new(Box::pin(replies)))
    }

    async fn count_all(
        &self,
        request: Request<Streaming<CountRequest>>,
    ) -> Result<tonic::Response<CountReply>, Status> {
        let mut requests = request.into_inner();
        let mut last = *self.0.counts().borrow();
        while requests.message().await?.is_some() {
            last = self.0.count();
        }
        Ok(tonic::Response::new(CountReply { count: last }))
    }

    async fn count_along(
        &self,
        request: Request<Streaming<CountRequest>>,
    ) -> Result<tonic::Response<Replies>, Status> {
        let state = Arc::clone(&self.0);
        let replies = request.into_inner().map(move |request| request.map(|_| count(&state)));
        Ok(tonic::Response::new(Box::pin(replies)))
    }
}
