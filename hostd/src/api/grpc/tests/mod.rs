//! The services on a Unix socket, each test with its own clients.

mod certificates;
mod extremes;
mod hostile;
mod panics;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_proto::host::v1::host_service_client::HostServiceClient;
use hearth_proto::host::v1::put_artifact_request::Part;
use hearth_proto::host::v1::{
    BackUpStoreRequest, DeleteArtifactRequest, GetArtifactRequest, GetHostStatusRequest,
    ListArtifactsRequest, PutArtifactRequest, get_artifact_response,
};
use hearth_proto::microvms::v1 as proto;
use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::status::REQUEST_ID;
use super::*;
use crate::access::AccessConfig;
use crate::api::{ListenConfig, Listeners};
use crate::builds::tests::double::ACCOUNT;
use crate::service::tests::{Host, host};
use crate::service::{Operation, Profile};

struct Server {
    host: Host,
    channel: Channel,
    /// Where it listens over TCP.
    address: Option<SocketAddr>,
}

impl Server {
    fn socket(&self) -> PathBuf {
        self.host.outside.folder.path().join("hearthd.sock")
    }
}

async fn server() -> Server {
    serve(ListenConfig::default()).await
}

async fn serve(config: ListenConfig) -> Server {
    serve_with(config, "").await
}

/// `others`: who may call beside a key.
async fn serve_with(listen: ListenConfig, others: &str) -> Server {
    let host = host(Profile::Default).await;
    let config = format!(
        "local_account = \"{ACCOUNT}\"\n[[keys]]\nid = \"reader\"\nsecret = \"0123456789abcdef\"\naccount = \"{ACCOUNT}\"\n\
         policies = [{{ actions = [\"Get*\"] }}]\n\
         [[keys]]\nid = \"everything\"\nsecret = \"0123456789abcdef\"\naccount = \"{ACCOUNT}\"\n\
         [[keys]]\nid = \"other\"\nsecret = \"0123456789abcdef\"\naccount = \"999999999999\"\n{others}"
    );
    let access = Access::new(&toml::from_str::<AccessConfig>(&config).unwrap(), "us-east-1").unwrap();
    let routes = Grpc::new(host.service.clone()).routes(access).await.unwrap();
    let folder = host.outside.folder.path();
    let listeners = Listeners::bind(&listen, folder, true, host.clock).await.unwrap();
    let address = listeners.address();
    tokio::spawn(listeners.serve(routes, host.outside.end.subscribe()));
    let channel = connect(&folder.join("hearthd.sock")).await;
    Server { host, channel, address }
}

async fn connect(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

fn run() -> proto::RunMicrovmRequest {
    proto::RunMicrovmRequest { image_identifier: Some("demo".into()), ..Default::default() }
}

fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn a_microvm_is_run_and_got_over_the_socket() {
    let server = server().await;
    let mut client = MicrovmServiceClient::new(server.channel.clone());
    let answer = client.run_microvm(run()).await.unwrap();
    let id = answer.metadata().get(REQUEST_ID).unwrap().to_str().unwrap().to_owned();
    let microvm = answer.into_inner();
    let get = proto::GetMicrovmRequest { microvm_identifier: Some(microvm.microvm_id.clone()) };
    assert_eq!(client.get_microvm(get).await.unwrap().into_inner().endpoint, microvm.endpoint);
    let listed = client.list_microvms(proto::ListMicrovmsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.items.len(), 1);
    let seen = server.host.outside.observed.calls.lock().unwrap().clone();
    assert_eq!(
        (seen[0].operation, &seen[0].request_id, seen[0].exception),
        (Operation::RunMicrovm, &id, None)
    );
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn an_error_has_its_exception_and_the_calls_id() {
    use tonic_types::StatusExt as _;
    let server = server().await;
    let mut client = MicrovmServiceClient::new(server.channel.clone());
    let get = proto::GetMicrovmRequest { microvm_identifier: Some("microvm-1".into()) };
    let status = client.get_microvm(get).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "MicroVM not found: microvm-1"));
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.metadata["httpStatus"].as_str()),
        ("ResourceNotFoundException", "404")
    );
    assert_eq!(info.metadata["requestId"], status.metadata().get(REQUEST_ID).unwrap().to_str().unwrap());
    assert_eq!(details.resource_info().unwrap().resource_name, "microvm-1");
    let status = client.run_microvm(proto::RunMicrovmRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "ValidationException".into()));
    assert_eq!(
        status.get_error_details().bad_request().unwrap().field_violations[0].field,
        "imageIdentifier"
    );
    let tags = proto::ListTagsRequest { resource: Some("arn:aws:s3:::bucket".into()) };
    let status = client.list_tags(tags).await.unwrap_err();
    assert_eq!(reason(&status), "InvalidParameterValueException");
}

#[tokio::test]
async fn credentials_decide_what_a_caller_may() {
    let server = server().await;
    let mut client = MicrovmServiceClient::new(server.channel.clone());
    let with = |credentials: &str| {
        let mut request = Request::new(run());
        let value = format!("Basic {}", STANDARD.encode(credentials));
        request.metadata_mut().insert("authorization", value.parse().unwrap());
        request
    };
    let status = client.run_microvm(with("reader:wrong-wrong-wrong")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "AccessDeniedException".into()));
    let status = client.run_microvm(with("reader:0123456789abcdef")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "AccessDeniedException".into()));
}

/// A request with an access key.
fn with_key<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Basic {}", STANDARD.encode(format!("{id}:0123456789abcdef")));
    request.metadata_mut().insert("authorization", value.parse().unwrap());
    request
}

#[tokio::test]
async fn a_key_without_policies_is_everything_in_its_account_and_nothing_of_the_host() {
    let server = server().await;
    let mut client = HostServiceClient::new(server.channel.clone());
    let root = client.get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((root.version.as_str(), root.cpus), ("9.9.9", 64));
    let own =
        client.get_host_status(with_key("everything", GetHostStatusRequest {})).await.unwrap().into_inner();
    assert_eq!((own.account.as_str(), own.endpoint), (ACCOUNT, root.endpoint));
    assert_eq!((own.version.as_str(), own.cpus, own.microvms.len()), ("", 0, 0));
    let status = client.back_up_store(with_key("everything", BackUpStoreRequest {})).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "AccessDeniedException".into()));
    // The store in memory has no back-ups, but root may ask for one.
    let status = client.back_up_store(BackUpStoreRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test]
async fn another_account_learns_nothing() {
    let server = server().await;
    let mut client = MicrovmServiceClient::new(server.channel.clone());
    let id = client.run_microvm(run()).await.unwrap().into_inner().microvm_id;
    for id in [id, "microvm-1".to_owned()] {
        let get = proto::GetMicrovmRequest { microvm_identifier: Some(id.clone()) };
        let status = client.get_microvm(with_key("other", get)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, format!("MicroVM not found: {id}").as_str())
        );
    }
    let listed =
        client.list_microvms(with_key("other", proto::ListMicrovmsRequest::default())).await.unwrap();
    assert!(listed.into_inner().items.is_empty());
    for name in ["demo", "nothing"] {
        let image = format!("arn:aws:lambda:us-east-1:{ACCOUNT}:microvm-image:{name}");
        let get = proto::GetMicrovmImageRequest { image_identifier: Some(image.clone()) };
        let status = client.get_microvm_image(with_key("other", get)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(&format!("on resource: {image} because")), "{}", status.message());
    }
}

#[tokio::test]
async fn an_artifact_with_a_key_is_listed_read_and_removed() {
    let server = server().await;
    let mut client = HostServiceClient::new(server.channel.clone());
    let part = |part| PutArtifactRequest { part: Some(part) };
    let parts = tokio_stream::iter([part(Part::Key("apps/a b".into())), part(Part::Data(b"hello".to_vec()))]);
    let stored = client.put_artifact(parts).await.unwrap().into_inner();
    assert_eq!((stored.uri.as_str(), stored.bytes), ("s3://artifacts/apps/a b", 5));
    let list = ListArtifactsRequest { delimiter: Some("/".into()), ..Default::default() };
    assert_eq!(client.list_artifacts(list).await.unwrap().into_inner().common_prefixes, ["apps/"]);
    let key = Some("apps/a b".to_owned());
    let mut answers =
        client.get_artifact(GetArtifactRequest { key: key.clone() }).await.unwrap().into_inner();
    let mut data = Vec::new();
    let mut described = None;
    while let Some(message) = answers.message().await.unwrap() {
        match message.part.unwrap() {
            get_artifact_response::Part::Artifact(artifact) => described = Some(artifact),
            get_artifact_response::Part::Data(more) => data.extend(more),
        }
    }
    let described = described.unwrap();
    assert_eq!((described.bytes, described.etag.as_str()), (5, "5d41402abc4b2a76b9719d911017c592"));
    assert_eq!(data, b"hello");
    client.delete_artifact(DeleteArtifactRequest { key: key.clone() }).await.unwrap();
    let status = client.get_artifact(GetArtifactRequest { key }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "Artifact not found: apps/a b"));
    let status = client.get_artifact(GetArtifactRequest { key: Some(String::new()) }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_artifact_is_brought_in_parts() {
    let server = server().await;
    let mut client = HostServiceClient::new(server.channel.clone());
    let name = || PutArtifactRequest { part: Some(Part::Name("app.zip".into())) };
    let data = |bytes: usize| PutArtifactRequest { part: Some(Part::Data(vec![1; bytes])) };
    let parts = tokio_stream::iter([name(), data(50), data(50)]);
    let stored = client.put_artifact(parts).await.unwrap().into_inner();
    assert!(stored.uri.starts_with("s3://artifacts/"), "{}", stored.uri);
    assert_eq!(stored.bytes, 100);
    let status = client.put_artifact(tokio_stream::iter([name(), data(101)])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = client.put_artifact(tokio_stream::iter([data(1)])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
