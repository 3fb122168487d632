//! REST-JSON: AWS's 24 operations as its SDKs and its command line call them.
//!
//! ```text
//!  request ─► route ─► path, query, body ─► message ─► Service::call ─► message ─► JSON
//! ```
//!
//! Nothing is written for a single operation but its line in the table of routes: members are mapped by the descriptors
//! of the messages, whose JSON names are those of AWS.
//!
//! * [`routes`] – the table of routes
//! * [`request`] – from a request to a message; [`json`] – JSON and messages; [`response`] – from a message to a response
//! * [`error`] – errors as responses
//! * [`connectors`] – routes of network connectors, of which this host has none
//! * `model.json` – the part of AWS's service model that tests compare with; `cargo xtask aws-model` writes it

mod connectors;
mod error;
mod json;
mod request;
mod response;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};

use super::Signed;
use super::reply::json_text;
use crate::service::Service;

/// Answers a request whose signature is valid.
pub(crate) async fn answer(service: &Service, request: Signed) -> Response<Full<Bytes>> {
    let Signed { incoming, parts, body } = request;
    let (method, path) = (&parts.method, parts.uri.path());
    if let Some(response) = connectors::answer(method, path) {
        return response;
    }
    let found = match routes::find(method, path) {
        Ok(found) => found,
        Err(why) => return error::nowhere(why),
    };
    let route = found.route;
    let (message, unknown) = match request::read(found, parts.uri.query(), &body) {
        Ok(read) => read,
        Err(why) => {
            tracing::debug!(operation = route.operation.name(), %why, "a request cannot be read");
            return error::unreadable(why);
        }
    };
    match (route.perform)(service, &incoming, message, unknown).await {
        Ok(_) if route.status == StatusCode::NO_CONTENT => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(members) => json_text(route.status, members),
        Err(failed) => error::error(&failed),
    }
}
