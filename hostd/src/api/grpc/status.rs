//! An error as gRPC tells it: the message, and `google.rpc` details.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::service::ServiceError;

/// `ErrorInfo.domain`.
pub const DOMAIN: &str = "hearth.microvms.v1";
/// The header with the call's id.
pub const REQUEST_ID: &str = "x-amzn-requestid";

/// The status of an error in the call `request_id`.
#[must_use]
pub fn status(error: &ServiceError, request_id: &str) -> Status {
    let exception = error.exception();
    let mut details = ErrorDetails::new();
    let metadata = HashMap::from([
        ("httpStatus".to_owned(), exception.http_status.to_string()),
        ("requestId".to_owned(), request_id.to_owned()),
    ]);
    details.set_error_info(exception.name, DOMAIN, metadata);
    for violation in error.violations() {
        details.add_bad_request_violation(violation.field, violation.constraint);
    }
    if let Some(resource) = error.resource() {
        details.set_resource_info(resource.kind, resource.id, "", error.to_string());
    }
    if let Some(quota) = error.quota() {
        details.add_quota_failure_violation(quota.code(), error.to_string());
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    let mut status = Status::with_error_details(exception.grpc, error.to_string(), details);
    with_request_id(status.metadata_mut(), request_id);
    status
}

/// Puts the call's id into what is sent.
pub(super) fn with_request_id(metadata: &mut tonic::metadata::MetadataMap, request_id: &str) {
    if let Ok(value) = request_id.parse() {
        metadata.insert(REQUEST_ID, value);
    }
}

/// Whether a status is one of those above, or the transport's own.
#[must_use]
pub fn is_ours(status: &Status) -> bool {
    status.code() != Code::Ok && status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN)
}
