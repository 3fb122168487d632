//! Tests of PutArtifact: an upload goes through the same checks as other operations, and is audited.

use std::num::NonZeroU32;

use futures_util::stream;
use hearth_proto::host::v1::put_artifact_request::Part;
use hearth_proto::host::v1::{PutArtifactRequest, PutArtifactResponse};
use serde_json::json;

use super::upload::ArtifactStream;
use crate::access::{Caller, Policy};
use crate::builds::tests::double::ACCOUNT;
use crate::service::tests::{Host, Seen, caller, limited};
use crate::service::{Limits, Operation, Profile, Rate, ServiceError};

fn name(name: &str) -> PutArtifactRequest {
    PutArtifactRequest { part: Some(Part::Name(name.into())) }
}

fn data(bytes: usize) -> PutArtifactRequest {
    PutArtifactRequest { part: Some(Part::Data(vec![1; bytes])) }
}

fn developer() -> Caller {
    caller(ACCOUNT, [Policy::everything()].into())
}

/// Uploads these messages; returns the response, and what was observed.
async fn put<const N: usize>(
    host: &Host,
    caller: &Caller,
    messages: [Result<PutArtifactRequest, ServiceError>; N],
) -> (Result<PutArtifactResponse, ServiceError>, Seen) {
    let upload = ArtifactStream::receive(stream::iter(messages)).await;
    let response = host.service.call_as(caller, upload).await;
    let seen = host.outside.observed.last();
    assert_eq!(seen.operation, Operation::PutArtifact);
    (response, seen)
}

#[tokio::test]
async fn an_upload_is_audited_with_its_name_and_without_its_data() {
    let host = limited(Profile::Default, Limits::default()).await;
    let messages = [Ok(name("app.zip")), Ok(data(50)), Ok(data(50))];
    let (response, seen) = put(&host, &developer(), messages).await;
    assert_eq!(response.unwrap().bytes, 100);
    assert_eq!((seen.request, seen.exception), (json!({ "name": "app.zip" }), None));
    let (response, seen) = put(&host, &developer(), [Ok(data(10)), Ok(name("app.zip"))]).await;
    assert_eq!(response.unwrap_err().to_string(), "The first message must have the name of the artifact");
    assert_eq!((seen.request, seen.exception), (json!({ "data": "" }), Some("ValidationException")));
}

#[tokio::test]
async fn an_upload_counts_against_its_rate() {
    let once = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
    let limits = Limits { rates: [(Operation::PutArtifact, once)].into(), ..Limits::default() };
    let host = limited(Profile::Default, limits).await;
    // A refused upload counts, too, and so does one of a caller without permission.
    let nobody = caller(ACCOUNT, [].into());
    put(&host, &nobody, [Ok(name("app.zip"))]).await.0.unwrap_err();
    let (response, seen) = put(&host, &developer(), [Ok(name("app.zip")), Ok(data(1))]).await;
    assert_eq!(response.unwrap_err().to_string(), "Rate exceeded");
    assert_eq!(seen.exception, Some("ThrottlingException"));
}

#[tokio::test]
async fn an_ill_named_upload_is_refused_before_its_data() {
    let host = limited(Profile::Default, Limits::default()).await;
    // Data after the name must not be looked at.
    let unread = || Err(ServiceError::internal("the data was looked at"));
    for bad in ["", "../up", "a b", &"a".repeat(129)] {
        let (response, seen) = put(&host, &developer(), [Ok(name(bad)), unread()]).await;
        let message = response.unwrap_err().to_string();
        assert!(
            message.contains(&format!("Value '{bad}' at 'name' failed to satisfy constraint")),
            "{message}"
        );
        assert_eq!(seen.exception, Some("ValidationException"));
    }
    let (response, _) = put(&host, &developer(), [Ok(name(".hidden")), unread()]).await;
    assert!(response.unwrap_err().to_string().ends_with("does not begin with a dot"));
    let (response, seen) = put(&host, &developer(), []).await;
    assert!(response.unwrap_err().to_string().contains("at 'part'"));
    assert_eq!(seen.exception, Some("ValidationException"));
    let broken = ServiceError::invalid("data", "The upload broke off");
    let (response, _) = put(&host, &developer(), [Err(broken)]).await;
    assert_eq!(response.unwrap_err().to_string(), "The upload broke off");
}

#[tokio::test]
async fn an_upload_needs_permission() {
    let host = limited(Profile::Default, Limits::default()).await;
    let reader = Policy { actions: vec!["Get*".into()], images: vec!["*".into()], roles: None };
    let reader = caller(ACCOUNT, [reader].into());
    let unread = Err(ServiceError::internal("the data was looked at"));
    let (response, seen) = put(&host, &reader, [Ok(name("app.zip")), unread]).await;
    assert_eq!(
        response.unwrap_err().to_string(),
        "User: key is not authorized to perform: lambda:PutArtifact on resource: * because no identity-based \
         policy allows the lambda:PutArtifact action"
    );
    assert_eq!((seen.request, seen.exception), (json!({ "name": "app.zip" }), Some("AccessDeniedException")));
}
