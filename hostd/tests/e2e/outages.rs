//! The daemon is killed and started again.

use hearth_proto::microvms::v1::MicrovmState::{self, Pending, Running, Suspended, Terminated};
use tonic::{Code, Status};

use crate::support::api::request;
use crate::support::app::{ask, count};
use crate::support::{Daemon, until};

#[tokio::test]
async fn microvms_live_through_an_outage_of_the_daemon() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let mut wanted = request(&daemon.counter().await);
    wanted.client_token = Some("outage".into());
    let launched = daemon.launch(wanted.clone()).await.unwrap();
    let running = launched.microvm_id.as_str();
    daemon.wait(running, Running).await;
    let suspended = daemon.run().await.microvm_id;
    assert_eq!(count(&suspended).await, 1);
    daemon.suspend(&suspended).await.unwrap();
    daemon.wait(&suspended, Suspended).await;
    let exiting = daemon.run().await.microvm_id;
    assert_eq!(count(running).await, 1);

    daemon.kill();
    assert_eq!(count(running).await, 2, "the app does not notice");
    ask(&exiting, "GET /exit/5").await;
    daemon.restart(None).await;
    assert_eq!(daemon.wait(running, Running).await.started_at, launched.started_at);
    assert_eq!(count(running).await, 3);
    let ended = daemon.ended(&exiting).await;
    assert_eq!(ended.state_reason.as_deref(), Some("Container Stopped with Exit Code: 5"));
    daemon.resume(&suspended).await.unwrap();
    daemon.wait(&suspended, Running).await;
    assert_eq!(count(&suspended).await, 2);

    // The client token is remembered: it returns exactly the first response.
    assert_eq!(daemon.launch(wanted.clone()).await.unwrap(), launched);
    wanted.maximum_duration_in_seconds = Some(300);
    let other = daemon.launch(wanted).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    let text = "The provided clientToken was used with different request parameters.";
    assert_eq!(other.message(), text);

    // A stop by a service manager does not terminate microVMs either; adopted ones can be suspended like others.
    daemon.stop().await;
    assert_eq!(count(running).await, 4);
    daemon.restart(None).await;
    daemon.suspend(running).await.unwrap();
    daemon.wait(running, Suspended).await;
    daemon.resume(running).await.unwrap();
    daemon.wait(running, Running).await;
    assert_eq!(count(running).await, 5);
    daemon.finish().await;
}

/// A part of a microVM's life: the requested state, and the points on the way at which the daemon may die
/// (hostd/src/driver/faults.rs).
struct Leg {
    target: MicrovmState,
    points: &'static [&'static str],
}

const LEGS: [Leg; 4] = [
    Leg {
        target: Running,
        points: &[
            "accept.after-commit",
            "launch.after",
            "accept.before-commit",
            "launch.before",
            "run-hook.before",
            "run-hook.after",
            "running.before-commit",
            "running.after-commit",
        ],
    },
    Leg {
        target: Suspended,
        points: &[
            "save.before",
            "save.after",
            "suspend_hook.before-commit",
            "suspend_hook.after-commit",
            "suspend-hook.before",
            "suspend-hook.after",
            "suspended.before-commit",
            "suspended.after-commit",
        ],
    },
    Leg {
        target: Running,
        points: &[
            "restore.after",
            "resume-hook.after",
            "restoring.before-commit",
            "restoring.after-commit",
            "restore.before",
            "resume-hook.before",
            "running.before-commit",
            "running.after-commit",
        ],
    },
    Leg {
        target: Terminated,
        points: &[
            "terminate_hook.after-commit",
            "discard.after",
            "terminate_hook.before-commit",
            "terminate-hook.before",
            "terminate-hook.after",
            "discard.before",
            "terminated.before-commit",
            "terminated.after-commit",
        ],
    },
];

/// In each round a microVM passes through its life, and the daemon dies once on every leg.
#[tokio::test]
async fn a_daemon_that_dies_at_a_bad_moment_leaves_nothing_half_done() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let image = daemon.counter().await;
    let rounds = if hearth_testing::full() { LEGS[0].points.len() } else { 1 };
    for round in 0..rounds {
        let mut wanted = request(&image);
        wanted.client_token = Some(format!("round {round}"));
        let known = daemon.list().await.len();
        let (mut id, mut before): (Option<String>, Option<MicrovmState>) = (None, None);
        for leg in LEGS {
            let point = format!("microvm.{}", leg.points[round]);
            println!("round {round}: {point}");
            daemon.restart(Some(&point)).await;
            if let Some(id) = &id {
                assert_eq!(Some(daemon.settled(id).await.state()), before, "settled once, settled for ever");
            }
            let acknowledged = if let Some(id) = &id {
                go(&daemon, id, leg.target).await.is_ok()
            } else {
                let launched = daemon.launch(wanted.clone()).await;
                id = launched.as_ref().ok().map(|microvm| microvm.microvm_id.clone());
                launched.is_ok_and(|microvm| microvm.state() == Pending)
            };
            until(&format!("hearthd dies at {point}"), async || daemon.has_died().then_some(())).await;

            daemon.restart(None).await;
            // The same token identifies the same microVM, whether or not the response to its launch arrived.
            let same = daemon.launch(wanted.clone()).await.unwrap().microvm_id;
            assert_eq!(id.get_or_insert_with(|| same.clone()), &same);
            let settled = daemon.settled(&same).await;
            let (state, reason) = (settled.state(), settled.state_reason.unwrap_or_default());
            if state != leg.target {
                // A hook that may have been called is called again, and the second call of this app's /suspend fails.
                let refused =
                    leg.target == Suspended && reason.starts_with("Suspend lifecycle hook returned");
                assert!(!acknowledged || refused, "{point}: acknowledged, and {state:?} now: {reason}");
                assert_eq!(Some(state), before, "{point}: neither done nor undone");
                go(&daemon, &same, leg.target).await.unwrap();
                daemon.wait(&same, leg.target).await;
            }
            before = Some(leg.target);
            assert_eq!(daemon.list().await.len(), known + 1);
            if leg.target == Running {
                assert!(count(&same).await > 0);
            }
        }
    }
    daemon.finish().await;
}

/// Sends the request that leads to a state.
async fn go(daemon: &Daemon, id: &str, to: MicrovmState) -> Result<(), Status> {
    match to {
        Running => daemon.resume(id).await,
        Suspended => daemon.suspend(id).await,
        _ => daemon.terminate(id).await,
    }
}
