//! Responses: headers and bodies that all protocols of this listener have in common.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// The body of a response: a front end may stream it.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// The header with the name of an exception.
pub(crate) const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// The header with the id of a call.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Content type of REST-JSON.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A body that is there as a whole.
pub(crate) fn whole(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// A response with JSON.
pub(crate) fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    json_text(status, body.to_string())
}

/// A response with JSON that is written already.
pub(crate) fn json_text(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// An exception: its name in the header, its members in the body.
pub(crate) fn exception(status: u16, name: &str, members: &Value) -> Response<Full<Bytes>> {
    let mut response = json_response(status, members);
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert(ERROR_TYPE, name);
    }
    response
}

/// An exception that has a message and nothing else.
pub(crate) fn refusal(status: u16, name: &str, message: &str) -> Response<Full<Bytes>> {
    exception(status, name, &json!({ "message": message }))
}

/// Tells the client when to try again, in whole seconds.
pub(crate) fn retry_after<B>(response: &mut Response<B>, after: Duration) {
    let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
}

/// Adds the id of the call.
pub(crate) fn with_request_id<B>(response: &mut Response<B>, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
