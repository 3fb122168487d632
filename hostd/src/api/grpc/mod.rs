//! The services over gRPC, reflection and health.
//!
//! Every call runs the same steps: identify the caller, perform the operation, notify the observer. Responses and
//! errors have the call's id in `x-amzn-requestid`.
//!
//! * [`microvms`] – AWS's 24 operations; [`host`] – Hearth's own operations
//! * [`panics`] – handling of calls that panic
//! * [`status`] – errors as `google.rpc` details

pub mod host;
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
use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Extensions, Response, Status};
use tracing::Instrument as _;
use uuid::Uuid;

use super::calls::{Call, CallObserver};
use super::json;
use crate::access::{Access, Caller, Origin, UnknownCaller, fingerprint};
use crate::service::{Operation, Request, Service, ServiceError};
use host::HostParts;
use status::{status, with_request_id};

/// Greatest size of a request message, in bytes. Artifacts are sent in parts.
const MESSAGE_MAX: usize = 4 << 20;

/// The services. Clones are cheap and share all state.
#[derive(Clone)]
pub struct Grpc {
    service: Service,
    access: Arc<Access>,
    observer: Arc<dyn CallObserver>,
    host: Arc<HostParts>,
}

/// Metadata of a call, which is known before its request is processed.
struct Envelope {
    origin: Option<Origin>,
    authorization: Option<String>,
    user_agent: String,
    request_id: String,
    since: Instant,
}

impl Envelope {
    fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            origin: origin(extensions),
            authorization: text("authorization"),
            user_agent: text("user-agent").unwrap_or_default(),
            request_id: extensions
                .get::<panics::RequestId>()
                .map_or_else(|| Uuid::new_v4().to_string(), |id| id.0.clone()),
            since: Instant::now(),
        }
    }
}

fn origin(extensions: &Extensions) -> Option<Origin> {
    if let Some(socket) = extensions.get::<UdsConnectInfo>() {
        // Without credentials of the peer, the caller is unknown.
        return Some(Origin::Socket(socket.peer_cred?.uid()));
    }
    let address =
        |info: &TcpConnectInfo| info.remote_addr().map(|address| address.to_string()).unwrap_or_default();
    if let Some(info) = extensions.get::<TlsConnectInfo<TcpConnectInfo>>() {
        let certificate =
            info.peer_certs().and_then(|chain| chain.first().map(|first| fingerprint(first.as_ref())));
        return Some(Origin::Network { address: address(info.get_ref()), certificate });
    }
    let info = extensions.get::<TcpConnectInfo>()?;
    Some(Origin::Network { address: address(info), certificate: None })
}

/// Performs an operation. A panic in it becomes an internal error, which is reported like other errors.
async fn finished<T>(work: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
    crate::panics::request(work).await.unwrap_or_else(|_| Err(ServiceError::panicked()))
}

impl Grpc {
    /// Creates the services from their components.
    #[must_use]
    pub fn new(service: Service, access: Access, observer: Arc<dyn CallObserver>, host: HostParts) -> Self {
        Self { service, access: Arc::new(access), observer, host: Arc::new(host) }
    }

    /// All services, with reflection (v1 and v1alpha) and health.
    ///
    /// # Errors
    /// The descriptors cannot be read, which is a fault of the build.
    pub async fn routes(self) -> Result<Routes, tonic_reflection::server::Error> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let microvms = MicrovmServiceServer::new(self.clone()).max_decoding_message_size(MESSAGE_MAX);
        let host = HostServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<MicrovmServiceServer<Self>>().await;
        reporter.set_serving::<HostServiceServer<Self>>().await;
        let mut routes = Routes::builder();
        routes.add_service(microvms).add_service(host).add_service(health);
        routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);
        Ok(routes.routes())
    }

    fn identify(&self, envelope: &Envelope) -> Result<Caller, ServiceError> {
        let origin = envelope.origin.as_ref();
        let origin = origin.ok_or(UnknownCaller::NoOrigin)?;
        Ok(self.access.identify(origin, envelope.authorization.as_deref(), envelope.request_id.clone())?)
    }

    /// A call with one request and one response. `answer` is the full name of the response's message.
    async fn call<R, A, W, F>(
        &self,
        request: tonic::Request<R>,
        answer: &'static str,
        work: W,
    ) -> Result<Response<A>, Status>
    where
        R: Request,
        A: prost::Message,
        W: FnOnce(Service, Caller, R) -> F,
        F: Future<Output = Result<A, ServiceError>> + Send,
    {
        let envelope = Envelope::of(request.metadata(), request.extensions());
        let request = request.into_inner();
        let wanted = self.observer.wants(R::OPERATION);
        let asked = if wanted { json::to_json(R::MESSAGE, &request) } else { Value::Null };
        let span =
            tracing::info_span!("call", operation = R::OPERATION.name(), request = envelope.request_id);
        let caller = self.identify(&envelope);
        let result = match &caller {
            Ok(caller) => {
                let work = work(self.service.clone(), caller.clone(), request).instrument(span);
                finished(work).await
            }
            Err(error) => Err(error.clone()),
        };
        let answered = match &result {
            Ok(message) if wanted => json::to_json(answer, message),
            _ => Value::Null,
        };
        self.told(R::OPERATION, &envelope, caller.as_ref().ok(), (asked, answered), result.as_ref().err());
        let mut response = result.map(Response::new).map_err(|error| status(&error, &envelope.request_id))?;
        with_request_id(response.metadata_mut(), &envelope.request_id);
        Ok(response)
    }

    /// Notifies the observer of a call that was answered, or whose stream has begun.
    fn told(
        &self,
        operation: Operation,
        envelope: &Envelope,
        caller: Option<&Caller>,
        (request, response): (Value, Value),
        error: Option<&ServiceError>,
    ) {
        if let Some(error) = error.filter(|error| error.is_internal()) {
            let cause = error.cause().unwrap_or_default();
            tracing::error!(request = envelope.request_id, operation = operation.name(), %error, %cause, "a call has failed");
        }
        self.observer.called(Call {
            operation,
            caller,
            request_id: &envelope.request_id,
            address: &envelope.origin.as_ref().map(Origin::address).unwrap_or_default(),
            user_agent: &envelope.user_agent,
            request,
            response,
            error,
            took: envelope.since.elapsed(),
        });
    }
}
