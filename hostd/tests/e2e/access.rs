//! TLS, API keys, accounts, reflection.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use hearth_proto::microvms::v1::microvm_service_client::MicrovmServiceClient;
use hearth_proto::microvms::v1::{
    GetMicrovmRequest, ListMicrovmImagesRequest, ListMicrovmsRequest, MicrovmState, TerminateMicrovmRequest,
};
use hearth_testing::calls::Raw;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request};

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::site::Site;
use crate::support::tenant::{Authorised, authorised};

/// Access keys of other accounts than the socket's, and one that may only read.
const KEYS: &str = "
listen.address = '127.0.0.1:7743'
listen.certificate = 'CERTIFICATE'
listen.key = 'KEY'
[[access.keys]]
id = 'stranger'
secret = 'the-secret-of-a-stranger'
account = '999999999999'
[[access.keys]]
id = 'looker'
secret = 'the-secret-of-who-looks'
policies = [{ actions = ['Get*', 'List*'] }]
";
const ADDRESS: &str = "https://localhost:7743";

#[tokio::test]
async fn over_tcp_everybody_says_who_they_are_and_sees_their_own_alone() {
    let Some(site) = Site::get() else { return };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (site.folder.join("certificate.pem"), site.folder.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let extra =
        KEYS.replace("CERTIFICATE", &certificate.to_string_lossy()).replace("KEY", &key.to_string_lossy());
    let daemon = Daemon::start_with(&extra).await.unwrap();
    let microvm = daemon.run().await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(made.cert.pem()));
    let channel = Endpoint::from_static(ADDRESS).tls_config(tls).unwrap().connect().await.unwrap();
    let get = GetMicrovmRequest { microvm_identifier: Some(microvm.microvm_id.clone()) };

    let nobody = MicrovmServiceClient::new(channel.clone()).get_microvm(get.clone()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let wrong = client(&channel, "stranger", "another-secret-of-nobody").get_microvm(get.clone()).await;
    assert_eq!(wrong.unwrap_err().code(), Code::Unauthenticated);

    // Another account has neither the microVM nor the image.
    let mut stranger = client(&channel, "stranger", "the-secret-of-a-stranger");
    let hidden = stranger.get_microvm(get.clone()).await.unwrap_err();
    assert_eq!(hidden.message(), format!("MicroVM not found: {}", microvm.microvm_id));
    let terminate = TerminateMicrovmRequest { microvm_identifier: get.microvm_identifier.clone() };
    assert_eq!(stranger.terminate_microvm(terminate.clone()).await.unwrap_err().code(), Code::NotFound);
    assert!(stranger.list_microvms(ListMicrovmsRequest::default()).await.unwrap().get_ref().items.is_empty());
    let images = stranger.list_microvm_images(ListMicrovmImagesRequest::default()).await.unwrap();
    assert!(images.get_ref().items.is_empty());
    assert_eq!(
        stranger.run_microvm(request(&daemon.counter().await)).await.unwrap_err().code(),
        Code::NotFound
    );

    // A role of another account cannot be used either.
    let mut foreign = request(&daemon.counter().await);
    foreign.execution_role_arn = Some("arn:aws:iam::999999999999:role/app".into());
    let denied = daemon.api().run_microvm(foreign).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    assert!(denied.message().contains("iam:PassRole"), "{denied}");

    // A client of this account sees both, and may change nothing.
    let mut looker = client(&channel, "looker", "the-secret-of-who-looks");
    assert_eq!(looker.get_microvm(get).await.unwrap().get_ref().microvm_id, microvm.microvm_id);
    let denied = looker.terminate_microvm(terminate).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    assert_eq!(daemon.get(&microvm.microvm_id).await.unwrap().state(), MicrovmState::Running);

    // A client that does not use TLS gets no response.
    let plain = Endpoint::from_static("http://localhost:7743").connect_lazy();
    let mut unheard = client(&plain, "looker", "the-secret-of-who-looks");
    assert!(unheard.list_microvms(ListMicrovmsRequest::default()).await.is_err());
    daemon.finish().await;
}

#[tokio::test]
async fn a_daemon_that_anybody_could_reach_does_not_start() {
    let Some(site) = Site::get() else { return };
    let key = "[[access.keys]]\nid = 'somebody'\nsecret = 'the-secret-of-somebody'";
    let extra = format!("listen.address = '0.0.0.0:7744'\n{key}");
    let said = Daemon::refused(site, &extra);
    assert!(said.contains("listen.address"), "{said}");
}

/// A client with an access key.
fn client(channel: &Channel, id: &str, secret: &str) -> MicrovmServiceClient<Authorised> {
    MicrovmServiceClient::new(authorised(channel, id, secret))
}

/// Behaves like grpcurl: it knows only the address, and queries the server for its services and messages.
#[tokio::test]
async fn a_client_that_knows_no_protobuf_file_finds_out_by_reflection() {
    let Some(daemon) = Daemon::start().await else { return };
    let services = reflect(&daemon, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(services) = services else { panic!("{services:?}") };
    let names: Vec<&str> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["hearth.microvms.v1.MicrovmService", "hearth.host.v1.HostService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("hearth.microvms.v1.MicrovmService".into());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&daemon, symbol).await else { panic!() };
    let mut pool = DescriptorPool::new();
    let timestamp = MessageRequest::FileByFilename("google/protobuf/timestamp.proto".into());
    let MessageResponse::FileDescriptorResponse(imported) = reflect(&daemon, timestamp).await else {
        panic!()
    };
    for file in imported.file_descriptor_proto.iter().chain(&files.file_descriptor_proto) {
        let file = prost_types::FileDescriptorProto::decode(file.as_slice()).unwrap();
        if pool.get_file_by_name(file.name()).is_none() {
            pool.add_file_descriptor_proto(file).unwrap();
        }
    }
    let service = pool.get_service_by_name("hearth.microvms.v1.MicrovmService").unwrap();
    assert_eq!(service.methods().count(), 24);
    let method = service.methods().find(|method| method.name() == "ListManagedMicrovmImages").unwrap();

    // The call itself uses messages that were made of these descriptions only.
    let request: DynamicMessage = DynamicMessage::deserialize(
        method.input(),
        &mut serde_json::Deserializer::from_str(r#"{"maxResults": 1}"#),
    )
    .unwrap();
    let path = PathAndQuery::from_static("/hearth.microvms.v1.MicrovmService/ListManagedMicrovmImages");
    let mut client = Grpc::new(daemon.channel());
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(request.encode_to_vec()), path, Raw).await.unwrap().into_inner();
    let answer = DynamicMessage::decode(method.output(), answer.as_slice()).unwrap();
    let json = serde_json::to_value(&answer).unwrap();
    assert!(json["items"][0]["imageArn"].as_str().unwrap().starts_with("arn:aws:lambda:"), "{json}");
    daemon.finish().await;
}

async fn reflect(daemon: &Daemon, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answers = ServerReflectionClient::new(daemon.channel())
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let mut answers = answers.unwrap().into_inner();
    answers.next().await.unwrap().unwrap().message_response.unwrap()
}
