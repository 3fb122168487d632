//! The host's operations that AWS does not have.

use hearth_proto::host::v1::build_event::Event as What;
use hearth_proto::host::v1::host_service_server::HostService;
use hearth_proto::host::v1::put_artifact_request::Part;

use super::*;

fn log(stream: &str, source: &str, message: &str, seconds: i64) -> host::LogEvent {
    let (log_stream, source, message) = (stream.into(), source.into(), message.into());
    host::LogEvent { log_stream, timestamp: at(seconds, 250_000_000), source, message, id: "7".into() }
}

#[tonic::async_trait]
impl HostService for Daemon {
    type TailLogsStream = Events<host::LogEvent>;
    type WatchEventsStream = Events<host::Event>;
    type WatchBuildStream = Events<host::BuildEvent>;
    type GetArtifactStream = Events<host::GetArtifactResponse>;

    async fn get_host_status(
        &self,
        request: Request<host::GetHostStatusRequest>,
    ) -> Answer<host::HostStatus> {
        self.note(request);
        if self.discreet.load(Ordering::Relaxed) {
            return ok(host::HostStatus {
                region: "eu-test-1".into(),
                account: "123456789012".into(),
                profile: "default".into(),
                endpoint: self.endpoint.lock().unwrap().clone(),
                account_status: Some(host::AccountStatus {
                    memory_mib: 512,
                    max_memory_mib: Some(4096),
                    max_builds: Some(2),
                    disk_bytes: 3 << 30,
                    max_disk_bytes: Some(20 << 30),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }
        ok(host::HostStatus {
            version: "0.1.0".into(),
            region: "eu-test-1".into(),
            account: "123456789012".into(),
            profile: "default".into(),
            processor: "GRAVITON 3".into(),
            cpus: 64,
            memory_bytes: 128 << 30,
            capacity_mib: 65_536,
            reserved_mib: 512,
            microvms: [("RUNNING".into(), 1), ("SUSPENDED".into(), 0)].into(),
            pools: vec![host::Pool { name: "networks".into(), ready: 3, wanted: 4 }],
            disk_total_bytes: 1 << 40,
            disk_free_bytes: 1 << 39,
            account_disks: vec![host::AccountDisk {
                account: "123456789012".into(),
                bytes: 3 << 30,
                room_bytes: 400 << 30,
            }],
            kernel: "6.12".into(),
            endpoint: self.endpoint.lock().unwrap().clone(),
            artifact_limits: *self.limits.lock().unwrap(),
            ..host::HostStatus::default()
        })
    }

    async fn list_log_groups(
        &self,
        _: Request<host::ListLogGroupsRequest>,
    ) -> Answer<host::ListLogGroupsResponse> {
        let item = host::LogGroup {
            name: "/aws/lambda-microvms/demo".into(),
            stored_bytes: 2048,
            ..host::LogGroup::default()
        };
        ok(host::ListLogGroupsResponse { items: vec![item], next_token: None })
    }

    async fn list_log_streams(
        &self,
        _: Request<host::ListLogStreamsRequest>,
    ) -> Answer<host::ListLogStreamsResponse> {
        let item = host::LogStream { name: "s".into(), stored_bytes: 10, ..host::LogStream::default() };
        ok(host::ListLogStreamsResponse { items: vec![item], next_token: None })
    }

    async fn read_logs(&self, request: Request<host::ReadLogsRequest>) -> Answer<host::ReadLogsResponse> {
        let request = request.into_inner();
        let first = request.next_token.is_none();
        self.seen.lock().unwrap().read.push(request);
        let item = if first { log("s", "stdout", "hello\x1b[2J", 0) } else { log("s", "stderr", "world", 1) };
        ok(host::ReadLogsResponse {
            items: vec![item],
            next_token: first.then(|| "more".into()),
            ..host::ReadLogsResponse::default()
        })
    }

    async fn tail_logs(&self, _: Request<host::TailLogsRequest>) -> Answer<Self::TailLogsStream> {
        // Like a real stream of logs, this one never ends.
        let lines = tokio_stream::iter([Ok(log("s", "stdout", "one", 0)), Ok(log("s", "stdout", "two", 1))]);
        ok(Box::pin(lines.chain(tokio_stream::pending())))
    }

    async fn watch_events(&self, _: Request<host::WatchEventsRequest>) -> Answer<Self::WatchEventsStream> {
        let event = host::Event {
            time: at(0, 0),
            kind: "microvm".into(),
            resource: ALIVE.into(),
            image_version: None,
            from_state: "PENDING".into(),
            to_state: "RUNNING".into(),
            reason: None,
        };
        ok(Box::pin(tokio_stream::once(Ok(event)).chain(tokio_stream::pending())))
    }

    async fn watch_build(&self, request: Request<host::WatchBuildRequest>) -> Answer<Self::WatchBuildStream> {
        let image = request.into_inner().image_identifier.unwrap_or_default();
        let failing = image.ends_with("failing");
        let event =
            |seconds, nanos, event| Ok(host::BuildEvent { time: at(seconds, nanos), event: Some(event) });
        let name = "build the container image".to_owned();
        let mut events = vec![
            event(0, 0, What::StepStarted(name.clone())),
            event(
                1,
                500_000_000,
                What::Log(log("2026/01/01[1.0]build-0b000000", "stdout", "#1 FROM scratch", 1)),
            ),
        ];
        if failing {
            let mut failed = build(BuildState::Failed);
            failed.image_arn = image;
            events.push(event(2, 0, What::Ended(failed)));
        } else {
            events.push(event(
                2,
                0,
                What::StepFinished(host::BuildStep { name, duration_ns: 2_000_000_000 }),
            ));
            events.push(event(2, 100_000_000, What::Ended(build(BuildState::Successful))));
        }
        ok(Box::pin(tokio_stream::iter(events)))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<host::PutArtifactRequest>>,
    ) -> Answer<host::PutArtifactResponse> {
        let mut parts = request.into_inner();
        let mut artifact = (String::new(), Vec::new());
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Name(name) | Part::Key(name)) => artifact.0 = name,
                Some(Part::Data(data)) => artifact.1.extend(data),
                None => return Err(Status::invalid_argument("a message without a part")),
            }
        }
        let bytes = i64::try_from(artifact.1.len()).unwrap();
        self.seen.lock().unwrap().artifact = Some(artifact);
        ok(host::PutArtifactResponse { uri: "s3://hearth/uploaded.zip".into(), bytes })
    }

    // The client has no command for these.
    async fn list_artifacts(
        &self,
        _: Request<host::ListArtifactsRequest>,
    ) -> Answer<host::ListArtifactsResponse> {
        Err(Status::unimplemented("ListArtifacts"))
    }

    async fn get_artifact(&self, _: Request<host::GetArtifactRequest>) -> Answer<Self::GetArtifactStream> {
        Err(Status::unimplemented("GetArtifact"))
    }

    async fn delete_artifact(
        &self,
        _: Request<host::DeleteArtifactRequest>,
    ) -> Answer<host::DeleteArtifactResponse> {
        Err(Status::unimplemented("DeleteArtifact"))
    }

    async fn back_up_store(&self, _: Request<host::BackUpStoreRequest>) -> Answer<host::BackUpStoreResponse> {
        ok(host::BackUpStoreResponse { name: "2026-01-01".into(), bytes: 4096 })
    }
}
