//! Guests and monitors that do not respond: their microVMs terminate nevertheless, and affect no others.

use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_proto::microvms::v1::{Microvm, MicrovmImageState};
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
async fn what_is_silent_holds_up_nobody_can_be_ended_and_ends_with_its_lifetime() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let image = impatient(&daemon).await;
    let [silent, good] = [daemon.run().await, daemon.run().await].map(|microvm| microvm.microvm_id);
    freeze(&silent);
    daemon.kill();
    daemon.restart(None).await;
    assert_eq!(count(&good).await, 1);
    // The test mostly waits for deadlines: all kinds wait at the same time.
    tokio::join!(is_looked_for(&daemon, &silent), ends(&daemon, &image, halt), ends(&daemon, &image, freeze));
    daemon.suspend(&good).await.unwrap();
    daemon.wait(&good, Suspended).await;
    daemon.finish().await;
}

/// A microVM whose monitor is silent at the start of the daemon is what the store says, until it has been looked for.
async fn is_looked_for(daemon: &Daemon, silent: &str) {
    let ended = daemon.ended(silent).await;
    assert!(ended.state_reason.unwrap().starts_with("Internal platform error: "));
    assert!(is_gone(silent));
}

/// Launches a microVM of an image and waits until it runs.
async fn run(daemon: &Daemon, image: &str) -> Microvm {
    let launched = daemon.launch(request(image)).await.unwrap();
    daemon.wait(&launched.microvm_id, Running).await
}

/// An image whose hooks have a short time to answer when a microVM is suspended or terminated.
async fn impatient(daemon: &Daemon) -> String {
    let mut create = daemon.image_request("impatient").await;
    let hooks = create.hooks.as_mut().and_then(|hooks| hooks.microvm_hooks.as_mut()).unwrap();
    hooks.suspend_timeout_in_seconds = Some(5);
    hooks.terminate_timeout_in_seconds = Some(5);
    daemon.api().create_microvm_image(create).await.unwrap();
    daemon.wait_for_image("impatient", MicrovmImageState::Created).await;
    "impatient".into()
}

/// Three microVMs of an image that `mute` silences all terminate.
async fn ends(daemon: &Daemon, image: &str, mute: fn(&str)) {
    let mut short = request(image);
    short.maximum_duration_in_seconds = Some(60);
    let short = daemon.launch(short).await.unwrap().microvm_id;
    daemon.wait(&short, Running).await;
    mute(&short);
    let [terminated, suspended] =
        [run(daemon, image).await, run(daemon, image).await].map(|microvm| microvm.microvm_id);
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
