//! Clients that take little or nothing of their responses.

use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A connection whose requests are answered with [`SIZE`] bytes.
fn large() -> Opened {
    open(None, || async { Response::new(Full::new(Bytes::from(vec![b'a'; SIZE]))) })
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_window_is_not_kept() {
    let Opened { mut client, served, _end } = large();
    let idle = limits().1;
    let began = Instant::now();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0; the request is `:method: GET`, `:scheme: http`, `:path: /`.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let request = frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
    let bytes = [PREFACE, &settings[..], &request].concat();
    client.write_all(&bytes).await.unwrap();
    assert_eq!(attend(&mut client).await, 0);
    served.await.unwrap();
    assert!(began.elapsed() >= idle && began.elapsed() <= idle + END + END, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_response_is_not_kept() {
    let Opened { mut client, served, _end } = large();
    let idle = limits().1;
    let began = Instant::now();
    client.write_all(GET).await.unwrap();
    served.await.unwrap();
    // A timer of HTTP may wake the connection once, which then takes what still fits into its buffers.
    assert!(began.elapsed() >= idle && began.elapsed() <= 2 * (idle + END), "{:?}", began.elapsed());
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await; // however it ends
    assert!(answer.len() < SIZE);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_its_response() {
    let Opened { mut client, served, _end } = large();
    let idle = limits().1;
    client.write_all(GET).await.unwrap();
    let (mut answer, mut part, began) = (0, vec![0; 32 << 10], Instant::now());
    while client.read_exact(&mut part).await.is_ok() {
        answer += part.len();
        sleep(idle / 4).await;
    }
    served.await.unwrap();
    assert_eq!(answer, SIZE, "the last part, which is not full, is as long as the head");
    assert!(began.elapsed() > 5 * idle);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_is_no_idleness() {
    let Opened { mut client, served, _end } = open(None, || async {
        sleep(10 * limits().1).await;
        Response::new(Full::new(Bytes::from_static(b"late")))
    });
    client.write_all(GET).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("late"), "{text}");
    served.await.unwrap();
}

/// A stream of events: one now and then, and the connection lives as long as the client takes them.
#[tokio::test(start_paused = true)]
async fn a_response_that_waits_for_this_host_keeps_its_connection() {
    const EVENTS: usize = 5;
    let Opened { mut client, served, _end } = open(None, || async {
        let events = futures_util::stream::unfold(0, |number| async move {
            sleep(10 * limits().1).await;
            let event = Bytes::from(vec![b'a'; 10]);
            (number < EVENTS).then(|| (Ok::<_, Infallible>(Frame::data(event)), number + 1))
        });
        Response::new(StreamBody::new(Box::pin(events)))
    });
    let began = Instant::now();
    let request = frame(raw::HEADERS, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
    client.write_all(&[PREFACE, &frame(raw::SETTINGS, 0, 0, &[]), &request].concat()).await.unwrap();
    assert_eq!(attend(&mut client).await, 10 * EVENTS);
    served.await.unwrap();
    assert!(began.elapsed() >= 10 * 5 * limits().1, "{:?}", began.elapsed());
}
