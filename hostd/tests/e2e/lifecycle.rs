//! Launches, suspends, resumes and terminations.

use hearth_proto::host::v1::GetHostStatusRequest;
use hearth_proto::microvms::v1::MicrovmState::{Pending, Running, Suspended, Terminated};
use tonic::Code;

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::app::{agent, ask, control_socket, count};
use crate::support::traces::{entries, is_gone};
use crate::support::{TEST_TIMEOUT, until};

#[tokio::test]
async fn a_microvm_goes_on_where_it_was_after_a_suspend() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut wanted = request(&daemon.counter().await);
    wanted.run_hook_payload = Some("for \"this\" one".into());
    let launched = daemon.launch(wanted).await.unwrap();
    let id = launched.microvm_id.as_str();
    assert_eq!(launched.state(), Pending);
    assert!(id.starts_with("microvm-") && launched.endpoint.contains(".lambda-microvm."), "{launched:?}");
    assert_eq!((launched.image_version.as_str(), launched.maximum_duration_in_seconds), ("1.0", 28_800));
    let running = daemon.wait(id, Running).await;
    assert_eq!((&running.endpoint, &running.started_at), (&launched.endpoint, &launched.started_at));

    // The app has received its id in the request to /run.
    let run: serde_json::Value = serde_json::from_str(&ask(id, "GET /run").await).unwrap();
    assert_eq!(
        (run["microvmId"].as_str(), run["runHookPayload"].as_str()),
        (Some(id), Some("for \"this\" one"))
    );
    assert_eq!((count(id).await, count(id).await), (1, 2));
    assert_eq!(daemon.reserved().await, 512);

    // A suspended microVM has neither a process nor memory.
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Suspended).await;
    assert!(!control_socket(id).exists());
    assert_eq!(daemon.reserved().await, 0);
    daemon.suspend(id).await.expect("once more is the same");
    assert_eq!(daemon.get(id).await.unwrap().state(), Suspended);

    daemon.resume(id).await.unwrap();
    let resumed = daemon.wait(id, Running).await;
    assert_eq!(resumed.endpoint, launched.endpoint);
    assert_eq!(count(id).await, 3);
    assert_eq!(ask(id, "GET /loopback").await, "round 1 over the same connection\n");
    daemon.resume(id).await.expect("once more is the same");

    // The second call of this image's /suspend fails: the microVM runs on and reports why; a resume would have no
    // effect.
    daemon.suspend(id).await.unwrap();
    let reason = until("the suspend has failed", async || daemon.get(id).await.unwrap().state_reason).await;
    assert_eq!(
        reason,
        "Suspend lifecycle hook returned HTTP status 500. Please check your hook endpoint and application logs for more details."
    );
    assert_eq!(daemon.wait(id, Running).await.state(), Running);
    assert_eq!(count(id).await, 4);

    // The microVM is suspended on top of its own suspended state, and terminated without a resume.
    daemon.suspend(id).await.unwrap();
    let suspended = daemon.wait(id, Suspended).await;
    assert_eq!(suspended.state_reason, None);
    daemon.terminate(id).await.unwrap();
    let ended = daemon.ended(id).await;
    assert_eq!(ended.state_reason.as_deref(), Some("Success."));
    assert!(ended.terminated_at.is_some());
    assert!(is_gone(id));
    daemon.terminate(id).await.expect("once more is the same");
    for refused in [daemon.suspend(id).await, daemon.resume(id).await] {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let text = format!("The MicroVM {id} has been terminated and its state cannot be changed.");
        assert_eq!(status.message(), text);
    }
    daemon.finish().await;
}

#[tokio::test]
async fn microvms_of_one_image_know_nothing_of_each_other() {
    let Some(daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    let (one, other) = tokio::join!(daemon.launch(request(&image)), daemon.launch(request(&image)));
    let (one, other) = (one.unwrap(), other.unwrap());
    for microvm in [&one, &other] {
        daemon.wait(&microvm.microvm_id, Running).await;
    }
    let listed: Vec<String> = daemon.list().await.into_iter().map(|(id, _)| id).collect();
    let place = |id: &str| listed.iter().position(|listed| listed == id).unwrap();
    assert_eq!(place(&one.microvm_id).abs_diff(place(&other.microvm_id)), 1, "{listed:?}");
    assert_eq!((count(&one.microvm_id).await, count(&one.microvm_id).await), (1, 2));
    assert_eq!(count(&other.microvm_id).await, 1);
    assert_ne!(one.endpoint, other.endpoint);

    // Pooled monitors and networks are used and made again.
    let pools = until("the pools are full again", async || {
        let status = daemon.host().get_host_status(GetHostStatusRequest {}).await.unwrap().into_inner();
        status.pools.iter().all(|pool| pool.ready >= pool.wanted).then_some(status.pools)
    })
    .await;
    assert!(!pools.is_empty());

    // One microVM is terminated from RUNNING; the other is not affected.
    daemon.terminate(&one.microvm_id).await.unwrap();
    assert_eq!(daemon.ended(&one.microvm_id).await.state(), Terminated);
    assert!(agent(&other.microvm_id).stream(8080, TEST_TIMEOUT).await.is_ok());
    assert_eq!(count(&other.microvm_id).await, 2);
    assert!(is_gone(&one.microvm_id));
    assert_eq!(entries(&daemon.site.data().join("microvms")), [other.microvm_id.as_str()]);
    daemon.finish().await;
}

#[tokio::test]
async fn a_request_while_it_is_being_suspended_is_heeded() {
    let Some(daemon) = Daemon::start().await else { return };
    let microvm = daemon.run().await;
    let id = microvm.microvm_id.as_str();
    assert_eq!(count(id).await, 1);
    // Whether the suspend was cancelled or completed, the microVM runs in the end.
    daemon.suspend(id).await.unwrap();
    daemon.resume(id).await.unwrap();
    daemon.wait(id, Running).await;
    assert_eq!(count(id).await, 2);
    daemon.finish().await;
}
