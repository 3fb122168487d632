//! Errors as gRPC statuses: the message, and `google.rpc` details.

use std::collections::HashMap;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::service::ServiceError;
use crate::service::quota::SERVICE_CODE;

/// The `domain` of `ErrorInfo`.
pub const DOMAIN: &str = "hearth.microvms.v1";
/// The header with the call's id.
pub const REQUEST_ID: &str = "x-amzn-requestid";

/// Greatest size of a message, in bytes: it travels percent-encoded in a header, and clients accept 16 KiB of headers.
const MESSAGE_MAX: usize = 1500;
/// Greatest size of each text in the details, in bytes.
const DETAIL_MAX: usize = 256;

/// Truncates a text to at most `max` bytes, and marks that with an ellipsis.
fn bounded(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}…", text.get(..text.floor_char_boundary(max)).unwrap_or_default())
}

/// The status of an error in the call with the id `request_id`.
#[must_use]
pub fn status(error: &ServiceError, request_id: &str) -> Status {
    let exception = error.exception();
    let message = bounded(&error.to_string(), MESSAGE_MAX);
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::from([
        ("httpStatus".to_owned(), exception.http_status.to_string()),
        ("requestId".to_owned(), request_id.to_owned()),
    ]);
    if let Some(quota) = error.quota() {
        metadata.insert("serviceCode".to_owned(), SERVICE_CODE.to_owned());
        metadata.insert("quotaCode".to_owned(), quota.code().to_owned());
    }
    details.set_error_info(exception.name, DOMAIN, metadata);
    for violation in error.violations() {
        let constraint = bounded(&violation.constraint, DETAIL_MAX);
        details.add_bad_request_violation(bounded(&violation.field, DETAIL_MAX), constraint);
    }
    if let Some(resource) = error.resource() {
        details.set_resource_info(
            resource.kind,
            bounded(&resource.id, DETAIL_MAX),
            "",
            bounded(&message, DETAIL_MAX),
        );
    }
    if let Some(quota) = error.quota() {
        details.add_quota_failure_violation(quota.code(), bounded(&message, DETAIL_MAX));
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    let mut status = Status::with_error_details(exception.grpc, message, details);
    with_request_id(status.metadata_mut(), request_id);
    status
}

/// Adds the call's id to the metadata of a response.
pub(super) fn with_request_id(metadata: &mut tonic::metadata::MetadataMap, request_id: &str) {
    if let Ok(value) = request_id.parse() {
        metadata.insert(REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::error::ImageError;

    /// Whether a status was made by [`status`], and not by the transport.
    fn is_ours(status: &Status) -> bool {
        let info = status.get_details_error_info();
        status.code() != tonic::Code::Ok && info.is_some_and(|info| info.domain == DOMAIN)
    }

    #[test]
    fn an_error_fits_into_the_headers_that_clients_take() {
        let long = "ü".repeat(20_000);
        let sent = status(&ImageError::NotFound(long).into(), "id");
        assert!(sent.message().len() <= MESSAGE_MAX + '…'.len_utf8(), "{}", sent.message().len());
        assert!(sent.details().len() < 4096, "{}", sent.details().len());
        assert!(is_ours(&sent));
        let short = status(&ImageError::NotFound("arn".into()).into(), "id");
        assert_eq!(short.message(), "MicroVMImage not found for MicroVMImageID: arn");
        assert_eq!(short.get_details_resource_info().map(|info| info.resource_name), Some("arn".to_owned()));
    }
}
