//! Errors as gRPC tells them: a code, the message, and details (`google/rpc/error_details.proto`).

use std::collections::HashMap;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::service::quota::SERVICE_CODE;
use crate::service::ServiceError;

/// Of which exceptions are.
const DOMAIN: &str = "hearth.microvms.v1";
/// Message and details travel in headers, of which clients take 16 KiB: what they may have, encoded.
const MAX_MESSAGE: usize = 5000;
const MAX_DETAILS: usize = 3000;

/// An error of a call.
pub(super) fn status(error: &ServiceError, request_id: &str) -> Status {
    let exception = error.exception();
    let message = bounded(&error.to_string(), MAX_MESSAGE);
    let mut metadata = HashMap::from([
        ("httpStatus".to_owned(), exception.http_status.to_string()),
        ("requestId".to_owned(), request_id.to_owned()),
    ]);
    let mut details = ErrorDetails::new();
    let mut left = MAX_DETAILS;
    for violation in error.violations() {
        let size = violation.field.len() + violation.constraint.len();
        if size > left {
            break;
        }
        left -= size;
        details.add_bad_request_violation(violation.field, violation.constraint);
    }
    if let Some(resource) = error.resource()
        && resource.id.len() <= left
    {
        details.set_resource_info(resource.kind, resource.id, "", message.as_str());
    }
    if let Some(quota) = error.quota() {
        metadata.insert("serviceCode".to_owned(), SERVICE_CODE.to_owned());
        metadata.insert("quotaCode".to_owned(), quota.code().to_owned());
        details.add_quota_failure_violation(quota.code(), message.as_str());
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    details.set_error_info(exception.name, DOMAIN, metadata);
    Status::with_error_details(exception.grpc, message, details)
}

/// A text that has at most `max` bytes where it is percent-encoded, as messages of gRPC are.
fn bounded(text: &str, max: usize) -> String {
    let mut size = 0;
    let encoded = |char: char| if matches!(char, ' '..='~') && char != '%' { 1 } else { 3 * char.len_utf8() };
    let fits = |char: &char| {
        size += encoded(*char);
        size <= max
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::service::{Operation, Quota, Violation};

    #[test]
    fn an_error_has_its_details() {
        let error = ServiceError::ImageBusy { arn: "arn:x".to_owned(), state: "UPDATING" };
        let status = status(&error, "id-1");
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "MicroVM Image is already in state: UPDATING"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("ConflictException", DOMAIN));
        assert_eq!((info.metadata["httpStatus"].as_str(), info.metadata["requestId"].as_str()), ("409", "id-1"));
        let resource = details.resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("MicrovmImage", "arn:x"));
    }

    #[test]
    fn a_throttled_call_is_told_when_to_come_back() {
        let quota = Quota::Rate(Operation::RunMicrovm);
        let status = status(&ServiceError::Throttled { quota, retry_after: Duration::from_millis(200) }, "id");
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(200)));
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "L-535CA9B6");
        assert_eq!(details.error_info().unwrap().metadata["quotaCode"], "L-535CA9B6");
    }

    #[test]
    fn what_a_client_has_sent_does_not_make_headers_too_long() {
        let violation = Violation { field: "x".repeat(50), constraint: "y".repeat(200) };
        for error in [
            ServiceError::Constraints(vec![violation; 20]),
            ServiceError::InvalidArn("ä".repeat(2048)),
            ServiceError::MicrovmNotFound("%".repeat(100_000)),
        ] {
            let status = status(&error, "id");
            let mut headers = hyper::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(size < 14_000, "{size}");
        }
    }
}
