//! Whatever a client sends, the server keeps answering the next client.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_proto::host::v1::ReadLogsRequest;
use hearth_testing::calls;
use prost_types::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::api::connections::tests::raw::{PREFACE, frame};
use crate::logs::{Line, Source};

/// Timeout far above what any step needs: a connection that the daemon never closes fails the test.
const HANG: Duration = Duration::from_secs(60);

async fn health(channel: &Channel) -> Result<(), Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(drop)
}

/// A server with a microVM, an image and a line in a log.
async fn furnished() -> (Server, String) {
    let server = server().await;
    let microvm = MicrovmServiceClient::new(server.channel.clone()).run_microvm(run()).await.unwrap();
    let logs = &server.host.outside.logs;
    let writer = logs.writer(ACCOUNT, "/group", "stream").unwrap();
    let timestamp = server.host.clock.now();
    writer.append(Line { timestamp, source: Source::Stdout, sequence: 0, message: b"a line" }).unwrap();
    (server, microvm.into_inner().microvm_id)
}

#[tokio::test]
async fn the_timestamp_that_ended_the_daemon_is_refused() {
    let (server, _) = furnished().await;
    let mut client = HostServiceClient::new(server.channel.clone());
    let start_time = Some(Timestamp { seconds: i64::MAX, nanos: 2_000_000_000 });
    let read = ReadLogsRequest { log_group: Some("/group".into()), start_time, ..Default::default() };
    let status = client.read_logs(read).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "ValidationException".into()));
    assert!(status.message().contains("startTime"), "{}", status.message());
    assert!(status.message().contains("9999-12-31T23:59:59"), "{}", status.message());
}

#[tokio::test]
async fn every_method_takes_extreme_values() {
    let (server, microvm) = furnished().await;
    let known: calls::Known<'_> = &[
        ("imageIdentifier", "demo"),
        ("microvmIdentifier", &microvm),
        ("imageVersion", "1.0"),
        ("logGroup", "/group"),
        ("logStream", "stream"),
        ("contains", "line"),
        ("name", "app.zip"),
        ("baseImageArn", "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1"),
        ("buildRoleArn", "arn:aws:iam::123456789012:role/build"),
        ("uri", "s3://bucket/app.zip"),
        ("Resource", "arn:aws:lambda:us-east-1:123456789012:microvm-image:demo"),
        ("TagKeys", "key"),
        ("resource", "demo"),
        ("maxIdleDurationSeconds", "60"),
        ("minimumMemoryInMiB", "512"),
        ("endPort", "2"),
        ("listServices", ""),
    ];
    let (mut answered, mut codes) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
    for method in calls::methods() {
        for case in calls::cases(&method, known) {
            let result = tokio::time::timeout(HANG, calls::call(&server.channel, &case)).await;
            let result = result.unwrap_or_else(|_| panic!("{} is not answered", case.what));
            let code = result.as_ref().map_or_else(Status::code, |()| Code::Ok);
            *codes.entry(format!("{code:?}")).or_default() += 1;
            if result.is_ok() {
                answered.insert(method.name().to_owned());
            }
            let broken = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss];
            let decoding = result.as_ref().is_err_and(|status| status.message().contains("failed to decode"));
            // The store in memory does not support backups.
            let known = decoding || method.name() == "BackUpStore";
            assert!(!broken.contains(&code) || known, "{}: {result:?}", case.what);
            health(&server.channel).await.unwrap_or_else(|error| panic!("{}: {error}", case.what));
        }
    }
    println!("{codes:?}; answered: {answered:?}");
    // Some calls of these methods have to succeed: if the first check refused all of them, the test would prove
    // nothing.
    for method in [
        "RunMicrovm",
        "GetMicrovm",
        "ListMicrovms",
        "GetMicrovmImage",
        "GetMicrovmImageVersion",
        "ListMicrovmImageVersions",
        "ListTags",
        "TagResource",
        "GetHostStatus",
        "ListLogGroups",
        "ListLogStreams",
        "ReadLogs",
        "TailLogs",
        "WatchEvents",
        "PutArtifact",
        "ListArtifacts",
        "DeleteArtifact",
        "ServerReflectionInfo",
    ] {
        assert!(answered.contains(method), "no call of {method} was answered: {answered:?}");
    }
}

/// Writes bytes and nothing else, and waits until the daemon has closed the connection.
async fn raw(socket: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let _ = stream.write_all(bytes).await; // the daemon may close the connection at once
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("it is closed");
}

#[tokio::test]
async fn bytes_that_are_no_calls_end_their_connection_only() {
    let (server, _) = furnished().await;
    let socket = server.socket();
    let settings = frame(4, 0, 0, &[]);
    let window = |by: u32| frame(8, 0, 0, &by.to_be_bytes());
    let after_settings: [Vec<u8>; 16] = [
        vec![0xff; 4096],
        frame(0, 1, 1, b"data of a stream that is not open"),
        frame(1, 5, 1, &[0xff; 64]),
        frame(1, 5, 2, &[0x82]),
        frame(1, 1, 1, &[0x82]),
        frame(9, 4, 1, &[0x82]),
        frame(1, 0x2d, 1, &[0xff, 0, 0, 0, 1]),
        frame(3, 0, 7, &u32::MAX.to_be_bytes()),
        frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        frame(4, 0, 0, &[0, 5, 0, 0, 0, 0]),
        frame(4, 1, 0, &[0; 6]),
        frame(6, 0, 0, &[0; 7]),
        frame(7, 0, 0, &[0xff; 8]),
        frame(5, 4, 1, &[0; 5]),
        [window(0x7fff_ffff), window(0x7fff_ffff)].concat(),
        [vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], vec![0; 1 << 17]].concat(),
    ];
    let alone: [&[u8]; 4] =
        [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", PREFACE];
    for bytes in alone {
        raw(&socket, bytes).await;
        health(&connect(&socket).await).await.unwrap();
    }
    for bytes in after_settings {
        raw(&socket, &[PREFACE, &settings, &bytes].concat()).await;
        health(&connect(&socket).await).await.unwrap();
    }
    // Unusual headers and messages of calls.
    for (name, value) in [
        ("authorization", "x".repeat(1 << 15)),
        ("authorization", "Basic ====".into()),
        ("authorization", "Basic".into()),
        ("grpc-timeout", "99999999H".into()),
        ("grpc-timeout", "99999999999999999999n".into()),
        ("grpc-timeout", "-1S".into()),
        ("user-agent", "é".into()),
        ("grpc-encoding", "gzip".into()),
    ] {
        let mut request = Request::new(proto::ListMicrovmsRequest::default());
        let value = tonic::metadata::MetadataValue::try_from(value.as_bytes()).unwrap();
        request.metadata_mut().insert(name, value);
        let _ = MicrovmServiceClient::new(connect(&socket).await).list_microvms(request).await; // whether the call succeeds does not matter
        health(&connect(&socket).await).await.unwrap();
    }
    let large = proto::GetMicrovmRequest { microvm_identifier: Some("a".repeat(5 << 20)) };
    let status = MicrovmServiceClient::new(server.channel.clone()).get_microvm(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    health(&server.channel).await.unwrap();
}
