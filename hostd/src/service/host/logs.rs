//! ListLogGroups, ListLogStreams, ReadLogs, TailLogs.

use futures_util::TryStreamExt as _;
use hearth_proto::host::v1 as proto;

use super::super::Service;
use super::super::error::{HostError, InvalidRequest, ServiceError};
use super::super::pipeline::{Admitted, Handler, NoImage};
use super::bytes;
use super::stream::Answers;
use crate::access::Caller;
use crate::clock::{time, timestamp};
use crate::logs::{GroupInfo, LogError, Position, Query, StreamInfo, StreamKey, StreamOrder, Streams};

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
            LogError::Pattern(_) => Self::invalid("filterPattern", error.to_string()),
            LogError::Busy(busy) => busy.into(),
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
        let after = page.after.as_ref().map(|after| String::from_utf8_lossy(after).into_owned());
        let (account, limit) = (&call.caller.account, page.limit());
        let prefix = call.request.prefix.as_deref().unwrap_or_default();
        let part = call.request.contains.as_deref().unwrap_or_default();
        let found = logs.list_groups(account, prefix, part, after.as_deref(), limit).await?;
        let retention = logs.retention_days().and_then(|days| i32::try_from(days).ok());
        let group = |group: GroupInfo| proto::LogGroup {
            name: group.name,
            stored_bytes: bytes(group.stored_bytes),
            created_at: group.created.map(timestamp),
            retention_days: retention,
        };
        let key = |group: &GroupInfo| group.name.clone().into_bytes();
        let (items, next_token) = service.cut(&page, found, key, group)?;
        Ok(proto::ListLogGroupsResponse { items, next_token })
    }
}

/// The streams of a log group, by name or by the time of the last event.
impl Handler for proto::ListLogStreamsRequest {
    type Response = proto::ListLogStreamsResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        if self.by_last_event() && self.prefix.is_some() {
            return Err(ServiceError::invalid(
                "byLastEvent",
                "Streams with a prefix are listed by name: leave out prefix or byLastEvent",
            ));
        }
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        let page = service.page(call.caller, request)?;
        let after =
            page.after.as_ref().map(|after| StreamKey::from_bytes(after).ok_or(InvalidRequest::NextToken));
        let prefix = request.prefix.as_deref().unwrap_or_default();
        let group = request.log_group.as_deref().unwrap_or_default();
        let order = StreamOrder { by_last_event: request.by_last_event(), descending: request.descending() };
        let logs = &service.parts().host.logs;
        let found = logs
            .list_streams(&call.caller.account, group, prefix, order, after.transpose()?, page.limit())
            .await?;
        let stream = |(_, stream): (StreamKey, StreamInfo)| proto::LogStream {
            name: stream.name,
            stored_bytes: bytes(stream.stored_bytes),
            first_event_at: stream.first_event.map(timestamp),
            last_event_at: stream.last_event.map(timestamp),
            created_at: stream.created.map(timestamp),
        };
        let (items, next_token) = service.cut(&page, found, |(key, _)| key.to_bytes(), stream)?;
        Ok(proto::ListLogStreamsResponse { items, next_token })
    }
}

/// The events of one stream of a group, of some, or of all of them, in order of time, page by page.
impl Handler for proto::ReadLogsRequest {
    type Response = proto::ReadLogsResponse;
    type Target = NoImage<Streams>;

    fn target(&self, _: &Service, _: &Caller) -> Result<Self::Target, ServiceError> {
        let streams = match (&self.log_stream, self.log_streams.as_slice(), &self.log_stream_prefix) {
            (None, [], None) => Streams::All,
            (Some(name), [], None) => Streams::Named(vec![name.clone()]),
            (None, names, None) => Streams::Named(names.to_vec()),
            (None, [], Some(prefix)) => Streams::Prefix(prefix.clone()),
            _ => {
                return Err(ServiceError::invalid(
                    "logStream",
                    "Of logStream, logStreams and logStreamPrefix one may be given",
                ));
            }
        };
        Ok(NoImage(streams))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        // A position is one in the same events whatever the times, and in either direction.
        let list = Self { start_time: None, end_time: None, backward: None, ..request.clone() };
        let page = service.page(call.caller, &list)?;
        let at = page.after.as_deref().map(|at| at.try_into().map_err(|_| InvalidRequest::NextToken));
        let at = at.transpose()?.map(Position::from_bytes);
        let query = Query {
            streams: std::mem::take(&mut call.target.0),
            start: request.start_time.as_ref().map(time),
            end: request.end_time.as_ref().map(time),
            contains: request.contains.clone(),
            pattern: request.filter_pattern.clone(),
            limit: usize::try_from(request.max_results.unwrap_or(LINES)).unwrap_or_default(),
            at,
            backward: request.backward(),
        };
        let group = request.log_group.as_deref().unwrap_or_default();
        let found = service.parts().host.logs.read(&call.caller.account, group, query).await?;
        let token = |position: Position| match &request.next_token {
            Some(same) if at == Some(position) => Ok(Some(same.clone())),
            _ => service.next_token(&page, &position.to_bytes()),
        };
        let both = request.backward.is_some();
        Ok(proto::ReadLogsResponse {
            next_token: found.next.map(token).transpose()?.flatten(),
            after_token: if both { token(found.after)? } else { None },
            before_token: if both { token(found.before)? } else { None },
            items: found.events.into_iter().map(Into::into).collect(),
        })
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
        Answers::following(call, lines.map_ok(Into::into).map_err(Into::into)).await
    }
}
