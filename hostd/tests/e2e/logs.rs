//! Logs of the app's output.

use hearth_proto::host::v1::{ListLogGroupsRequest, LogEvent, ReadLogsRequest, TailLogsRequest};
use hearth_proto::microvms::v1::{CloudWatchLogging, Logging, LoggingDisabled, logging};

use crate::support::api::request;
use crate::support::app::ask;
use crate::support::{Daemon, TEST_TIMEOUT, until};

const GROUP: &str = "/tests/counter";
const STREAM: &str = "one";

#[tokio::test]
async fn what_an_app_says_is_kept_and_can_be_followed() {
    let Some(daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    let mut wanted = request(&image);
    let target = CloudWatchLogging { log_group: Some(GROUP.into()), log_stream: Some(STREAM.into()) };
    wanted.logging = Some(Logging { logging: Some(logging::Logging::CloudWatch(target)) });
    wanted.run_hook_payload = Some("secret-of-this-run".into());
    let microvm = daemon.launch(wanted).await.unwrap();
    let mut silent = request(&image);
    silent.logging = Some(Logging { logging: Some(logging::Logging::Disabled(LoggingDisabled {})) });
    let silent = daemon.launch(silent).await.unwrap();
    for id in [&microvm.microvm_id, &silent.microvm_id] {
        daemon.settled(id).await;
    }

    let lines = until("the app's line of /run is there", async || {
        let events = read(&daemon, None).await;
        events.iter().any(|event| event.message.starts_with("counter: /run,")).then_some(events)
    })
    .await;
    assert!(lines.iter().all(|event| event.log_stream == STREAM), "{lines:?}");
    assert!(lines.iter().any(|event| event.source == "stdout"), "{lines:?}");

    // New lines arrive at the open tail, across a suspend too.
    let tail = TailLogsRequest { log_group: Some(GROUP.into()), last: Some(1), ..Default::default() };
    let mut tail = daemon.host().tail_logs(tail).await.unwrap().into_inner();
    assert!(next(&mut tail).await.message.starts_with("counter: /run,"));
    daemon.suspend(&microvm.microvm_id).await.unwrap();
    daemon.settled(&microvm.microvm_id).await;
    daemon.resume(&microvm.microvm_id).await.unwrap();
    daemon.settled(&microvm.microvm_id).await;
    for hook in ["/suspend, call 3 of", "/resume, call 4 of"] {
        until_line(&mut tail, hook).await;
    }
    ask(&microvm.microvm_id, "GET /exit/3").await;
    until_line(&mut tail, "exiting with 3").await;
    daemon.ended(&microvm.microvm_id).await;

    let filtered = read(&daemon, Some("exiting")).await;
    assert_eq!(filtered.len(), 1, "{filtered:?}");
    // The output of a microVM without logging is in no group, and the daemon's own log contains no payload.
    let groups = daemon.host().list_log_groups(ListLogGroupsRequest::default()).await.unwrap().into_inner();
    for group in groups.items {
        let all = ReadLogsRequest { log_group: Some(group.name), ..Default::default() };
        let events = daemon.host().read_logs(all).await.unwrap().into_inner().items;
        assert!(!events.iter().any(|event| event.message.contains(&silent.microvm_id)), "{events:?}");
    }
    assert!(!daemon.log_text().contains("secret-of-this-run"));
    daemon.finish().await;
}

#[tokio::test]
async fn a_build_leaves_its_log() {
    let Some(daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    let group = format!("/aws/lambda-microvms/{image}");
    let request = ReadLogsRequest { log_group: Some(group), ..Default::default() };
    let events = daemon.host().read_logs(request).await.unwrap().into_inner().items;
    for line in ["COPY counter", "counter: starting", "counter: /ready"] {
        assert!(events.iter().any(|event| event.message.contains(line)), "{line} in {events:?}");
    }
    daemon.finish().await;
}

async fn read(daemon: &Daemon, contains: Option<&str>) -> Vec<LogEvent> {
    let request = ReadLogsRequest {
        log_group: Some(GROUP.into()),
        log_stream: Some(STREAM.into()),
        contains: contains.map(Into::into),
        ..Default::default()
    };
    // The group exists once its first line was stored.
    daemon.host().read_logs(request).await.map(|answer| answer.into_inner().items).unwrap_or_default()
}

async fn next(tail: &mut tonic::Streaming<LogEvent>) -> LogEvent {
    let event = tokio::time::timeout(TEST_TIMEOUT, tail.message()).await.expect("another line");
    event.unwrap().expect("the stream goes on")
}

async fn until_line(tail: &mut tonic::Streaming<LogEvent>, contains: &str) {
    while !next(tail).await.message.contains(contains) {}
}
