//! Errors as responses of REST-JSON.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};

use super::super::reply::{exception, json_response, refusal, retry_after};
use super::request::Unreadable;
use super::routes::Nowhere;
use crate::service::ServiceError;
use crate::service::quota::SERVICE_CODE;

/// Greatest size of a message, in bytes.
const MESSAGE_MAX: usize = 16 << 10;
/// The page of the gateway in front of AWS's service.
const NOT_FOUND: &str = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n\
    <center><h1>404 Not Found</h1></center>\r\n</body>\r\n</html>\r\n";

/// The exceptions that tag operations have for themselves; their member `Type` says whose fault they are.
const OF_TAGS: [(&str, &str); 4] = [
    ("TooManyRequestsException", "User"),
    ("InvalidParameterValueException", "User"),
    ("ResourceConflictException", "User"),
    ("ServiceException", "Service"),
];

/// The response for the error of an operation: the members that AWS's model has for the exception.
pub(super) fn error(error: &ServiceError) -> Response<Full<Bytes>> {
    let what = error.exception();
    let message = error.to_string();
    let message = message.get(..message.floor_char_boundary(MESSAGE_MAX)).unwrap_or_default();
    let mut members = Map::from_iter([("message".to_owned(), message.into())]);
    match OF_TAGS.iter().find(|(name, _)| *name == what.name) {
        Some((_, whose)) => {
            members.insert("Type".to_owned(), (*whose).into());
        }
        None => {
            if let Some(resource) = error.resource() {
                members.insert("resourceType".to_owned(), resource.kind.into());
                members.insert("resourceId".to_owned(), resource.id.into());
            }
            if let Some(quota) = error.quota() {
                members.insert("serviceCode".to_owned(), SERVICE_CODE.into());
                members.insert("quotaCode".to_owned(), quota.code().into());
            }
        }
    }
    let mut response = exception(what.http_status, what.name, &Value::Object(members));
    if let Some(after) = error.retry_after() {
        retry_after(&mut response, after);
    }
    response
}

/// The response for a request that takes no route.
pub(super) fn nowhere(why: Nowhere) -> Response<Full<Bytes>> {
    match why {
        Nowhere::Unknown => refusal(
            403,
            "AccessDeniedException",
            "Unable to determine service/operation name to be authorized",
        ),
        Nowhere::BelowCollection => {
            let mut response = Response::new(Full::new(Bytes::from_static(NOT_FOUND.as_bytes())));
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            response
        }
        Nowhere::Undecodable => json_response(400, &json!({ "message": null })),
    }
}

/// The response for a request that cannot be read. The bodies are those that were recorded at AWS.
pub(super) fn unreadable(why: Unreadable) -> Response<Full<Bytes>> {
    match why {
        Unreadable::Unparsable => json_response(400, &json!({ "message": null })),
        Unreadable::Malformed(malformed) => {
            exception(400, "SerializationException", &json!({ "Message": malformed.to_string() }))
        }
        Unreadable::NoDescriptor => error(&ServiceError::internal("a request message has no descriptor")),
    }
}
