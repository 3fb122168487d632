//! Exceptions of CloudWatch Logs.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::absent;
use crate::service::{ServiceError, Violation};

/// Our names of members, and CloudWatch's.
const NAMES: [(&str, &str); 6] = [
    ("logGroup", "logGroupName"),
    ("logStream", "logStreamName"),
    ("logStreams", "logStreamNames"),
    ("logStreamPrefix", "logStreamNamePrefix"),
    ("contains", "logGroupNamePattern"),
    ("maxResults", "limit"),
];

/// The reason why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    name: &'static str,
    message: String,
}

impl Refusal {
    /// A member is invalid; `message` is a sentence.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self { name: "InvalidParameterException", message: message.into() }
    }

    /// One member violates a constraint of AWS's model.
    pub(super) fn constraint(value: &str, member: &str, constraint: &str) -> Self {
        let value: String = value.chars().take(256).collect();
        Self::parameter(format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        ))
    }

    /// A member that this host does not support.
    pub(super) fn unsupported(member: &str, why: &str) -> Self {
        Self::parameter(format!("{member} is not supported by this host: {why}"))
    }

    pub(super) fn no_group() -> Self {
        Self {
            name: "ResourceNotFoundException",
            message: "The specified log group does not exist.".to_owned(),
        }
    }

    pub(super) fn no_token() -> Self {
        Self::parameter("The specified nextToken is invalid.")
    }

    /// The body is not a request.
    pub(super) fn serialization(error: &serde_json::Error) -> Self {
        let message = format!("The request's body is not valid: {error}");
        Self { name: "SerializationException", message: message.chars().take(512).collect() }
    }

    /// The action does not exist here.
    pub(super) fn unknown(action: &str) -> Self {
        Self { name: "UnknownOperationException", message: absent::message(action) }
    }

    /// The error of an operation. `prefix` is the name of the operation's member `prefix`.
    pub(super) fn of(error: &ServiceError, prefix: &str) -> Self {
        let name = error.exception().name;
        match (name, error.resource()) {
            ("ResourceNotFoundException", Some(resource)) if resource.kind == "Log stream" => {
                Self { name, message: "The specified log stream does not exist.".to_owned() }
            }
            ("ResourceNotFoundException", _) => Self::no_group(),
            ("ValidationException", _) => Self::of_validation(error, prefix),
            ("AccessDeniedException" | "ThrottlingException", _) => Self { name, message: error.to_string() },
            _ => Self { name: "ServiceUnavailableException", message: error.to_string() },
        }
    }

    fn of_validation(error: &ServiceError, prefix: &str) -> Self {
        let rename = |violation: Violation| {
            let known = NAMES.iter().find(|(ours, _)| *ours == violation.field).map(|(_, theirs)| *theirs);
            let field = if violation.field == "prefix" { prefix } else { known.unwrap_or(&violation.field) };
            Violation { field: field.to_owned(), ..violation }
        };
        let violations: Vec<_> = error.violations().into_iter().map(rename).collect();
        match violations.as_slice() {
            [only] if only.field == "nextToken" => Self::no_token(),
            // The message is about one member, in words of its own.
            [only] if only.constraint == error.to_string() => Self::parameter(error.to_string()),
            several => {
                let messages: Vec<_> = several.iter().map(Violation::message).collect();
                let (count, plural) = (messages.len(), if messages.len() == 1 { "" } else { "s" });
                Self::parameter(format!("{count} validation error{plural} detected: {}", messages.join("; ")))
            }
        }
    }

    /// HTTP status: 400, as AWS JSON has it, unless the service is at fault.
    pub(super) fn status(&self) -> StatusCode {
        match self.name {
            "ServiceUnavailableException" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn body(&self) -> Value {
        json!({ "__type": self.name, "message": self.message })
    }
}
