//! Tests of the messages and accessors of errors.

use std::time::Duration;

use super::exception::{RETRY, exception};
use super::*;
use crate::service::quota::Quota;

#[test]
fn several_violations_are_one_message() {
    let violation = |field: &str, value, constraint: &str| Violation {
        field: field.into(),
        value,
        constraint: constraint.into(),
    };
    let one = ServiceError::from(InvalidRequest::Constraints(vec![violation(
        "name",
        Shown::Null,
        "Member must not be null",
    )]));
    assert_eq!(
        one.to_string(),
        "1 validation error detected: Value null at 'name' failed to satisfy constraint: Member must not be null"
    );
    let two = ServiceError::from(InvalidRequest::Constraints(vec![
        violation("name", Shown::Null, "Member must not be null"),
        violation("hooks.port", Shown::Text("0".into()), "Member must have value greater than or equal to 1"),
    ]));
    assert_eq!(
        two.to_string(),
        "2 validation errors detected: Value null at 'name' failed to satisfy constraint: Member must not be null; \
         Value '0' at 'hooks.port' failed to satisfy constraint: Member must have value greater than or equal to 1"
    );
    assert_eq!(two.violations().len(), 2);
}

#[test]
fn tag_operations_have_exceptions_of_their_own() {
    let arn = "arn:aws:lambda:us-east-1:111122223333:microvm-image:gone";
    let error = ServiceError::from(ImageError::NotFound(arn.into()));
    assert_eq!(error.exception().name, "ResourceNotFoundException");
    assert_eq!(error.clone().of_tags().exception().name, "ResourceNotFoundException");
    assert_eq!(error.of_tags().to_string(), format!("MicroVMImage not found for MicroVMImageID: {arn}"));
    let error = ServiceError::Stopping.of_tags();
    assert_eq!(error.exception(), exception("ServiceException", 500, tonic::Code::Internal));
    assert_eq!(error.retry_after(), Some(RETRY));
    let error = ServiceError::from(NameError::NotTaggable("x".into())).of_tags();
    assert_eq!(
        (error.exception().name, error.exception().http_status),
        ("InvalidParameterValueException", 400)
    );
    assert_eq!(error.violations()[0].field, "Resource");
}

#[test]
fn quotas_are_402_and_rates_429() {
    let exceeded =
        LimitError::QuotaExceeded { quota: Quota::Images, limit: 100, resource: "111122223333".into() };
    let error = ServiceError::from(exceeded);
    assert_eq!(
        (error.exception().name, error.exception().http_status),
        ("ServiceQuotaExceededException", 402)
    );
    let throttled = LimitError::Throttled { quota: Quota::Images, retry_after: Duration::from_millis(200) };
    let error = ServiceError::from(throttled);
    assert_eq!((error.exception().name, error.exception().http_status), ("ThrottlingException", 429));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(200)));
}

#[test]
fn what_is_not_the_callers_doing_is_not_told() {
    let error = ServiceError::internal("disk sda is on fire");
    assert!(!error.to_string().contains("sda"));
    assert_eq!(error.cause().as_deref(), Some("disk sda is on fire"));
    assert!(error.is_internal());
}

#[test]
fn a_client_that_has_gone_is_no_fault_of_the_service() {
    for error in [ServiceError::Disconnected, ServiceError::Disconnected.of_tags()] {
        assert_eq!(error.exception(), exception("RequestCancelledException", 499, tonic::Code::Cancelled));
        assert!(!error.is_internal() && error.retry_after().is_none());
    }
}

#[test]
fn no_active_version_names_the_version_that_was_asked_for() {
    let error = ImageError::NoActiveVersion { arn: "arn:x".into(), version: Some("1.0".into()) };
    assert_eq!(error.to_string(), "No active version found for MicroVM image arn:x and version 1.0");
    let error = ImageError::NoActiveVersion { arn: "arn:x".into(), version: None };
    assert_eq!(error.to_string(), "No active version found for MicroVM image arn:x");
}
