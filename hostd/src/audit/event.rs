//! The event of a call, and its line in the audit log.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::redact::redact;

/// Operations that CloudTrail treats as data events (docs/behaviour.md, "Audit").
const DATA: [&str; 8] = [
    "RunMicrovm",
    "TerminateMicrovm",
    "SuspendMicrovm",
    "ResumeMicrovm",
    "CreateMicrovmAuthToken",
    "CreateMicrovmShellAuthToken",
    "OpenMicrovmShell",
    "CloseMicrovmShell",
];
/// Greatest size of a line, in bytes. Above it, request and response are omitted, as CloudTrail does with large ones.
const LONGEST: usize = 256 << 10;
/// Greatest length of the user agent and the error message, in characters.
const LONGEST_TEXT: usize = 1024;

/// Identity of a caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity<'a> {
    /// Account; `None` before the caller is identified.
    pub account: Option<&'a str>,
    /// Name of the caller: an access key's id, or `uid:0` for a local user.
    pub principal: Option<&'a str>,
    /// Id of the access key, if the caller was identified by one.
    pub access_key_id: Option<&'a str>,
    /// The role, if the caller has assumed one.
    pub role: Option<Role<'a>>,
}

/// A role that a caller has assumed.
#[derive(Debug, Clone, Copy)]
pub struct Role<'a> {
    /// ARN of the role.
    pub arn: &'a str,
    /// Id of the access key that has assumed it.
    pub maker: &'a str,
}

/// A call that was answered, or another event.
#[derive(Debug, Clone)]
pub struct AuditEvent<'a> {
    /// The service: `lambda.amazonaws.com` or `sts.amazonaws.com`.
    pub service: &'a str,
    /// Name of the operation.
    pub operation: &'a str,
    /// Region of the host.
    pub region: &'a str,
    /// Identity of the caller.
    pub identity: Identity<'a>,
    /// Address of the client without port, or another description of the origin for a Unix socket.
    pub source: &'a str,
    /// The user agent that the client reports.
    pub user_agent: Option<&'a str>,
    /// Id of the call.
    pub request_id: &'a str,
    /// The request as JSON with AWS's member names, including secrets, which are redacted here.
    pub request: Value,
    /// The response in the same form; `None` if the call has failed.
    pub response: Option<Value>,
    /// What is to be known beside request and response; null if there is nothing.
    pub additional: Value,
    /// Name of the exception, and its message.
    pub error: Option<(&'a str, &'a str)>,
}

impl AuditEvent<'_> {
    /// Whether CloudTrail treats the call as a data event.
    pub(super) fn is_data(&self) -> bool {
        DATA.contains(&self.operation)
    }

    /// Whether the operation only reads.
    pub(super) fn is_read_only(&self) -> bool {
        ["Get", "List", "Read", "Tail", "Watch"].iter().any(|prefix| self.operation.starts_with(prefix))
    }

    /// The line, with its newline.
    pub(super) fn line(mut self, now: SystemTime, id: &str) -> Vec<u8> {
        if self.identity.account.is_none() {
            self.request = Value::Null; // nobody answers for its contents
        }
        redact(&mut self.request);
        let mut response = self.response.take().filter(|_| !self.is_read_only());
        response.iter_mut().for_each(redact);
        let response = response.map(|response| response_elements(self.is_data(), response));
        let line = self.encode(now, id, self.request.clone(), response);
        if line.len() <= LONGEST {
            return line;
        }
        self.encode(now, id, json!({"omitted": "too large"}), None)
    }

    fn encode(&self, now: SystemTime, id: &str, request: Value, response: Option<Value>) -> Vec<u8> {
        let is_data = self.is_data();
        let identity = &self.identity;
        let kind = match (identity.account, identity.access_key_id) {
            (None, _) => "Unknown",
            (Some(_), _) if identity.role.is_some() => "AssumedRole",
            (Some(_), Some(_)) => "IAMUser",
            (Some(_), None) => "AWSAccount",
        };
        let mut user = Map::new();
        user.insert("type".into(), kind.into());
        let members = [
            ("accountId", identity.account),
            ("principalId", identity.principal),
            ("accessKeyId", identity.access_key_id),
        ];
        user.extend(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
        if let Some(Role { arn, maker }) = identity.role {
            let issuer = json!({"type": "Role", "arn": arn});
            let context = json!({"sessionIssuer": issuer, "sourceIdentity": maker});
            user.insert("sessionContext".into(), context);
        }
        let mut line = json!({
            "eventVersion": "1.11",
            "userIdentity": user,
            "eventTime": seconds(now),
            "eventSource": self.service,
            "eventName": self.operation,
            "awsRegion": self.region,
            "sourceIPAddress": self.source,
            "userAgent": self.user_agent.map(cut),
            "requestParameters": request,
            "responseElements": response,
            "requestID": self.request_id,
            "eventID": id,
            "readOnly": self.is_read_only(),
            "eventType": "AwsApiCall",
            "managementEvent": !is_data,
            "recipientAccountId": identity.account,
            "eventCategory": if is_data { "Data" } else { "Management" },
        });
        if let (Some((code, message)), Some(line)) = (self.error, line.as_object_mut()) {
            line.insert("errorCode".into(), code.into());
            line.insert("errorMessage".into(), cut(message).into());
        }
        if let (false, Some(line)) = (self.additional.is_null(), line.as_object_mut()) {
            line.insert("additionalEventData".into(), self.additional.clone());
        }
        let mut line = line.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Converts a response to CloudTrail's names. Responses of data events are reduced to the members that identify a
/// microVM; tokens have none.
fn response_elements(is_data: bool, response: Value) -> Value {
    const NAMES: [(&str, &str); 5] = [
        ("microvmId", "microvmId"),
        ("state", "microvmState"),
        ("endpoint", "endpoint"),
        ("imageArn", "microvmImageArn"),
        ("imageVersion", "microvmImageVersion"),
    ];
    let Value::Object(mut members) = response else { return response };
    if is_data {
        let named =
            NAMES.into_iter().filter_map(|(ours, theirs)| Some((theirs.to_owned(), members.remove(ours)?)));
        let named: Map<_, _> = named.collect();
        return if named.is_empty() { Value::Null } else { Value::Object(named) };
    }
    for (ours, theirs) in [("imageArn", "microvmImageArn"), ("imageVersion", "microvmImageVersion")] {
        if let Some(value) = members.remove(ours) {
            members.insert(theirs.to_owned(), value);
        }
    }
    Value::Object(members)
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// Formats a time as CloudTrail does: `2026-08-15T18:17:44Z`.
fn seconds(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_default()
}
