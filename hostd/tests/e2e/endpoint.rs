//! Endpoints: requests from outside to the apps of microVMs.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use hearth_proto::microvms::v1::MicrovmState::{Running, Suspended};
use hearth_proto::microvms::v1::{IdlePolicy, MicrovmState};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::api::request;
use crate::support::endpoint::Endpoint;
use crate::support::{Daemon, until};

/// Number of requests in a wave; below, the number of waves.
const WAVE: usize = 12;
const WAVES: usize = 4;

async fn state(daemon: &Daemon, id: &str) -> MicrovmState {
    daemon.get(id).await.unwrap().state()
}

#[tokio::test]
async fn an_app_answers_at_its_endpoint_and_wakes_up_for_a_request() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let mut wanted = request(&daemon.counter().await);
    let connector =
        |name| format!("arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:{name}");
    wanted.ingress_network_connectors = ["HTTP_INGRESS", "SHELL_INGRESS"].map(connector).to_vec();
    wanted.idle_policy = Some(IdlePolicy {
        max_idle_duration_seconds: Some(60),
        suspended_duration_seconds: Some(3600),
        auto_resume_enabled: Some(true),
    });
    let launched = daemon.launch(wanted).await.unwrap();
    let id = launched.microvm_id.as_str();
    let endpoint = Endpoint::of(&daemon, &launched).await;
    // A request that arrives before the microVM runs waits for it.
    assert_eq!(endpoint.count().await, 1);
    assert_eq!(state(&daemon, id).await, Running);
    assert_eq!(endpoint.count().await, 2);
    let refused = endpoint.send("GET", "/", "no token").await;
    assert_eq!(refused, (403, "Request missing authentication".to_owned()));
    let hook = "/aws/lambda-microvms/runtime/v1/terminate";
    assert_eq!(endpoint.send("POST", hook, &endpoint.token).await.0, 403);

    // A suspended microVM is resumed by an authorized request only.
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Suspended).await;
    assert_eq!(endpoint.send("GET", "/", "no token").await.0, 403);
    assert_eq!(state(&daemon, id).await, Suspended);
    let counts = tokio::join!(endpoint.count(), endpoint.count(), endpoint.count());
    let mut counts = [counts.0, counts.1, counts.2];
    counts.sort_unstable();
    assert_eq!(counts, [3, 4, 5]);
    assert_eq!(state(&daemon, id).await, Running);

    // This app's second /suspend fails, and it runs on.
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Running).await;
    // Each wave of requests finds the microVM suspended, with another suspend in its midst: every request gets
    // exactly one response.
    let mut counts = Vec::new();
    for _ in 0..WAVES {
        let _ = daemon.suspend(id).await; // the microVM may be suspended already
        daemon.wait(id, Suspended).await;
        let wave = join_all((0..WAVE).map(|_| async { [endpoint.count().await, endpoint.count().await] }));
        let (wave, _) = tokio::join!(wave, daemon.suspend(id));
        counts.extend(wave.into_iter().flatten());
    }
    counts.sort_unstable();
    assert_eq!(counts, (6..).take(2 * WAVE * WAVES).collect::<Vec<_>>());
    let mut last = counts.last().copied().unwrap();

    // A program in the app's container has the app's environment.
    last += 1;
    assert_eq!(
        endpoint.run(&["/counter", "ask", "/"]).await,
        (format!("request {last} of this microVM's life\r\n"), 0)
    );

    // With pipes, its bytes pass as they are, and its input ends.
    let bytes: Vec<u8> =
        (0..2_u32 << 20).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let piped = endpoint.pipe(&["/counter", "copy"], &bytes).await;
    assert!(piped.stdout == bytes, "{} of {} bytes", piped.stdout.len(), bytes.len());
    assert_eq!((piped.stderr.as_str(), piped.code), ("copied 8388608 bytes\n", Some(0)));
    let piped = endpoint.pipe(&["/absent"], b"").await;
    assert_eq!((piped.stderr.as_str(), piped.code), ("no such file: /absent\n", Some(127)));

    // Another daemon takes over; tokens stay valid.
    daemon.kill();
    daemon.restart(None).await;
    assert_eq!(state(&daemon, id).await, Running);
    assert_eq!(endpoint.count().await, last + 1);
    assert_eq!(endpoint.message().await, format!("request {} of this microVM's life", last + 2));
    assert_eq!(endpoint.count_up(2).await, [last + 3, last + 4].map(|count| u8::try_from(count).unwrap()));

    if hearth_testing::full() {
        // Nothing passes the gate for a minute.
        tokio::time::sleep(Duration::from_secs(55)).await;
        assert_eq!(state(&daemon, id).await, Running);
        until("it is suspended", async || (state(&daemon, id).await == Suspended).then_some(())).await;
        assert_eq!(endpoint.count().await, last + 5);
    }
    // A suspend ends a program's connection, which nobody takes for its exit.
    let mut socket = endpoint.pipes(&["/counter", "copy"]).await;
    socket.send(Message::binary(&b"\0x\n"[..])).await.unwrap();
    until("the program runs", async || {
        let message = socket.next().await.unwrap().unwrap();
        (message == Message::binary(&b"\x01x\n"[..])).then_some(())
    })
    .await;
    daemon.suspend(id).await.unwrap();
    daemon.wait(id, Suspended).await;
    let rest: Vec<_> = socket.filter_map(async |message| message.ok()).collect().await;
    assert!(!rest.iter().any(|message| message.is_text()), "no exit status: {rest:?}");
    assert!(
        matches!(rest.last(), Some(Message::Close(Some(frame))) if frame.code == CloseCode::Error),
        "{rest:?}"
    );
    daemon.terminate(id).await.unwrap();
    daemon.ended(id).await;
    assert_eq!(endpoint.get("/").await, (502, String::new()));
    daemon.finish().await;
}
