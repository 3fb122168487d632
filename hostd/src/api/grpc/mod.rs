//! The services over gRPC, reflection and health. Every method maps its messages and calls [`crate::service`].
//!
//! Responses and errors have the call's id in `x-amzn-requestid`.
//!
//! * `microvms` – AWS's 24 operations; `host` – Hearth's own operations
//! * `caller` – the layer that finds out who calls, and refuses whom it does not know
//! * `bounds` – the layer that bounds what a request may have received, in bytes and time
//! * `deadline` – the time that a client gives its call
//! * [`panics`] – handling of calls that panic
//! * [`status`] – errors as `google.rpc` details

pub(crate) mod bounds;
mod caller;
mod deadline;
mod host;
mod microvms;
pub mod panics;
pub mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use hearth_proto::FILE_DESCRIPTOR_SET;
use hearth_proto::host::v1::host_service_server::HostServiceServer;
use hearth_proto::microvms::v1::microvm_service_server::MicrovmServiceServer;
use tonic::body::Body;
use tonic::service::{LayerExt as _, Routes};
use tonic::{Request, Response, Status};
use tower::layer::util::Stack;
use tower::{Layer as _, ServiceExt as _};
use uuid::Uuid;

use crate::access::{Access, UnknownCaller};
use crate::api::connections::Client;
use crate::service::pipeline::{Handler, Incoming};
use crate::service::{Service, ServiceError};
use bounds::Bounds;
use caller::Identifies;
use panics::EndsCalls;
use status::{status, with_request_id};

/// Greatest size of a message of an answer, in bytes: what clients take unless they are configured otherwise. Operations
/// bound their answers far below.
const ANSWER_MAX: usize = 4 << 20;

/// The services. Clones are cheap and share all state.
#[derive(Clone)]
pub struct Grpc {
    service: Service,
}

/// Answers a request of a client.
pub(super) fn answer(
    routes: Routes,
    client: &Client,
    request: hyper::Request<hyper::body::Incoming>,
) -> impl Future<Output = hyper::Response<Body>> + Send + 'static + use<> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client.known.clone());
    if let Some(origin) = caller::origin(client) {
        request.extensions_mut().insert(origin);
    }
    let limit = deadline::of(request.headers());
    let answered = EndsCalls.layer(routes).oneshot(request);
    async move {
        let answered = deadline::within(limit, answered).await;
        match answered {
            Ok(response) => response.unwrap_or_else(|never| match never {}),
            Err(passed) => passed.into_http(),
        }
    }
}

/// A call, as the layer [`Identifies`] has described it, and its message or messages.
fn incoming<R>(request: Request<R>) -> (Incoming, R) {
    let (_, mut extensions, message) = request.into_parts();
    let incoming = extensions.remove().unwrap_or_else(|| Incoming {
        caller: Err(UnknownCaller::NoOrigin),
        request_id: Uuid::new_v4().to_string(),
        address: String::new(),
        user_agent: String::new(),
        since: Instant::now(),
    });
    (incoming, message)
}

/// The result of an operation as the answer of the call with this id.
fn answered<T>(request_id: &str, result: Result<T, ServiceError>) -> Result<Response<T>, Status> {
    let mut response = result.map(Response::new).map_err(|error| status(&error, request_id))?;
    with_request_id(response.metadata_mut(), request_id);
    Ok(response)
}

impl Grpc {
    /// Creates the services.
    #[must_use]
    pub fn new(service: Service) -> Self {
        Self { service }
    }

    /// All services, with reflection (v1 and v1alpha) and health. `access` knows the callers.
    ///
    /// # Errors
    /// The descriptors cannot be read, which is a fault of the build.
    pub async fn routes(
        self,
        access: impl Into<Arc<Access>>,
    ) -> Result<Routes, tonic_reflection::server::Error> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let service = self.service.clone();
        let layers = Stack::new(Bounds::default(), Identifies::new(access.into(), service));
        // The layer bounds the messages of all methods but uploads, whose messages are bounded one by one.
        let microvms = MicrovmServiceServer::new(self.clone())
            .max_decoding_message_size(bounds::REQUEST_MAX)
            .max_encoding_message_size(ANSWER_MAX);
        let host = HostServiceServer::new(self)
            .max_decoding_message_size(bounds::UPLOAD_MESSAGE_MAX)
            .max_encoding_message_size(ANSWER_MAX);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<MicrovmServiceServer<Self>>().await;
        reporter.set_serving::<HostServiceServer<Self>>().await;
        let mut routes = Routes::builder();
        routes.add_service(layers.named_layer(microvms)).add_service(layers.named_layer(host));
        routes.add_service(layers.named_layer(health));
        routes.add_service(layers.named_layer(reflection().build_v1()?));
        routes.add_service(layers.named_layer(reflection().build_v1alpha()?));
        Ok(routes.routes())
    }

    /// An operation with one request message and one response message.
    async fn call<H: Handler>(&self, request: Request<H>) -> Result<Response<H::Response>, Status> {
        let (incoming, request) = incoming(request);
        answered(&incoming.request_id, self.service.call(&incoming, request).await)
    }
}
