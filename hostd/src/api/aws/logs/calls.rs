//! From actions to operations, and from their answers back.

use hearth_proto::host::v1 as proto;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::error::Refusal;
use super::input::{DescribeLogGroups, DescribeLogStreams, FilterLogEvents, GetLogEvents};
use crate::clock;
use crate::service::Service;
use crate::service::pipeline::{Handler, Incoming};

/// Events of an answer, unless the request has `limit`.
const EVENTS: i32 = 10_000;
/// What tokens of `GetLogEvents` begin with: later events, and earlier ones.
const FORWARD: &str = "f/";
const BACKWARD: &str = "b/";

/// An action.
pub(super) trait Action {
    /// Performs it; returns the answer's members.
    async fn call(self, service: &Service, incoming: &Incoming) -> Result<Value, Refusal>;
}

impl Action for DescribeLogGroups {
    async fn call(self, service: &Service, incoming: &Incoming) -> Result<Value, Refusal> {
        if self.log_group_name_prefix.is_some() && self.log_group_name_pattern.is_some() {
            return Err(Refusal::parameter(
                "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters.",
            ));
        }
        let own = "it has the caller's account only";
        if self.include_linked_accounts == Some(true) {
            return Err(Refusal::unsupported("includeLinkedAccounts", own));
        }
        if self.account_identifiers.is_some_and(|accounts| !accounts.is_empty()) {
            return Err(Refusal::unsupported("accountIdentifiers", own));
        }
        if self.log_group_identifiers.is_some_and(|groups| !groups.is_empty()) {
            let why = "use logGroupNamePrefix or logGroupNamePattern";
            return Err(Refusal::unsupported("logGroupIdentifiers", why));
        }
        match self.log_group_class.as_deref() {
            None | Some("STANDARD") => {}
            Some("INFREQUENT_ACCESS" | "DELIVERY") => return Ok(json!({ "logGroups": [] })),
            Some(other) => {
                let values = "[STANDARD, INFREQUENT_ACCESS, DELIVERY]";
                let constraint = format!("Member must satisfy enum value set: {values}");
                return Err(Refusal::constraint(other, "logGroupClass", &constraint));
            }
        }
        let request = proto::ListLogGroupsRequest {
            prefix: self.log_group_name_prefix,
            contains: self.log_group_name_pattern.filter(|pattern| !pattern.is_empty()),
            max_results: self.limit,
            next_token: self.next_token,
        };
        let found = perform(service, incoming, request, "logGroupNamePrefix").await?;
        let arns = Arns::of(service, incoming);
        let group = |group: proto::LogGroup| {
            let arn = arns.group(&group.name);
            members([
                ("logGroupName", Some(group.name.into())),
                ("creationTime", group.created_at.as_ref().map(millis)),
                ("retentionInDays", group.retention_days.map(Value::from)),
                ("metricFilterCount", Some(0.into())),
                ("arn", Some(format!("{arn}:*").into())),
                ("logGroupArn", Some(arn.into())),
                ("storedBytes", Some(group.stored_bytes.into())),
                ("logGroupClass", Some("STANDARD".into())),
            ])
        };
        let groups: Vec<_> = found.items.into_iter().map(group).collect();
        Ok(members([("logGroups", Some(groups.into())), ("nextToken", found.next_token.map(Value::from))]))
    }
}

impl Action for DescribeLogStreams {
    async fn call(self, service: &Service, incoming: &Incoming) -> Result<Value, Refusal> {
        let by_last_event = match self.order_by.as_deref() {
            None | Some("LogStreamName") => false,
            Some("LastEventTime") if self.log_stream_name_prefix.is_some() => {
                return Err(Refusal::parameter("Cannot order by LastEventTime with a logStreamNamePrefix."));
            }
            Some("LastEventTime") => true,
            Some(other) => {
                let constraint = "Member must satisfy enum value set: [LogStreamName, LastEventTime]";
                return Err(Refusal::constraint(other, "orderBy", constraint));
            }
        };
        let arns = Arns::of(service, incoming);
        let group = arns.named(self.log_group_name, self.log_group_identifier)?;
        let request = proto::ListLogStreamsRequest {
            log_group: group.clone(),
            prefix: self.log_stream_name_prefix,
            max_results: self.limit,
            next_token: self.next_token,
            by_last_event: Some(by_last_event).filter(|given| *given),
            descending: self.descending.filter(|given| *given),
        };
        let found = perform(service, incoming, request, "logStreamNamePrefix").await?;
        let group = arns.group(&group.unwrap_or_default());
        let stream = |stream: proto::LogStream| {
            let (first, last) =
                (stream.first_event_at.as_ref().map(millis), stream.last_event_at.as_ref().map(millis));
            members([
                ("arn", Some(format!("{group}:log-stream:{}", stream.name).into())),
                ("logStreamName", Some(stream.name.into())),
                ("creationTime", stream.created_at.as_ref().map(millis)),
                ("firstEventTimestamp", first),
                ("lastIngestionTime", last.clone()),
                ("lastEventTimestamp", last),
                ("storedBytes", Some(stream.stored_bytes.into())),
            ])
        };
        let streams: Vec<_> = found.items.into_iter().map(stream).collect();
        Ok(members([("logStreams", Some(streams.into())), ("nextToken", found.next_token.map(Value::from))]))
    }
}

impl Action for GetLogEvents {
    async fn call(self, service: &Service, incoming: &Incoming) -> Result<Value, Refusal> {
        let arns = Arns::of(service, incoming);
        let Some(log_stream) = self.log_stream_name else {
            let null = "1 validation error detected: Value null at 'logStreamName' failed to satisfy constraint: Member must not be null";
            return Err(Refusal::parameter(null));
        };
        // The token says in which direction it leads.
        let (backward, next_token) = match self.next_token.as_deref() {
            None => (!self.start_from_head.unwrap_or_default(), None),
            Some(token) => match (token.strip_prefix(FORWARD), token.strip_prefix(BACKWARD)) {
                (Some(token), _) => (false, Some(token.to_owned())),
                (_, Some(token)) => (true, Some(token.to_owned())),
                (None, None) => return Err(Refusal::no_token()),
            },
        };
        let request = proto::ReadLogsRequest {
            log_group: arns.named(self.log_group_name, self.log_group_identifier)?,
            log_stream: Some(log_stream),
            start_time: self.start_time.map(|time| timestamp(time, "startTime")).transpose()?,
            end_time: self.end_time.map(|time| timestamp(time, "endTime")).transpose()?,
            max_results: Some(self.limit.unwrap_or(EVENTS)),
            next_token,
            backward: Some(backward),
            ..Default::default()
        };
        let found = perform(service, incoming, request, "").await?;
        let event = |event: proto::LogEvent| {
            let time = event.timestamp.as_ref().map(millis);
            members([
                ("timestamp", time.clone()),
                ("message", Some(event.message.into())),
                ("ingestionTime", time),
            ])
        };
        let events: Vec<_> = found.items.into_iter().map(event).collect();
        let token =
            |prefix: &str, token: Option<String>| token.map(|token| format!("{prefix}{token}").into());
        Ok(members([
            ("events", Some(events.into())),
            ("nextForwardToken", token(FORWARD, found.after_token)),
            ("nextBackwardToken", token(BACKWARD, found.before_token)),
        ]))
    }
}

impl Action for FilterLogEvents {
    async fn call(self, service: &Service, incoming: &Incoming) -> Result<Value, Refusal> {
        let arns = Arns::of(service, incoming);
        let log_streams = self.log_stream_names.unwrap_or_default();
        if !log_streams.is_empty() && self.log_stream_name_prefix.is_some() {
            return Err(Refusal::parameter(
                "logStreamNames and logStreamNamePrefix are mutually exclusive parameters.",
            ));
        }
        // `endTime` is the last millisecond here, and in `GetLogEvents` the first one after.
        let end = self
            .end_time
            .map(|end| timestamp(end, "endTime").and_then(|_| timestamp(end.saturating_add(1), "endTime")));
        let request = proto::ReadLogsRequest {
            log_group: arns.named(self.log_group_name, self.log_group_identifier)?,
            log_streams,
            log_stream_prefix: self.log_stream_name_prefix,
            start_time: self.start_time.map(|time| timestamp(time, "startTime")).transpose()?,
            end_time: end.transpose()?,
            filter_pattern: self.filter_pattern.filter(|pattern| !pattern.is_empty()),
            max_results: Some(self.limit.unwrap_or(EVENTS)),
            next_token: self.next_token,
            ..Default::default()
        };
        let found = perform(service, incoming, request, "").await?;
        let event = |event: proto::LogEvent| {
            let time = event.timestamp.as_ref().map(millis);
            members([
                ("logStreamName", Some(event.log_stream.into())),
                ("timestamp", time.clone()),
                ("message", Some(event.message.into())),
                ("ingestionTime", time),
                ("eventId", Some(event.id.into())),
            ])
        };
        let events: Vec<_> = found.items.into_iter().map(event).collect();
        Ok(members([
            ("events", Some(events.into())),
            ("searchedLogStreams", Some(json!([]))),
            ("nextToken", found.next_token.map(Value::from)),
        ]))
    }
}

/// Performs an operation. `prefix` is the name of the action's member for the operation's member `prefix`.
async fn perform<H: Handler>(
    service: &Service,
    incoming: &Incoming,
    request: H,
    prefix: &str,
) -> Result<H::Response, Refusal> {
    service.call(incoming, request).await.map_err(|error| Refusal::of(&error, prefix))
}

/// An object of those members that are there.
fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

/// Milliseconds since 1970.
fn millis(time: &Timestamp) -> Value {
    let millis = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000);
    millis.into()
}

/// The time that is this many milliseconds after 1970; the end of the year 9999 for later ones.
fn timestamp(millis: i64, member: &str) -> Result<Timestamp, Refusal> {
    if millis < 0 {
        let constraint = "Member must have value greater than or equal to 0";
        return Err(Refusal::constraint(&millis.to_string(), member, constraint));
    }
    let seconds = millis.div_euclid(1000).min(*clock::SECONDS.end());
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or_default().saturating_mul(1_000_000);
    Ok(Timestamp { seconds, nanos })
}

/// ARNs of the caller's log groups.
struct Arns {
    /// `arn:aws:logs:REGION:ACCOUNT:log-group:`
    prefix: String,
}

impl Arns {
    fn of(service: &Service, incoming: &Incoming) -> Self {
        let account = incoming.caller.as_ref().map_or("", |caller| caller.account.as_str());
        Self { prefix: format!("arn:aws:logs:{}:{account}:log-group:", service.config().region) }
    }

    fn group(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of the group that a request names, or identifies by name or ARN. Groups of other accounts and Regions do
    /// not exist.
    fn named(&self, name: Option<String>, identifier: Option<String>) -> Result<Option<String>, Refusal> {
        let identifier = match (name, identifier) {
            (Some(_), Some(_)) => {
                return Err(Refusal::parameter(
                    "logGroupName and logGroupIdentifier are mutually exclusive parameters.",
                ));
            }
            (name, None) => return Ok(name),
            (None, Some(identifier)) => identifier,
        };
        if !identifier.starts_with("arn:") {
            return Ok(Some(identifier));
        }
        let name = identifier.strip_prefix(&self.prefix).ok_or_else(Refusal::no_group)?;
        Ok(Some(name.strip_suffix(":*").unwrap_or(name).to_owned()))
    }
}
