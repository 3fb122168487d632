//! Hearth's own operations.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt as _};
use hearth_proto::host::v1 as api;
use hearth_proto::host::v1::host_service_server::HostService;
use tonic::{Request, Response, Status, Streaming};

use super::status::status;
use super::{Grpc, answered, incoming};
use crate::service::ServiceError;
use crate::service::host::stream::Answers;
use crate::service::host::upload::ArtifactStream;
use crate::service::pipeline::Handler;

type Statuses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Grpc {
    /// An operation whose response is a stream.
    async fn stream<H, T>(&self, request: Request<H>) -> Result<Response<Statuses<T>>, Status>
    where
        H: Handler<Response = Answers<T>>,
        T: Send + 'static,
    {
        let (incoming, request) = incoming(request);
        let answers = self.service.call(&incoming, request).await;
        let id = incoming.request_id.clone();
        let statuses = |answers: Answers<T>| {
            Box::pin(answers.messages().map_err(move |error| status(&error, &id))) as Statuses<T>
        };
        answered(&incoming.request_id, answers.map(statuses))
    }
}

#[tonic::async_trait]
impl HostService for Grpc {
    async fn get_host_status(
        &self,
        request: Request<api::GetHostStatusRequest>,
    ) -> Result<Response<api::HostStatus>, Status> {
        self.call(request).await
    }

    async fn list_log_groups(
        &self,
        request: Request<api::ListLogGroupsRequest>,
    ) -> Result<Response<api::ListLogGroupsResponse>, Status> {
        self.call(request).await
    }

    async fn list_log_streams(
        &self,
        request: Request<api::ListLogStreamsRequest>,
    ) -> Result<Response<api::ListLogStreamsResponse>, Status> {
        self.call(request).await
    }

    async fn read_logs(
        &self,
        request: Request<api::ReadLogsRequest>,
    ) -> Result<Response<api::ReadLogsResponse>, Status> {
        self.call(request).await
    }

    type TailLogsStream = Statuses<api::LogEvent>;

    async fn tail_logs(
        &self,
        request: Request<api::TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        self.stream(request).await
    }

    type WatchEventsStream = Statuses<api::Event>;

    async fn watch_events(
        &self,
        request: Request<api::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        self.stream(request).await
    }

    type WatchBuildStream = Statuses<api::BuildEvent>;

    async fn watch_build(
        &self,
        request: Request<api::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        self.stream(request).await
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<api::PutArtifactRequest>>,
    ) -> Result<Response<api::PutArtifactResponse>, Status> {
        let (incoming, messages) = incoming(request);
        let broken = |status: Status| {
            ServiceError::invalid("data", format!("The upload broke off: {}", status.message()))
        };
        let upload = ArtifactStream::receive(messages.map_err(broken)).await;
        answered(&incoming.request_id, self.service.call(&incoming, upload).await)
    }

    async fn list_artifacts(
        &self,
        request: Request<api::ListArtifactsRequest>,
    ) -> Result<Response<api::ListArtifactsResponse>, Status> {
        self.call(request).await
    }

    type GetArtifactStream = Statuses<api::GetArtifactResponse>;

    async fn get_artifact(
        &self,
        request: Request<api::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let (incoming, request) = incoming(request);
        let id = incoming.request_id.clone();
        let found = self.service.call(&incoming, request).await;
        let found = found.map(|object| Answers::of_artifact(&self.service, object));
        let statuses = |answers: Answers<_>| {
            Box::pin(answers.messages().map_err(move |error| status(&error, &id))) as Self::GetArtifactStream
        };
        answered(&incoming.request_id, found.map(statuses))
    }

    async fn delete_artifact(
        &self,
        request: Request<api::DeleteArtifactRequest>,
    ) -> Result<Response<api::DeleteArtifactResponse>, Status> {
        self.call(request).await
    }

    async fn back_up_store(
        &self,
        request: Request<api::BackUpStoreRequest>,
    ) -> Result<Response<api::BackUpStoreResponse>, Status> {
        self.call(request).await
    }
}
