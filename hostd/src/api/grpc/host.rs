//! `hearth.host.v1`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use hearth_proto::host::v1 as proto;
use hearth_proto::host::v1::host_service_server::HostService;
use hearth_proto::host::v1::put_artifact_request::Part;
use tonic::{Request, Response, Status, Streaming};

use super::Grpc;
use super::operations::Answers;
use super::status::status;
use crate::access::Caller;
use crate::service::{self, Operation, ServiceError};

type Told<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// Answers as gRPC tells them.
fn told<A: 'static>(answers: Answers<A>, request_id: String) -> Told<A> {
    Box::pin(answers.map(move |answer| answer.map_err(|error| status(&error, &request_id))))
}

impl Grpc {
    /// What the operations on the whole host begin with.
    fn begin<R: service::Request>(&self, caller: &Caller, request: &R) -> Result<(), ServiceError> {
        self.service.begin(caller, request)?;
        self.service.authorise(caller, R::OPERATION)
    }

    async fn put(
        &self,
        caller: &Caller,
        mut parts: Streaming<proto::PutArtifactRequest>,
    ) -> Result<proto::PutArtifactResponse, ServiceError> {
        let broken = |error: Status| ServiceError::invalid("data", format!("The upload has ended: {}", error.message()));
        let first = parts.message().await.map_err(broken)?.unwrap_or_default();
        self.begin(caller, &first)?;
        let Some(Part::Name(name)) = first.part else {
            return Err(ServiceError::invalid("name", "The first message must have the name"));
        };
        let mut upload = self.host.artifacts().begin(&caller.account, &name).await?;
        while let Some(part) = parts.message().await.map_err(broken)? {
            let Some(Part::Data(data)) = part.part else {
                return Err(ServiceError::invalid("data", "Messages behind the first one must have data"));
            };
            upload.write(&data).await?;
        }
        let (uri, bytes) = upload.finish().await?;
        Ok(proto::PutArtifactResponse { uri, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) })
    }
}

#[tonic::async_trait]
impl HostService for Grpc {
    type TailLogsStream = Told<proto::LogEvent>;
    type WatchEventsStream = Told<proto::Event>;
    type WatchBuildStream = Told<proto::BuildEvent>;

    async fn get_host_status(
        &self,
        request: Request<proto::GetHostStatusRequest>,
    ) -> Result<Response<proto::HostStatus>, Status> {
        self.answer(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            self.host.get_host_status(&caller).await
        })
        .await
    }

    async fn list_log_groups(
        &self,
        request: Request<proto::ListLogGroupsRequest>,
    ) -> Result<Response<proto::ListLogGroupsResponse>, Status> {
        self.answer(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            self.host.list_log_groups(&caller, request).await
        })
        .await
    }

    async fn list_log_streams(
        &self,
        request: Request<proto::ListLogStreamsRequest>,
    ) -> Result<Response<proto::ListLogStreamsResponse>, Status> {
        self.answer(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            self.host.list_log_streams(&caller, request).await
        })
        .await
    }

    async fn read_logs(
        &self,
        request: Request<proto::ReadLogsRequest>,
    ) -> Result<Response<proto::ReadLogsResponse>, Status> {
        self.answer(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            self.host.read_logs(&caller, request).await
        })
        .await
    }

    async fn tail_logs(
        &self,
        request: Request<proto::TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        self.stream(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            Ok(told(self.host.tail_logs(&caller, request).await?, caller.request_id))
        })
        .await
    }

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        self.stream(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            Ok(told(self.host.watch_events(&caller, request).await?, caller.request_id))
        })
        .await
    }

    async fn watch_build(
        &self,
        request: Request<proto::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        self.stream(request, async move |caller, request| {
            self.service.begin(&caller, &request)?;
            let identifier = request.image_identifier.as_deref();
            self.service.named_image(&caller, Operation::WatchBuild, identifier)?;
            Ok(told(self.host.watch_build(&caller, request).await?, caller.request_id))
        })
        .await
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<proto::PutArtifactRequest>>,
    ) -> Result<Response<proto::PutArtifactResponse>, Status> {
        self.collect(request, Operation::PutArtifact, async move |caller, parts| self.put(&caller, parts).await).await
    }

    async fn back_up_store(
        &self,
        request: Request<proto::BackUpStoreRequest>,
    ) -> Result<Response<proto::BackUpStoreResponse>, Status> {
        self.answer(request, async move |caller, request| {
            self.begin(&caller, &request)?;
            self.host.back_up_store(&caller).await
        })
        .await
    }
}
