//! What the host's service needs of others: the logs, the events, the builds, the store.

use std::pin::Pin;

use async_trait::async_trait;
use futures_util::Stream;
use hearth_proto::host::v1 as proto;

use crate::access::Caller;
use crate::api::artifacts::Artifacts;
use crate::service::ServiceError;

/// A stream of answers.
pub type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, ServiceError>> + Send>>;

/// The operations of `hearth.host.v1`. Requests have been checked against their constraints, and the caller may do this.
#[async_trait]
#[expect(missing_docs, reason = "they are documented in host.proto")]
pub trait HostOperations: Send + Sync + std::fmt::Debug {
    async fn get_host_status(&self, caller: &Caller) -> Result<proto::HostStatus, ServiceError>;
    async fn list_log_groups(
        &self,
        caller: &Caller,
        request: proto::ListLogGroupsRequest,
    ) -> Result<proto::ListLogGroupsResponse, ServiceError>;
    async fn list_log_streams(
        &self,
        caller: &Caller,
        request: proto::ListLogStreamsRequest,
    ) -> Result<proto::ListLogStreamsResponse, ServiceError>;
    async fn read_logs(
        &self,
        caller: &Caller,
        request: proto::ReadLogsRequest,
    ) -> Result<proto::ReadLogsResponse, ServiceError>;
    async fn tail_logs(
        &self,
        caller: &Caller,
        request: proto::TailLogsRequest,
    ) -> Result<Answers<proto::LogEvent>, ServiceError>;
    async fn watch_events(
        &self,
        caller: &Caller,
        request: proto::WatchEventsRequest,
    ) -> Result<Answers<proto::Event>, ServiceError>;
    async fn watch_build(
        &self,
        caller: &Caller,
        request: proto::WatchBuildRequest,
    ) -> Result<Answers<proto::BuildEvent>, ServiceError>;
    async fn back_up_store(&self, caller: &Caller) -> Result<proto::BackUpStoreResponse, ServiceError>;
    /// Where PutArtifact stores.
    fn artifacts(&self) -> &dyn Artifacts;
}
