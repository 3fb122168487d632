//! MicroVMs that exit by themselves, or are terminated.

use hearth_proto::microvms::v1::MicrovmState::{Pending, Running};
use tonic::Code;

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::app::{agent, ask, count};
use crate::support::config;
use crate::support::traces::{is_gone, kill, monitor_of};

#[tokio::test]
async fn whatever_ends_a_microvm_is_its_reason() {
    let Some(daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    // The lifetime of this microVM expires while the others are tested.
    let mut short = request(&image);
    short.maximum_duration_in_seconds = Some(20);
    let short = daemon.launch(short).await.unwrap();

    let app = daemon.run().await;
    ask(&app.microvm_id, "GET /exit/7").await;
    let ended = daemon.ended(&app.microvm_id).await;
    assert_eq!(ended.state_reason.as_deref(), Some("Container Stopped with Exit Code: 7"));

    let guest = daemon.run().await;
    let mut control = agent(&guest.microvm_id).control().await.unwrap();
    // The guest powers off before or after its response.
    let _ = control.power_off().await;
    let ended = daemon.ended(&guest.microvm_id).await;
    println!("a guest that powers off: {:?}", ended.state_reason);
    assert!(ended.state_reason.is_some_and(|reason| reason != "Success."));

    let monitor = daemon.run().await;
    kill(monitor_of(&monitor.microvm_id));
    let ended = daemon.ended(&monitor.microvm_id).await;
    let reason = ended.state_reason.unwrap();
    assert!(reason.starts_with("Internal platform error:"), "{reason}");

    let ended = daemon.ended(&short.microvm_id).await;
    assert_eq!(ended.state_reason.as_deref(), Some("MicroVM exceeded maximum lifetime."));
    let (started, over) = (ended.started_at.unwrap().seconds, ended.terminated_at.unwrap().seconds);
    assert!(over - started >= 20, "{started} to {over}");
    for id in [app, guest, monitor, short].map(|microvm| microvm.microvm_id) {
        assert!(is_gone(&id));
    }
    daemon.finish().await;
}

#[tokio::test]
async fn a_full_host_refuses_and_disturbs_nobody() {
    let Some(daemon) = Daemon::start_with(config::ROOM_FOR_TWO).await else { return };
    let one = daemon.run().await;
    let other = daemon.run().await;
    let image = daemon.counter().await;
    let refused = daemon.launch(request(&image)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = tonic_types::StatusExt::get_error_details(&refused);
    let info = details.error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("InsufficientCapacityException", "hearth.microvms.v1")
    );
    assert_eq!(daemon.list().await.iter().filter(|(_, state)| matches!(state, Running | Pending)).count(), 2);
    assert_eq!((count(&one.microvm_id).await, count(&other.microvm_id).await), (1, 1));

    // Suspending a microVM frees its memory; its resume then fails while the host is full.
    daemon.suspend(&one.microvm_id).await.unwrap();
    daemon.wait(&one.microvm_id, hearth_proto::microvms::v1::MicrovmState::Suspended).await;
    let third = daemon.run().await;
    let full = daemon.resume(&one.microvm_id).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
    daemon.terminate(&third.microvm_id).await.unwrap();
    daemon.ended(&third.microvm_id).await;
    daemon.resume(&one.microvm_id).await.unwrap();
    daemon.wait(&one.microvm_id, Running).await;
    assert_eq!(count(&one.microvm_id).await, 2);
    daemon.finish().await;
}
