//! TLS, API keys, accounts, reflection.

use bytes::{Buf as _, BufMut as _};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use crate::support::Daemon;

/// What grpcurl does: it knows nothing but the address, and asks the server for its services and messages.
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

    // The call itself goes through messages that were made of these descriptions alone.
    let request: DynamicMessage = DynamicMessage::deserialize(
        method.input(),
        &mut serde_json::Deserializer::from_str(r#"{"maxResults": 1}"#),
    )
    .unwrap();
    let path = PathAndQuery::from_static("/hearth.microvms.v1.MicrovmService/ListManagedMicrovmImages");
    let mut client = Grpc::new(daemon.channel());
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(request.encode_to_vec()), path, Bytes).await.unwrap().into_inner();
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

/// Messages as they are.
#[derive(Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let all = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(all).to_vec()))
    }
}
