//! Calls with extreme values, which the daemon must survive. The daemon is the release build.

use hearth_proto::host::v1::{GetHostStatusRequest, ReadLogsRequest};
use hearth_testing::calls;
use prost_types::Timestamp;
use tonic::Code;

use crate::support::Daemon;

/// Names of things that do not exist: no call makes anything that would have to be removed.
const KNOWN: calls::Known<'_> = &[
    ("imageIdentifier", "nothing"),
    ("microvmIdentifier", "microvm-00000000-0000-0000-0000-000000000000"),
    ("imageVersion", "1.0"),
    ("logGroup", "/nothing"),
    ("maxIdleDurationSeconds", "60"),
    ("minimumMemoryInMiB", "512"),
    ("endPort", "2"),
];
/// Calls that take as long as the store is large, and leave folders behind.
const LEFT_OUT: [&str; 1] = ["BackUpStore"];

#[tokio::test]
async fn no_call_ends_the_daemon() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let started = status(&daemon).await;
    // This call once crashed the daemon.
    let start_time = Some(Timestamp { seconds: i64::MAX, nanos: 2_000_000_000 });
    let read = ReadLogsRequest { log_group: Some("/nothing".into()), start_time, ..Default::default() };
    let refused = daemon.host().read_logs(read).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("startTime"), "{refused}");

    for method in calls::methods() {
        if LEFT_OUT.contains(&method.name()) {
            continue;
        }
        for case in calls::cases(&method, KNOWN) {
            let answer = calls::call(&daemon.channel(), &case).await;
            let lost = answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable);
            assert!(!lost && !daemon.has_died(), "{}: {answer:?}", case.what);
        }
        assert_eq!(status(&daemon).await, started, "after {}: it is the same daemon", method.name());
    }
    let log = daemon.log_text();
    assert!(!log.contains("panicked"), "a panic is a fault, even where it is caught");
    daemon.finish().await;
}

/// The time at which the daemon was started.
async fn status(daemon: &Daemon) -> Option<Timestamp> {
    daemon.host().get_host_status(GetHostStatusRequest::default()).await.unwrap().into_inner().started_at
}
