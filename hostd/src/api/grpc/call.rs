//! What every call goes through.

use std::time::Duration;

use hearth_proto::microvms::v1 as proto;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Extensions, Response, Status};
use tracing::Instrument as _;

use super::Grpc;
use super::status::status;
use crate::access::{Caller, Peer};
use crate::api::observer::{Call, Named, Shown};
use crate::ids;
use crate::service::{Operation, Request, ServiceError};

/// The id of a call, in the metadata of its answer.
const REQUEST_ID: &str = "x-amzn-requestid";

/// An answer that can be shown.
pub(super) trait Answer: prost::Message {
    /// Its full name.
    const MESSAGE: &'static str;
}

macro_rules! answers {
    ($($message:ident),+ $(,)?) => {$(
        impl Answer for proto::$message {
            const MESSAGE: &'static str = concat!("hearth.microvms.v1.", stringify!($message));
        }
    )+};
}

answers!(
    Microvm,
    ListMicrovmsResponse,
    SuspendMicrovmResponse,
    ResumeMicrovmResponse,
    TerminateMicrovmResponse,
    CreateMicrovmAuthTokenResponse,
    CreateMicrovmShellAuthTokenResponse,
    MicrovmImageDetails,
    GetMicrovmImageResponse,
    ListMicrovmImagesResponse,
    DeleteMicrovmImageResponse,
    MicrovmImageVersion,
    ListMicrovmImageVersionsResponse,
    DeleteMicrovmImageVersionResponse,
    GetMicrovmImageBuildResponse,
    ListMicrovmImageBuildsResponse,
    ListManagedMicrovmImagesResponse,
    ListManagedMicrovmImageVersionsResponse,
    ListTagsResponse,
    TagResourceResponse,
    UntagResourceResponse,
);

macro_rules! host_answers {
    ($($message:ident),+ $(,)?) => {$(
        impl Answer for hearth_proto::host::v1::$message {
            const MESSAGE: &'static str = concat!("hearth.host.v1.", stringify!($message));
        }
    )+};
}

host_answers!(
    HostStatus,
    ListLogGroupsResponse,
    ListLogStreamsResponse,
    ReadLogsResponse,
    PutArtifactResponse,
    BackUpStoreResponse,
);

/// Where a call comes from.
struct Origin {
    peer: Peer,
    user_agent: Option<String>,
    request_id: String,
    since: Instant,
}

impl Origin {
    fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let tcp = extensions.get::<TcpConnectInfo>();
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
        let peer = match (extensions.get::<UdsConnectInfo>(), tcp.or(tls)) {
            (Some(unix), _) => Peer::Unix { uid: unix.peer_cred.map(|credentials| credentials.uid()) },
            (None, tcp) => {
                let address = tcp.and_then(TcpConnectInfo::remote_addr);
                Peer::Tcp { address: address.map_or_else(String::new, |address| address.ip().to_string()) }
            }
        };
        let user_agent = metadata.get("user-agent").and_then(|agent| agent.to_str().ok()).map(str::to_owned);
        // Without randomness nothing works; the id is then the one that no call has.
        let request_id = ids::random().unwrap_or_else(|| ids::uuid([0; 16]));
        Self { peer, user_agent, request_id, since: Instant::now() }
    }

    fn took(&self) -> Duration {
        self.since.elapsed()
    }

    /// An answer, with the id of its call.
    fn identified(&self, mut metadata: MetadataMap) -> MetadataMap {
        if let Ok(id) = AsciiMetadataValue::try_from(self.request_id.as_str()) {
            metadata.insert(REQUEST_ID, id);
        }
        metadata
    }

    fn status(&self, error: &ServiceError) -> Status {
        let mut status = status(error, &self.request_id);
        let metadata = self.identified(std::mem::take(status.metadata_mut()));
        *status.metadata_mut() = metadata;
        status
    }

    fn answer<A>(&self, answer: A) -> Response<A> {
        let mut response = Response::new(answer);
        let metadata = self.identified(std::mem::take(response.metadata_mut()));
        *response.metadata_mut() = metadata;
        response
    }
}

impl Grpc {
    /// Answers a request that has one answer.
    pub(super) async fn answer<R: Request, A: Answer, F: Future<Output = Result<A, ServiceError>>>(
        &self,
        request: tonic::Request<R>,
        operation: impl FnOnce(Caller, R) -> F,
    ) -> Result<Response<A>, Status> {
        let shown = request.get_ref().clone();
        self.go(request, &Named(&shown, R::MESSAGE), R::OPERATION, operation, |answer, told| {
            told(Some(&Named(answer, A::MESSAGE)));
        })
        .await
    }

    /// Begins to answer a request with a stream.
    pub(super) async fn stream<R: Request, S, F: Future<Output = Result<S, ServiceError>>>(
        &self,
        request: tonic::Request<R>,
        operation: impl FnOnce(Caller, R) -> F,
    ) -> Result<Response<S>, Status> {
        let shown = request.get_ref().clone();
        self.go(request, &Named(&shown, R::MESSAGE), R::OPERATION, operation, |_, told| told(None)).await
    }

    /// Answers requests that come as a stream; they are not shown.
    pub(super) async fn collect<Q, A: Answer, F: Future<Output = Result<A, ServiceError>>>(
        &self,
        request: tonic::Request<Q>,
        operation: Operation,
        collect: impl FnOnce(Caller, Q) -> F,
    ) -> Result<Response<A>, Status> {
        self.go(request, &Nothing, operation, collect, |answer, told| told(Some(&Named(answer, A::MESSAGE)))).await
    }

    async fn go<Q, A, F: Future<Output = Result<A, ServiceError>>>(
        &self,
        request: tonic::Request<Q>,
        shown: &dyn Shown,
        operation: Operation,
        work: impl FnOnce(Caller, Q) -> F,
        show: impl FnOnce(&A, &mut dyn FnMut(Option<&dyn Shown>)),
    ) -> Result<Response<A>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let origin = Origin::of(&metadata, &extensions);
        let span = tracing::info_span!("call", %operation, request_id = origin.request_id);
        let authorization = metadata.get("authorization").map(|value| value.to_str().unwrap_or_default());
        let identified = self.access.identify(&origin.peer, authorization, &origin.request_id);
        let (caller, result) = match identified {
            Ok(caller) => {
                let result = work(caller.clone(), request).instrument(span.clone()).await;
                (Some(caller), result)
            }
            Err(error) if operation.is_of_tags() => (None, Err(error.of_tags())),
            Err(error) => (None, Err(error)),
        };
        let _entered = span.enter();
        let source = origin.peer.source();
        let mut told = |response: Option<&dyn Shown>, error: Option<&ServiceError>| {
            self.observer.called(&Call {
                operation,
                caller: caller.as_ref(),
                request_id: &origin.request_id,
                source: &source,
                user_agent: origin.user_agent.as_deref(),
                request: shown,
                response,
                error,
                took: origin.took(),
            });
        };
        match result {
            Ok(answer) => {
                show(&answer, &mut |response| told(response, None));
                tracing::debug!(took = ?origin.took(), "answered");
                Ok(origin.answer(answer))
            }
            Err(error) => {
                told(None, Some(&error));
                if error.is_internal() {
                    tracing::error!(%error, cause = error.cause().as_deref(), "failed");
                } else {
                    tracing::debug!(%error, exception = error.exception().name, "refused");
                }
                Err(origin.status(&error))
            }
        }
    }
}

/// Nothing to show.
struct Nothing;

impl Shown for Nothing {
    fn json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
