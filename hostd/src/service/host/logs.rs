//! ListLogGroups, ListLogStreams, ReadLogs, TailLogs.

use futures_util::TryStreamExt as _;
use hearth_proto::host::v1 as proto;

use super::super::Service;
use super::super::error::{HostError, InvalidRequest, ServiceError};
use super::super::page::Page;
use super::super::pipeline::{Admitted, Handler, NoImage};
use super::bytes;
use super::stream::Answers;
use crate::access::Caller;
use crate::clock::{time, timestamp};
use crate::logs::{GroupInfo, LogError, Position, Query, StreamInfo};

/// Default number of lines on a page of a log.
const LINES: i32 = 1000;
/// Default number of existing lines that a tail sends before new ones.
const LAST: i32 = 10;

impl From<LogError> for ServiceError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoGroup(id) => HostError::NotFound { kind: "Log group", id }.into(),
            LogError::NoStream { group, stream } => {
                HostError::NotFound { kind: "Log stream", id: format!("{group}:{stream}") }.into()
            }
            LogError::Name(_) => Self::invalid("logGroup", error.to_string()),
            LogError::Filter(_) => Self::invalid("contains", error.to_string()),
            error => Self::internal(error.to_string()),
        }
    }
}

/// The account's log groups by name.
impl Handler for proto::ListLogGroupsRequest {
    type Response = proto::ListLogGroupsResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, logs) = (call.service, &call.service.parts().host.logs);
        let page = service.page(call.caller, &call.request)?;
        let (prefix, after) = (call.request.prefix.as_deref().unwrap_or_default(), after(&page));
        let found = logs.list_groups(&call.caller.account, prefix, after.as_deref(), page.limit()).await?;
        let (found, next_token) = cut(service, &page, found, |group| &group.name)?;
        let group =
            |group: GroupInfo| proto::LogGroup { name: group.name, stored_bytes: bytes(group.stored_bytes) };
        Ok(proto::ListLogGroupsResponse { items: found.into_iter().map(group).collect(), next_token })
    }
}

/// The streams of a log group by name.
impl Handler for proto::ListLogStreamsRequest {
    type Response = proto::ListLogStreamsResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, logs) = (call.service, &call.service.parts().host.logs);
        let page = service.page(call.caller, &call.request)?;
        let (prefix, after) = (call.request.prefix.as_deref().unwrap_or_default(), after(&page));
        let group = call.request.log_group.as_deref().unwrap_or_default();
        let account = &call.caller.account;
        let found = logs.list_streams(account, group, prefix, after.as_deref(), page.limit()).await?;
        let (found, next_token) = cut(service, &page, found, |stream| &stream.name)?;
        let stream = |stream: StreamInfo| proto::LogStream {
            name: stream.name,
            stored_bytes: bytes(stream.stored_bytes),
            first_event_at: stream.first_event.map(timestamp),
            last_event_at: stream.last_event.map(timestamp),
        };
        Ok(proto::ListLogStreamsResponse { items: found.into_iter().map(stream).collect(), next_token })
    }
}

/// The name after which a page of groups or streams begins.
fn after(page: &Page) -> Option<String> {
    page.after.as_ref().map(|after| String::from_utf8_lossy(after).into_owned())
}

/// What is on a page, and `nextToken` if more was found.
fn cut<T>(
    service: &Service,
    page: &Page,
    mut found: Vec<T>,
    name: impl Fn(&T) -> &String,
) -> Result<(Vec<T>, Option<String>), ServiceError> {
    let more = found.len() > page.size;
    found.truncate(page.size);
    let next_token = match found.last().filter(|_| more) {
        Some(last) => service.next_token(page, name(last).as_bytes())?,
        None => None,
    };
    Ok((found, next_token))
}

/// The events of one stream of a group, or of all of them, in order of time, page by page.
impl Handler for proto::ReadLogsRequest {
    type Response = proto::ReadLogsResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        let page = service.page(call.caller, request)?;
        let after =
            page.after.as_deref().map(|after| after.try_into().map_err(|_| InvalidRequest::NextToken));
        let query = Query {
            stream: request.log_stream.clone(),
            start: request.start_time.as_ref().map(time),
            end: request.end_time.as_ref().map(time),
            contains: request.contains.clone(),
            limit: usize::try_from(request.max_results.unwrap_or(LINES)).unwrap_or_default(),
            after: after.transpose()?.map(Position::from_bytes),
        };
        let group = request.log_group.as_deref().unwrap_or_default();
        let found = service.parts().host.logs.read(&call.caller.account, group, query).await?;
        let next_token = match found.next {
            Some(next) => service.next_token(&page, &next.to_bytes())?,
            None => None,
        };
        Ok(proto::ReadLogsResponse { items: found.events.into_iter().map(Into::into).collect(), next_token })
    }
}

/// The last events of a log, and then each new one.
impl Handler for proto::TailLogsRequest {
    type Response = Answers<proto::LogEvent>;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        let last = usize::try_from(request.last.unwrap_or(LAST)).unwrap_or_default();
        let group = request.log_group.as_deref().unwrap_or_default();
        let (stream, contains) = (request.log_stream.as_deref(), request.contains.as_deref());
        let logs = &service.parts().host.logs;
        let lines = logs.tail(&call.caller.account, group, stream, contains, last).await?;
        Ok(Answers::new(service, lines.map_ok(Into::into).map_err(Into::into)))
    }
}
