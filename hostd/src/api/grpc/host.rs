//! Hearth's own operations, beside those of AWS.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use hearth_model::id::MicrovmId;
use hearth_model::version::ImageVersion;
use hearth_proto::host::v1 as api;
use hearth_proto::host::v1::host_service_server::HostService;
use hearth_proto::host::v1::put_artifact_request::Part;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status, Streaming};

use super::status::{status, with_request_id};
use super::{Envelope, Grpc, finished};
use crate::access::Caller;
use crate::api::artifacts::Artifacts;
use crate::builds::Images;
use crate::clock::time;
use crate::events::Events;
use crate::logs::{LogError, Logs, Position, Query};
use crate::panics;
use crate::service::{Operation, Service, ServiceError};
use crate::store::Db;

/// Default number of lines on a page of a log.
const LINES: i32 = 1000;
/// Default number of existing lines that a tail sends before new ones.
const LAST: i32 = 10;

/// The components of the host's service.
pub struct HostParts {
    /// Logs.
    pub logs: Logs,
    /// State changes.
    pub events: Events,
    /// Images and their builds.
    pub images: Images,
    /// The local bucket.
    pub artifacts: Artifacts,
    /// The store.
    pub db: Db,
    /// Folder of backups.
    pub backups: PathBuf,
    /// Returns the current status of the host, for an account.
    pub status: Box<dyn Fn(&str) -> api::HostStatus + Send + Sync>,
    /// Becomes true when the daemon shuts down, which also ends streams.
    pub end: tokio::sync::watch::Receiver<bool>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl From<LogError> for ServiceError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoGroup(id) => Self::NotFound { kind: "Log group", id },
            LogError::NoStream { group, stream } => {
                Self::NotFound { kind: "Log stream", id: format!("{group}:{stream}") }
            }
            LogError::Name(_) => Self::invalid("logGroup", error.to_string()),
            LogError::Filter(_) => Self::invalid("contains", error.to_string()),
            error => Self::internal(error.to_string()),
        }
    }
}

fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Grpc {
    /// A call whose response is a stream. It counts as answered when the stream begins.
    async fn stream<R, T, W, F>(&self, request: Request<R>, work: W) -> Result<Response<Answers<T>>, Status>
    where
        R: crate::service::Request,
        T: Send + 'static,
        W: FnOnce(Service, Caller, R) -> F,
        F: Future<Output = Result<Answers<T>, ServiceError>> + Send,
    {
        let envelope = Envelope::of(request.metadata(), request.extensions());
        let request = request.into_inner();
        let caller = self.identify(&envelope);
        let result = match &caller {
            Ok(caller) => finished(work(self.service.clone(), caller.clone(), request)).await,
            Err(error) => Err(error.clone()),
        };
        let nothing = (Value::Null, Value::Null);
        self.told(R::OPERATION, &envelope, caller.as_ref().ok(), nothing, result.as_ref().err());
        let answers = result.map_err(|error| status(&error, &envelope.request_id))?;
        let mut end = self.host.end.clone();
        let ended = async move {
            let _ = end.wait_for(|end| *end).await; // an error means that the sender is gone, which ends the stream, too
        };
        let request_id = envelope.request_id.clone();
        let answers = panics::stream(answers.take_until(ended)).map(move |answer| {
            answer.unwrap_or_else(|_| Err(status(&ServiceError::panicked(), &request_id)))
        });
        let mut response = Response::new(Box::pin(answers) as Answers<T>);
        with_request_id(response.metadata_mut(), &envelope.request_id);
        Ok(response)
    }
}

/// The first steps of every operation of the host: checks of the request and of permission.
fn begin<R: crate::service::Request>(
    service: &Service,
    caller: &Caller,
    request: &R,
) -> Result<(), ServiceError> {
    service.begin(caller, request)?;
    service.authorise(caller, R::OPERATION)
}

#[tonic::async_trait]
impl HostService for Grpc {
    async fn get_host_status(
        &self,
        request: Request<api::GetHostStatusRequest>,
    ) -> Result<Response<api::HostStatus>, Status> {
        let host = Arc::clone(&self.host);
        self.call(request, "hearth.host.v1.HostStatus", |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            Ok((host.status)(&caller.account))
        })
        .await
    }

    async fn list_log_groups(
        &self,
        request: Request<api::ListLogGroupsRequest>,
    ) -> Result<Response<api::ListLogGroupsResponse>, Status> {
        let host = Arc::clone(&self.host);
        self.call(request, "hearth.host.v1.ListLogGroupsResponse", |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let page = service.page(&caller, &request)?;
            let after = page.after.as_ref().map(|after| String::from_utf8_lossy(after).into_owned());
            let prefix = request.prefix.unwrap_or_default();
            let mut found =
                host.logs.list_groups(&caller.account, &prefix, after.as_deref(), page.limit()).await?;
            let more = found.len() > page.size;
            found.truncate(page.size);
            let next_token = match found.last().filter(|_| more) {
                Some(last) => service.next_token(&page, last.name.as_bytes())?,
                None => None,
            };
            let group = |group: crate::logs::GroupInfo| api::LogGroup {
                name: group.name,
                stored_bytes: bytes(group.stored_bytes),
            };
            Ok(api::ListLogGroupsResponse { items: found.into_iter().map(group).collect(), next_token })
        })
        .await
    }

    async fn list_log_streams(
        &self,
        request: Request<api::ListLogStreamsRequest>,
    ) -> Result<Response<api::ListLogStreamsResponse>, Status> {
        let host = Arc::clone(&self.host);
        self.call(request, "hearth.host.v1.ListLogStreamsResponse", |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let page = service.page(&caller, &request)?;
            let after = page.after.as_ref().map(|after| String::from_utf8_lossy(after).into_owned());
            let group = request.log_group.unwrap_or_default();
            let prefix = request.prefix.unwrap_or_default();
            let found =
                host.logs.list_streams(&caller.account, &group, &prefix, after.as_deref(), page.limit());
            let mut found = found.await?;
            let more = found.len() > page.size;
            found.truncate(page.size);
            let next_token = match found.last().filter(|_| more) {
                Some(last) => service.next_token(&page, last.name.as_bytes())?,
                None => None,
            };
            let stream = |stream: crate::logs::StreamInfo| api::LogStream {
                name: stream.name,
                stored_bytes: bytes(stream.stored_bytes),
                first_event_at: stream.first_event.map(crate::clock::timestamp),
                last_event_at: stream.last_event.map(crate::clock::timestamp),
            };
            Ok(api::ListLogStreamsResponse { items: found.into_iter().map(stream).collect(), next_token })
        })
        .await
    }

    async fn read_logs(
        &self,
        request: Request<api::ReadLogsRequest>,
    ) -> Result<Response<api::ReadLogsResponse>, Status> {
        let host = Arc::clone(&self.host);
        self.call(request, "hearth.host.v1.ReadLogsResponse", |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let page = service.page(&caller, &request)?;
            let after =
                page.after.as_deref().map(|after| after.try_into().map_err(|_| ServiceError::NextToken));
            let query = Query {
                stream: request.log_stream,
                start: request.start_time.as_ref().map(time),
                end: request.end_time.as_ref().map(time),
                contains: request.contains,
                limit: usize::try_from(request.max_results.unwrap_or(LINES)).unwrap_or_default(),
                after: after.transpose()?.map(Position::from_bytes),
            };
            let group = request.log_group.unwrap_or_default();
            let found = host.logs.read(&caller.account, &group, query).await?;
            let next_token = match found.next {
                Some(next) => service.next_token(&page, &next.to_bytes())?,
                None => None,
            };
            Ok(api::ReadLogsResponse {
                items: found.events.into_iter().map(Into::into).collect(),
                next_token,
            })
        })
        .await
    }

    type TailLogsStream = Answers<api::LogEvent>;

    async fn tail_logs(
        &self,
        request: Request<api::TailLogsRequest>,
    ) -> Result<Response<Self::TailLogsStream>, Status> {
        let host = Arc::clone(&self.host);
        self.stream(request, |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let last = usize::try_from(request.last.unwrap_or(LAST)).unwrap_or_default();
            let group = request.log_group.unwrap_or_default();
            let (stream, contains) = (request.log_stream.as_deref(), request.contains.as_deref());
            let lines = host.logs.tail(&caller.account, &group, stream, contains, last).await?;
            let request_id = caller.request_id.clone();
            let lines = lines.map_ok(Into::into).map_err(move |error| status(&error.into(), &request_id));
            Ok(Box::pin(lines) as Answers<_>)
        })
        .await
    }

    type WatchEventsStream = Answers<api::Event>;

    async fn watch_events(
        &self,
        request: Request<api::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let host = Arc::clone(&self.host);
        self.stream(request, |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let resource = match request.resource {
                // The resource is a name or an ARN of an image, or a microVM's id; events contain ARNs and ids.
                Some(resource) if !resource.starts_with(MicrovmId::PREFIX) => {
                    let image = service.config().image_name(&caller.account, &resource)?;
                    Some(service.config().image_arn(&image.account, &image.name))
                }
                resource => resource,
            };
            let events = host.events.subscribe();
            let events =
                stream::unfold((events, caller, resource), |(mut events, caller, resource)| async move {
                    loop {
                        match events.recv().await {
                            Ok((account, event))
                                if account == caller.account
                                    && resource
                                        .as_ref()
                                        .is_none_or(|resource| *resource == event.resource) =>
                            {
                                return Some((Ok(event), (events, caller, resource)));
                            }
                            Ok(_) => {}
                            Err(RecvError::Closed) => return None,
                            Err(RecvError::Lagged(missed)) => {
                                let message =
                                    format!("{missed} events were missed: the client reads too slowly");
                                return Some((Err(Status::data_loss(message)), (events, caller, resource)));
                            }
                        }
                    }
                });
            Ok(Box::pin(events) as Answers<_>)
        })
        .await
    }

    type WatchBuildStream = Answers<api::BuildEvent>;

    async fn watch_build(
        &self,
        request: Request<api::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        let host = Arc::clone(&self.host);
        self.stream(request, |service, caller, request| async move {
            service.begin(&caller, &request)?;
            let operation = Operation::WatchBuild;
            let image = service.named_image(&caller, operation, request.image_identifier.as_deref())?;
            let number = match request.image_version.as_deref() {
                None => None,
                Some(version) => {
                    Some(ImageVersion::parse(version).map(ImageVersion::number).ok_or_else(|| {
                        ServiceError::VersionNotFound {
                            arn: service.config().image_arn(&image.account, &image.name),
                            version: version.to_owned(),
                        }
                    })?)
                }
            };
            let watch = host.images.watch(&image.account, &image.name, number)?;
            let arn = || service.config().image_arn(&image.account, &image.name);
            let watch = watch.ok_or_else(|| match request.image_version {
                Some(version) => ServiceError::VersionNotFound { arn: arn(), version },
                None => ServiceError::ImageNotFound(arn()),
            })?;
            Ok(Box::pin(watch.into_stream().map(Ok)) as Answers<_>)
        })
        .await
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<api::PutArtifactRequest>>,
    ) -> Result<Response<api::PutArtifactResponse>, Status> {
        let envelope = Envelope::of(request.metadata(), request.extensions());
        let caller = self.identify(&envelope);
        let received = async {
            let caller = caller.as_ref().map_err(Clone::clone)?;
            self.service.authorise(caller, Operation::PutArtifact)?;
            receive(&self.host.artifacts, request.into_inner()).await
        };
        let result = finished(received).await;
        let nothing = (Value::Null, Value::Null);
        self.told(Operation::PutArtifact, &envelope, caller.as_ref().ok(), nothing, result.as_ref().err());
        let (uri, size) = result.map_err(|error| status(&error, &envelope.request_id))?;
        let mut response = Response::new(api::PutArtifactResponse { uri, bytes: bytes(size) });
        with_request_id(response.metadata_mut(), &envelope.request_id);
        Ok(response)
    }

    async fn back_up_store(
        &self,
        request: Request<api::BackUpStoreRequest>,
    ) -> Result<Response<api::BackUpStoreResponse>, Status> {
        let host = Arc::clone(&self.host);
        self.call(request, "hearth.host.v1.BackUpStoreResponse", |service, caller, request| async move {
            begin(&service, &caller, &request)?;
            let now = service.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let name = format!("{}-{:03}", now.as_secs(), now.subsec_millis());
            let made = tokio::fs::create_dir_all(&host.backups).await;
            made.map_err(|error| {
                ServiceError::internal(format!("making {}: {error}", host.backups.display()))
            })?;
            let size = host.db.back_up(host.backups.join(&name)).await?;
            Ok(api::BackUpStoreResponse { name, bytes: bytes(size) })
        })
        .await
    }
}

async fn receive(
    artifacts: &Artifacts,
    mut parts: Streaming<api::PutArtifactRequest>,
) -> Result<(String, u64), ServiceError> {
    let broken =
        |status: Status| ServiceError::invalid("data", format!("The upload broke off: {}", status.message()));
    let first = parts.message().await.map_err(broken)?.and_then(|message| message.part);
    let Some(Part::Name(name)) = first else {
        return Err(ServiceError::invalid("name", "The first message must have the name of the artifact"));
    };
    let mut upload = artifacts.begin(&name).await?;
    while let Some(message) = parts.message().await.map_err(broken)? {
        match message.part {
            Some(Part::Data(data)) => upload.write(&data).await?,
            Some(Part::Name(_)) => {
                return Err(ServiceError::invalid("name", "Only the first message has the name"));
            }
            None => {}
        }
    }
    upload.finish().await
}
