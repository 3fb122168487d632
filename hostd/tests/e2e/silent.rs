//! Guests and monitors that do not respond: their microVMs terminate nevertheless, and affect no others.

use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended, Terminated};
use hearth_vmm_client::Client;

use crate::support::Daemon;
use crate::support::api::request;
use crate::support::app::{control_socket, count};
use crate::support::traces::{is_gone, monitor_of, silence};

/// Pauses a guest: its monitor accepts connections to the agent, which never responds.
fn halt(id: &str) {
    Client::connect(control_socket(id)).unwrap().pause().unwrap();
}

/// Stops a monitor process, and its guest with it.
fn freeze(id: &str) {
    silence(monitor_of(id));
}

#[tokio::test]
async fn what_is_silent_can_be_ended_and_ends_with_its_lifetime() {
    let Some(daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    // The test mostly waits for deadlines: both kinds wait at the same time.
    tokio::join!(ends(&daemon, &image, halt), ends(&daemon, &image, freeze));
    daemon.finish().await;
}

/// Three microVMs of an image that `mute` silences all terminate.
async fn ends(daemon: &Daemon, image: &str, mute: fn(&str)) {
    let mut short = request(image);
    short.maximum_duration_in_seconds = Some(60);
    let short = daemon.launch(short).await.unwrap().microvm_id;
    daemon.wait(&short, Running).await;
    mute(&short);
    let [terminated, suspended] = [daemon.run().await, daemon.run().await].map(|microvm| microvm.microvm_id);
    mute(&terminated);
    daemon.terminate(&terminated).await.unwrap();
    let ended = daemon.ended(&terminated).await;
    assert_eq!(ended.state_reason.as_deref(), Some("Success."));

    // The call of /suspend times out: the microVM runs on, as after a slow app, and can be terminated.
    mute(&suspended);
    daemon.suspend(&suspended).await.unwrap();
    let reason = daemon.wait(&suspended, Running).await.state_reason.unwrap();
    assert!(reason.starts_with("Suspend lifecycle hook timed out."), "{reason}");
    daemon.terminate(&suspended).await.unwrap();
    daemon.ended(&suspended).await;

    let ended = daemon.ended(&short).await;
    assert_eq!(ended.state_reason.as_deref(), Some("MicroVM exceeded maximum lifetime."));
    for id in [&short, &terminated, &suspended] {
        assert!(is_gone(id), "{id}");
    }
}

#[tokio::test]
async fn a_monitor_that_is_silent_holds_up_no_daemon_that_starts() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let [silent, good] = [daemon.run().await, daemon.run().await].map(|microvm| microvm.microvm_id);
    freeze(&silent);
    daemon.kill();
    daemon.restart(None).await;
    assert_eq!(count(&good).await, 1);
    let ended = daemon.wait(&silent, Terminated).await;
    assert!(ended.state_reason.unwrap().starts_with("Internal platform error: "));
    assert!(is_gone(&silent));
    daemon.suspend(&good).await.unwrap();
    daemon.wait(&good, Suspended).await;
    daemon.finish().await;
}
