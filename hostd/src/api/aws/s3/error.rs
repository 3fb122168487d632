//! Errors of S3.

use hyper::{Response, StatusCode};
use s3s::{Body, S3Error, S3ErrorCode};

use crate::service::ServiceError;
use crate::service::error::HostError;
use crate::service::host::artifacts::error::ArtifactError;

/// The error of an operation.
pub(super) fn of(error: &ServiceError) -> S3Error {
    let code = match error {
        ServiceError::Host(HostError::Artifact(error)) => of_artifact(error),
        error => match error.exception().name {
            "AccessDeniedException" => S3ErrorCode::AccessDenied,
            "ThrottlingException" => S3ErrorCode::SlowDown,
            "ValidationException" => S3ErrorCode::InvalidArgument,
            "ServiceQuotaExceededException" => S3ErrorCode::InvalidRequest,
            "InsufficientCapacityException" => S3ErrorCode::ServiceUnavailable,
            _ => S3ErrorCode::InternalError,
        },
    };
    match code {
        S3ErrorCode::NoSuchKey => S3Error::with_message(code, "The specified key does not exist."),
        code => S3Error::with_message(code, error.to_string()),
    }
}

fn of_artifact(error: &ArtifactError) -> S3ErrorCode {
    match error {
        ArtifactError::NoKey(_) => S3ErrorCode::NoSuchKey,
        ArtifactError::Key => S3ErrorCode::KeyTooLongError,
        ArtifactError::TooLarge(_) => S3ErrorCode::EntityTooLarge,
        ArtifactError::Metadata(_) => S3ErrorCode::MetadataTooLarge,
        ArtifactError::Digest(_) => S3ErrorCode::BadDigest,
        ArtifactError::Broken(_) => S3ErrorCode::IncompleteBody,
        ArtifactError::Condition => S3ErrorCode::PreconditionFailed,
        ArtifactError::NoUpload => S3ErrorCode::NoSuchUpload,
        ArtifactError::TooManyUploads(_) => S3ErrorCode::InvalidRequest,
        ArtifactError::Empty | ArtifactError::PartNumber | ArtifactError::KeyCharacter(_) => {
            S3ErrorCode::InvalidArgument
        }
        ArtifactError::NoPart(_) => S3ErrorCode::InvalidPart,
        ArtifactError::PartOrder => S3ErrorCode::InvalidPartOrder,
        ArtifactError::Disk(..) | ArtifactError::Io(_) => S3ErrorCode::InternalError,
    }
}

/// The response of an error.
pub(super) fn response(error: S3Error) -> Response<Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
