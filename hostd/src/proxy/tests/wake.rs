//! Requests to microVMs that are suspended, or about to be.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::*;

/// The operations that the host performs when a microVM is run, and when it is suspended.
const RUN: [Point; 2] = [Point::Launch, Point::Hook(Hook::Run)];
const SUSPEND: [Point; 2] = [Point::Hook(Hook::Suspend), Point::Save];

#[tokio::test]
async fn a_request_wakes_a_microvm_and_all_that_come_meanwhile_wait_for_the_one_resume() {
    let host = Host::new().await;
    let client = host.http2().await;
    assert_eq!(text(client.clone().send(host.get("/count")).await).await, "0");
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    host.platform.always(Point::Resume, Deviation::Hangs);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (mut client, request) = (client.clone(), host.get("/count"));
            tokio::spawn(async move { text(client.send(request).await).await })
        })
        .collect();
    let gate = host.microvms.gate("microvm-1").unwrap();
    host.when(|_| gate.counts() == (0, 0, 50)).await;
    host.platform.release(Point::Resume);
    let mut counts = Vec::new();
    for one in waiting {
        counts.push(one.await.unwrap().parse::<usize>().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=50).collect::<Vec<_>>());
    assert_eq!(host.operations(), [RUN, SUSPEND, [Point::Resume, Point::Hook(Hook::Resume)]].concat());
    host.when(|_| gate.counts() == (0, 0, 0)).await;
}

#[tokio::test]
async fn only_so_many_wait() {
    let host = Host::with(Wish { held: 3, ..Wish::default() }).await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    host.platform.always(Point::Resume, Deviation::Hangs);
    let client = host.http2().await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (mut client, request) = (client.clone(), host.get("/count"));
            tokio::spawn(async move { client.send(request).await.status() })
        })
        .collect();
    let gate = host.microvms.gate("microvm-1").unwrap();
    host.when(|_| gate.counts().2 == 3).await;
    let response = client.clone().send(host.get("/count")).await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(refusal(response).await, (429, "TOO_MANY_REQUESTS".to_owned(), String::new()));
    host.platform.release(Point::Resume);
    for one in waiting {
        assert_eq!(one.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn nobody_without_a_token_wakes_a_microvm() {
    let host = Host::new().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    let mut client = host.http1().await;
    let mut request = host.get("/count");
    request.headers_mut().remove("x-aws-proxy-auth");
    assert_eq!(client.send(request).await.status(), 403);
    let mut request = host.get("/count");
    request.headers_mut().insert("x-aws-proxy-port", "80".parse().unwrap());
    assert_eq!(client.send(request).await.status(), 403);
    assert_eq!((host.state(), host.operations().len()), (MicrovmState::Suspended, 4));
}

#[tokio::test]
async fn without_auto_resume_a_suspended_microvm_does_not_answer() {
    let host = Host::with(Wish { auto_resume: false, ..Wish::default() }).await;
    let mut client = host.http2().await;
    assert_eq!(client.send(host.get("/count")).await.status(), 200);
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    let expected = (502, "MICROVM_CONNECT_FAILED".to_owned(), String::new());
    assert_eq!(refusal(client.send(host.get("/count")).await).await, expected);
    host.ask(Ask::Resume).await;
    host.until(MicrovmState::Running).await;
    assert_eq!(text(client.send(host.get("/count")).await).await, "1");
}

#[tokio::test]
async fn a_resume_that_fails_is_told_and_the_next_request_tries_again() {
    let host = Host::new().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    host.platform.once(Point::Resume, Deviation::Fails("its memory cannot be read"));
    let mut client = host.http2().await;
    let expected = (502, "MICROVM_CONNECT_FAILED".to_owned(), String::new());
    assert_eq!(refusal(client.send(host.get("/count")).await).await, expected);
    assert_eq!(text(client.send(host.get("/count")).await).await, "0");
}

#[tokio::test]
async fn a_suspend_waits_for_what_the_app_has_to_answer() {
    let host = Host::new().await;
    let mut client = host.http2().await;
    let request = host.get("/slow");
    let slow = tokio::spawn(async move { text(client.send(request).await).await });
    host.app.arrived.notified().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspending).await;
    assert_eq!(host.operations(), RUN, "the app has not heard of it");
    host.app.go.add_permits(1);
    assert_eq!(slow.await.unwrap(), "slow");
    host.until(MicrovmState::Suspended).await;
    assert_eq!(host.operations(), [RUN, SUSPEND].concat());
}

#[tokio::test]
async fn a_request_during_a_suspend_cancels_it() {
    let host = Host::new().await;
    let client = host.http2().await;
    let (mut first, request) = (client.clone(), host.get("/slow"));
    let slow = tokio::spawn(async move { text(first.send(request).await).await });
    host.app.arrived.notified().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspending).await;
    assert_eq!(text(client.clone().send(host.get("/count")).await).await, "0");
    assert_eq!((host.state(), host.operations().len()), (MicrovmState::Running, 2), "nothing was called");
    host.app.go.add_permits(1);
    assert_eq!(slow.await.unwrap(), "slow");
}

#[tokio::test]
async fn a_silent_answer_does_not_keep_a_microvm_from_being_suspended_and_ends_with_it() {
    let host = Host::new().await;
    let mut body = host.http2().await.send(host.get("/stream")).await.into_body();
    body.frame().await.unwrap().unwrap();
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    assert!(body.frame().await.unwrap().is_err(), "it breaks off");
}

#[tokio::test]
async fn an_open_websocket_that_is_silent_ends_with_the_suspend() {
    let host = Host::new().await;
    // Whether the microVM's process is gone as soon as it is saved, or not.
    for way in [None, Some(Deviation::RunsOn)] {
        let mut socket = host.chat().await;
        socket.send(Message::text("a")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
        if let Some(way) = way {
            host.platform.once(Point::Save, way);
        }
        host.ask(Ask::Suspend).await;
        host.until(MicrovmState::Suspended).await;
        let end = tokio::time::timeout(LONG, socket.next()).await.expect("it stays open");
        assert!(end.is_none_or(|end| end.is_err()));
        // It ends for the endpoint as well.
        drop(socket);
        host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 0\n")).await;
        assert_eq!(text(host.http2().await.send(host.get("/headers")).await).await.lines().count(), 4);
        host.when(|host| host.metrics.text().unwrap().contains("hearth_endpoint_connections 0\n")).await;
    }
}

#[tokio::test]
async fn a_websocket_outlives_a_suspend_that_is_cancelled() {
    let host = Host::new().await;
    let mut socket = host.chat().await;
    let mut client = host.http2().await;
    let request = host.get("/slow");
    let slow = tokio::spawn(async move { text(client.send(request).await).await });
    host.app.arrived.notified().await;
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspending).await;
    assert_eq!(host.http1().await.send(host.get("/count")).await.status(), 200);
    host.app.go.add_permits(1);
    assert_eq!(slow.await.unwrap(), "slow");
    assert_eq!(host.state(), MicrovmState::Running);
    socket.send(Message::text("a")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
}

#[tokio::test]
async fn the_next_stream_of_a_connection_whose_stream_a_suspend_has_ended_wakes_the_microvm() {
    let host = Host::new().await;
    let client = host.http2().await;
    let mut body = client.clone().send(host.get("/stream")).await.into_body();
    body.frame().await.unwrap().unwrap();
    host.ask(Ask::Suspend).await;
    host.until(MicrovmState::Suspended).await;
    assert!(body.frame().await.unwrap().is_err(), "it breaks off");
    assert_eq!(text(client.clone().send(host.get("/count")).await).await, "0");
    assert_eq!(host.state(), MicrovmState::Running);
}

#[tokio::test]
async fn requests_are_not_lost_while_a_microvm_is_suspended_and_resumed() {
    const CLIENTS: usize = 20;
    // 10,000 requests in all, or a fifth of them in the short test run.
    let each = if hearth_testing::full() { 500 } else { 100 };
    let host = Arc::new(Host::new().await);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let host = Arc::clone(&host);
            tokio::spawn(async move {
                let client = host.http2().await;
                for _ in 0..each {
                    let request = if number % 2 == 0 {
                        host.request("POST", "/echo", full("x".repeat(10_000)))
                    } else {
                        host.get("/count")
                    };
                    let response = client.clone().send(request).await;
                    assert_eq!(response.status(), 200, "{response:?}");
                    text(response).await;
                }
            })
        })
        .collect();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (suspending, ended) = (Arc::clone(&host), Arc::clone(&over));
    let suspender = tokio::spawn(async move {
        let mut suspends = 0;
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            if suspending.microvms.request(ACCOUNT, "microvm-1", Ask::Suspend).await.is_ok() {
                suspends += 1;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        suspends
    });
    for client in clients {
        client.await.unwrap();
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let suspends = suspender.await.unwrap();
    assert!(suspends > 1, "{suspends}");
    assert_eq!(host.app.count.load(std::sync::atomic::Ordering::SeqCst), CLIENTS / 2 * each);
}
